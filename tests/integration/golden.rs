//! The masked model and the cut are the original's: every number of its own modules that involves the model.

use super::support::{apart, fixture, load, logits, tensors, trained_loss};
use serde_json::{Value, json};
use shearling::files::DType;
use shearling::hf::Checkpoint;
use shearling::prune::{CheckRows, Conversion, convert, shape};
use shearling_masks::{Gates, KeepPlan, MaskSpec};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-5;

/// The source as a Hugging Face folder.
fn source(folder: &Path) {
    let text = std::fs::read_to_string(fixture("llm-shearing/reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let c = &reference["config"];
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": c["vocab_size"], "hidden_size": c["hidden_size"], "intermediate_size": c["intermediate_size"],
        "num_hidden_layers": c["num_hidden_layers"], "num_attention_heads": c["num_attention_heads"],
        "head_dim": c["head_dim"], "rms_norm_eps": c["rms_norm_eps"], "rope_theta": c["rope_theta"],
        "max_position_embeddings": 64, "tie_word_embeddings": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture("llm-shearing/source.safetensors"), folder.join("model.safetensors")).unwrap();
}

fn reference() -> (Value, std::collections::BTreeMap<String, Tensor>) {
    let text = std::fs::read_to_string(fixture("llm-shearing/reference.json")).unwrap();
    (serde_json::from_str(&text).unwrap(), tensors(&fixture("llm-shearing/reference.safetensors")))
}

/// The original's gates under our names: its heads are our key/value groups, as every head has its own.
fn gates(values: &std::collections::BTreeMap<String, Tensor>) -> Gates {
    let gate = |name: &str, shape: &[i64]| {
        Some(values[&format!("deterministic_target.{name}")].view(shape).set_requires_grad(true))
    };
    Gates {
        layer: gate("layer", &[4]),
        kv_head: gate("head", &[4, 4]),
        query_head: None,
        intermediate: gate("intermediate", &[4, 48]),
        hidden: gate("hidden", &[32]),
        ..Gates::none()
    }
}

fn spec(source: &Checkpoint) -> MaskSpec {
    let target = shearling::config::Target {
        hidden_size: Some(16),
        intermediate_size: Some(32),
        num_hidden_layers: Some(3),
        num_attention_heads: Some(2),
        ..Default::default()
    };
    shape::mask_spec(source.model(), &target).unwrap()
}

#[test]
fn masked_logits_and_their_gradients_are_the_originals() {
    let folder = tempfile::tempdir().unwrap();
    source(folder.path());
    let (json, values) = reference();
    let loaded = load(folder.path());
    let input_ids = values["input_ids"].to_kind(Kind::Int64);
    assert!(apart(&logits(&loaded, &input_ids, Gates::none()), &values["dense_logits"]) < TOLERANCE, "dense");

    let gates = gates(&values);
    let masked = logits(&loaded, &input_ids, gates.shallow_clone());
    assert!(apart(&masked, &values["masked_logits"]) < TOLERANCE, "masked");
    let mean = trained_loss(&loaded, &input_ids, &gates);
    assert!((mean - json["masked_loss"].as_f64().unwrap()).abs() < TOLERANCE, "loss");

    let named = [
        ("layer", &gates.layer),
        ("head", &gates.kv_head),
        ("intermediate", &gates.intermediate),
        ("hidden", &gates.hidden),
    ];
    for (name, gate) in named {
        let expected = &values[&format!("masked_loss_grad.{name}")];
        let found = gate.as_ref().unwrap().grad().view(&expected.size()[..]);
        assert!(apart(&found, expected) < TOLERANCE, "gradient of {name}");
    }
}

#[test]
fn pruned_weights_and_logits_are_the_originals() {
    let folder = tempfile::tempdir().unwrap();
    source(folder.path());
    let (json, values) = reference();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (spec, gates) = (spec(&checkpoint), gates(&values).detach().unwrap());
    let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
    let kept: Vec<i64> = plan.layers.iter().map(|layer| layer.source_index).collect();
    assert_eq!(json!(kept), json["kept_layers"]);

    let rows = values["input_ids"].to_kind(Kind::Int64);
    let conversion = Conversion {
        source: &checkpoint,
        companions: folder.path(),
        spec: &spec,
        gates: &gates,
        plan: &plan,
        dtype: DType::F32,
        max_shard_bytes: 20_000,
        check_rows: &CheckRows::unnamed(rows.shallow_clone()),
        device: Device::Cpu,
        unproven: false,
    };
    let out = folder.path().join("pruned");
    let equivalence = convert(&conversion, &out, Default::default(), &mut |_, _, _| {}).unwrap();
    let equivalence = equivalence.equivalence;
    assert!(equivalence.folded < 1e-12 && equivalence.rounding.written.mean_kl < 1e-9, "{equivalence}");
    assert!(out.join("model.safetensors.index.json").is_file(), "small shards make an index");

    let pruned = Checkpoint::open(&out).unwrap();
    let expected = tensors(&fixture("llm-shearing/pruned.safetensors"));
    assert_eq!(pruned.names().count(), expected.len());
    for (name, weight) in &expected {
        let found = pruned.tensor(name, Kind::Float, Device::Cpu).unwrap();
        assert!(apart(&found, weight) < TOLERANCE, "{name}");
    }
    let found = logits(&load(&out), &rows, Gates::none());
    assert!(apart(&found, &values["pruned_logits"]) < TOLERANCE, "pruned logits");
    assert!(apart(&found, &values["masked_logits"]) < TOLERANCE, "pruned against masked");
}
