//! What a JSON file is that was given in the place of another: the files that this program writes and prints are known by
//! their keys, so that a mix-up is named instead of a missing field.

use serde_json::Value;

/// A kind of file.
pub(super) struct Kind {
    /// With its article.
    pub name: &'static str,
    /// Where it is to be given, or what it is for.
    pub advice: &'static str,
    is: fn(&Value) -> bool,
}

/// Tried in this order.
const KINDS: [Kind; 13] = [
    Kind {
        name: "a latency file (the output of `shearling bench latency --json`)",
        advice: "give it with --latency",
        is: |value| a_model_has(value, "decode") || has(value, &["memory_bandwidth_bytes_per_second"]),
    },
    Kind {
        name: "an evaluation (the output of `shearling eval --json`)",
        advice: "give it with --eval",
        is: |value| a_model_has(value, "domains") || has(value, &["tasks", "models"]),
    },
    Kind {
        name: "a file of reference losses (of `shearling eval --write-reference`)",
        advice: "it is for mixer.reference_file in a configuration",
        is: |value| has(value, &["reference_loss"]),
    },
    Kind {
        name: "the data of a report (the output of `shearling report --json`)",
        advice: "the report makes it anew from the run folders",
        is: |value| has(value, &["answers", "figures"]),
    },
    Kind {
        name: "the history of a run (the output of `shearling inspect run --json`)",
        advice: "give the run folder itself",
        is: |value| has(value, &["summary", "evaluations", "steps"]),
    },
    Kind {
        name: "the state of masks (the output of `shearling inspect masks --json`)",
        advice: "the report reads masks from the run folder",
        is: |value| has(value, &["plan", "layers", "report"]),
    },
    Kind {
        name: "the state of a run (the output of `shearling watch --json`)",
        advice: "give the run folder itself",
        is: |value| has(value, &["running", "finished", "run"]),
    },
    Kind {
        name: "a plan (the output of `shearling plan --json`)",
        advice: "a report has no place for it",
        is: |value| has(value, &["training_flops", "memory"]),
    },
    Kind {
        name: "a step benchmark (the output of `shearling bench step --json`)",
        advice: "a report shows `shearling bench latency` only",
        is: |value| has(value, &["tokens_per_step", "step_ms"]),
    },
    Kind {
        name: "a kernel check (the output of `shearling bench check --json`)",
        advice: "a report shows `shearling bench latency` only",
        is: |value| has(value, &["passed", "checks"]),
    },
    Kind {
        name: "a record of metrics.jsonl",
        advice: "give the run folder itself",
        is: |value| has(value, &["type", "step"]),
    },
    Kind {
        name: "the config.json of a model",
        advice: "a report has no place for it",
        is: |value| has(value, &["model_type"]) || has(value, &["architectures"]),
    },
    Kind {
        name: "a manifest of prepared data",
        advice: "a report has no place for it",
        is: |value| has(value, &["domains", "sequence_length"]) || has(value, &["fingerprint", "manifest"]),
    },
];

/// What a file that begins with this JSON value is, where it is one of ours.
pub(super) fn of(text: &[u8]) -> Option<&'static Kind> {
    // The first value of a file: metrics.jsonl has one in every line.
    let value = serde_json::Deserializer::from_slice(text).into_iter::<Value>().next()?.ok()?;
    KINDS.iter().find(|kind| (kind.is)(&value))
}

fn has(value: &Value, keys: &[&str]) -> bool {
    value.is_object() && keys.iter().all(|key| value.get(key).is_some())
}

fn a_model_has(value: &Value, key: &str) -> bool {
    value["models"].as_array().and_then(|models| models.first()).is_some_and(|model| model.get(key).is_some())
}
