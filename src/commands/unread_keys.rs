//! Keys that were given and that a cut at once does not read: it takes no step and learns no masks.

use crate::cli::arguments::ConfigArguments;
use crate::config::{self, RunConfig};

/// Tables of a run that trains.
const OF_TRAINING: [&str; 3] = ["train.", "masks.", "distill."];
/// Keys among them that a cut reads all the same: rows per forward while units are scored.
const READ: [&str; 2] = ["train.micro_batch_rows", "train.batch_rows"];

/// What to say of them, where there are any.
pub(super) fn unread_keys(config: &RunConfig, arguments: &ConfigArguments) -> anyhow::Result<Option<String>> {
    let Some(file) = arguments.config.as_deref().filter(|_| config.takes_no_step()) else {
        return Ok(None);
    };
    let mut given = config::given_keys(file, &arguments.set)?;
    given.retain(|key| OF_TRAINING.iter().any(|table| key.starts_with(table)) && !READ.contains(&key.as_str()));
    let (verb, method) = (if given.len() == 1 { "has" } else { "have" }, config.prune.method().name());
    let default = if config.prune.method.is_some() { "" } else { ", the default" };
    Ok((!given.is_empty()).then(|| {
        format!(
            "{} {verb} no effect: the source is cut at once, without a step (prune.method = \"{method}\"{default}). To learn \
             masks set prune.method = \"learned\"",
            given.join(", ")
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_at_once_names_what_it_does_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cut.toml");
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n";
        std::fs::write(&file, text).unwrap();
        let said = |sets: &[&str]| {
            let set: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            let config = config::load(&file, &set).unwrap();
            unread_keys(&config, &ConfigArguments { config: Some(file.clone()), set }).unwrap()
        };
        assert_eq!(said(&["prune.calibration_rows=64", "eval.rows_per_domain=4", "train.micro_batch_rows=2"]), None);
        let steps = said(&["train.steps=100"]).unwrap();
        assert!(
            steps.starts_with("train.steps has no effect") && steps.contains("\"activations\", the default"),
            "{steps}"
        );
        let named = said(&["prune.method=taylor", "masks.preset=top-k", "train.steps=100"]).unwrap();
        assert!(named.starts_with("masks.preset, train.steps have no effect"), "{named}");
        assert!(named.contains("(prune.method = \"taylor\")"), "{named}");
        assert_eq!(said(&["prune.method=learned", "train.steps=100"]), None);
    }
}
