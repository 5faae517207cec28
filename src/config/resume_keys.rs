//! Which keys may change when a run is resumed: the one list behind the check, `--help` and the messages. The guide to
//! resuming has the same list with reasons, and a test that compares the two.

use super::{Error, RunConfig};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How a key may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// To any value.
    Freely,
    /// To a smaller number.
    Down,
    /// To a larger number.
    Up,
}

/// The keys that may change when a run is resumed; every other key makes another run.
const RESUME_KEYS: &[(&str, Change)] = &[
    ("run.device", Change::Freely),
    ("run.threads", Change::Freely),
    ("run.tensorboard", Change::Freely),
    // The files may have moved; what is in them is compared with what the checkpoint says.
    ("model.source", Change::Freely),
    ("distill.teacher", Change::Freely),
    ("data.path", Change::Freely),
    // What runs out of data is told to raise it.
    ("data.max_epochs", Change::Up),
    ("data.prefetch", Change::Freely),
    // Fewer than are done are refused where that is known.
    ("train.steps", Change::Freely),
    // What runs out of memory is told to lower it.
    ("train.micro_batch_rows", Change::Freely),
    ("train.activation_checkpointing", Change::Freely),
    ("train.moments_on_host", Change::Freely),
    ("train.selective_recomputation", Change::Freely),
    ("train.max_skipped_steps", Change::Freely),
    ("train.divergence", Change::Freely),
    // What diverges is told to lower it.
    ("train.learning_rate", Change::Down),
    ("masks.learning_rate", Change::Down),
    ("masks.multiplier_learning_rate", Change::Down),
    ("lte.router_learning_rate", Change::Down),
    // How the cut is written and checked comes after the run; whether it is learned is the run.
    ("prune.dtype", Change::Freely),
    ("prune.check_rows", Change::Freely),
    ("prune.unproven", Change::Freely),
    ("checkpoint.every_steps", Change::Freely),
    ("checkpoint.max_shard_bytes", Change::Freely),
    ("checkpoint.export_dtype", Change::Freely),
    // A run may be resumed with another number of ranks.
    ("dist.strategy", Change::Freely),
    ("dist.timeout_seconds", Change::Freely),
];

impl Change {
    fn allows(self, saved: Option<&Value>, now: Option<&Value>) -> bool {
        let numbers = saved.and_then(Value::as_f64).zip(now.and_then(Value::as_f64));
        match self {
            Change::Freely => true,
            Change::Down => numbers.is_some_and(|(saved, now)| now < saved),
            Change::Up => numbers.is_some_and(|(saved, now)| now > saved),
        }
    }

    /// What a change that is refused lacks.
    fn limit(self) -> &'static str {
        match self {
            Change::Freely => "",
            Change::Down => " (it may only be lowered)",
            Change::Up => " (it may only be raised)",
        }
    }

    fn named(self, key: &str) -> String {
        match self {
            Change::Freely => key.to_string(),
            Change::Down => format!("{key} (lower)"),
            Change::Up => format!("{key} (higher)"),
        }
    }
}

/// The keys that may change when a run is resumed, for people.
pub fn resumable() -> String {
    RESUME_KEYS.iter().map(|(key, change)| change.named(key)).collect::<Vec<_>>().join(", ")
}

/// What differs between a saved configuration and the one to resume with, and must not; each with both values. The place
/// of the run folder is not compared: a folder may be moved.
pub fn refused_changes(saved: &RunConfig, now: &RunConfig) -> Result<Vec<String>, Error> {
    let (saved, now) = (comparable(saved)?, comparable(now)?);
    let keys: BTreeSet<&String> = saved.keys().chain(now.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or("absent".to_string(), Value::to_string);
    let rule = |key: &String| RESUME_KEYS.iter().find(|(known, _)| known == key).map(|(_, change)| *change);
    let refused = |key: &&String| {
        let (saved, now) = (saved.get(*key), now.get(*key));
        saved != now && !rule(key).is_some_and(|change| change.allows(saved, now))
    };
    let told = |key: &String| {
        let limit = rule(key).map_or("", Change::limit);
        format!("{key}: was {}, now {}{limit}", shown(saved.get(key)), shown(now.get(key)))
    };
    Ok(keys.into_iter().filter(refused).map(told).collect())
}

/// Dotted keys and values of a configuration.
fn comparable(config: &RunConfig) -> Result<BTreeMap<String, Value>, Error> {
    let mut config = config.clone();
    config.run.directory = Default::default();
    if config.target.is_some() && !config.cuts_at_once() {
        // Written out: it must not follow a number of steps that is raised.
        config.masks.warmup_steps = Some(config.masks.target_warmup(config.train.steps));
        config.masks.learning_rate = Some(config.masks.peak_learning_rate(config.train.steps));
        config.masks.multiplier_learning_rate = Some(config.masks.peak_multiplier_rate(config.train.steps));
        config.masks.init = Some(config.masks.start());
        config.prune.basis = Some(config.hidden_basis());
    }
    config.lte = config.lte.as_ref().map(|lte| lte.resolved(&config.train));
    let value = serde_json::to_value(config)
        .map_err(|error| Error::Parse { origin: "resolved configuration".to_string(), message: error.to_string() })?;
    let mut keys = BTreeMap::new();
    flatten("", value, &mut keys);
    Ok(keys)
}

fn flatten(prefix: &str, value: Value, keys: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&key, value, keys);
            }
        }
        value => {
            keys.insert(prefix.to_string(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{known_keys, parse};

    const CONFIG: &str = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                          [train]\nsteps = 40\nbatch_rows = 2\nlearning_rate = 0.1\n";

    fn refused(set: &str) -> Vec<String> {
        let saved = parse(CONFIG, "saved", &[]).unwrap();
        refused_changes(&saved, &parse(CONFIG, "now", &[set.to_string()]).unwrap()).unwrap()
    }

    #[test]
    fn every_key_of_the_list_exists() {
        let known = known_keys();
        for (key, _) in RESUME_KEYS {
            assert!(known.iter().any(|known| known == key), "{key}");
        }
    }

    #[test]
    fn what_may_change_may_change_in_the_named_direction() {
        let free = [
            "run.device=cpu",
            "run.threads=3",
            "run.directory=b",
            "data.path=e",
            "checkpoint.every_steps=3",
            "prune.dtype=fp16",
        ];
        for set in free.into_iter().chain([
            "train.moments_on_host=true",
            "train.selective_recomputation=true",
            "train.learning_rate=0.05",
            "data.max_epochs=5",
            "train.steps=20",
        ]) {
            assert!(refused(set).is_empty(), "{set}: {:?}", refused(set));
        }
        for (set, expected) in [
            ("train.learning_rate=0.2", "train.learning_rate: was 0.1, now 0.2 (it may only be lowered)"),
            ("train.moments=bf16", "train.moments: was \"fp32\", now \"bf16\""),
            ("prune.method=magnitude", "prune.method: was absent, now \"magnitude\""),
            ("mixer.cap=0.5", "mixer.cap: was absent, now 0.5"),
            ("distill.weight=0.5", "distill.weight: was absent, now 0.5"),
        ] {
            assert!(refused(set).contains(&expected.to_string()), "{set}: {:?}", refused(set));
        }
    }

    #[test]
    fn more_steps_do_not_stretch_the_warm_up_of_the_masks() {
        assert!(refused("train.steps=80").is_empty());
        let text = format!("{CONFIG}[target]\nhidden_size = 8\n[prune]\nmethod = 'learned'\n");
        let saved = parse(&text, "saved", &[]).unwrap();
        let more = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            refused_changes(&saved, &parse(&text, "now", &sets).unwrap()).unwrap()
        };
        assert_eq!(more(&["train.steps=80"]), ["masks.warmup_steps: was 8, now 16"]);
        assert!(more(&["train.steps=80", "masks.warmup_steps=8"]).is_empty());
    }

    #[test]
    fn the_guide_to_resuming_has_the_same_list() {
        let guide = include_str!("../../docs/guides/resume.md");
        let rows = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let known = known_keys();
        let told: BTreeSet<&str> =
            rows.map(|(key, _)| key).filter(|key| known.iter().any(|known| known == key)).collect();
        let listed: BTreeSet<&str> = RESUME_KEYS.iter().map(|(key, _)| *key).collect();
        assert_eq!(told, listed);
    }
}
