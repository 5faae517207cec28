//! Whether a run that is resumed is still the run that it was.

use super::Error;
use crate::config::{self, RunConfig};

/// Refuses to resume under a configuration that would make another run. What may change is one list:
/// [`config::resumable`].
pub fn check_same_run(saved: &RunConfig, now: &RunConfig) -> Result<(), Error> {
    let changed = config::refused_changes(saved, now)?;
    if changed.is_empty() {
        return Ok(());
    }
    Err(Error::Mismatch(format!(
        "a resumed run must be the same run, but the configuration changed ({}); undo that, or start a new run with \
         another run.directory. What may change: {}",
        changed.join("; "),
        config::resumable()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_refused_change_is_told_with_what_may_change() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n";
        let with = |set: &str| parse(text, "test", &[set.to_string()]).unwrap();
        let saved = with("train.steps=4");
        check_same_run(&saved, &with("run.device=cpu")).unwrap();
        let message = check_same_run(&saved, &with("train.batch_rows=4")).unwrap_err().to_string();
        let raised = check_same_run(&saved, &with("train.learning_rate=0.5")).unwrap_err().to_string();
        assert!(raised.contains("train.learning_rate: was 0.1, now 0.5 (it may only be lowered)"), "{raised}");
        for part in ["train.batch_rows: was 2, now 4", "train.learning_rate (lower)", "train.steps", "data.path"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
