//! What a user can go back to when a run ended badly: the last checkpoint, whether it was written before things went
//! wrong, and the commands from there.

use crate::config::{RunConfig, Stage};
use crate::run_dir::RunDir;
use crate::run_dir::layout::step_folder;

/// How to go on after a run whose losses went wrong. `good` is the newest checkpoint that was written while all was well.
pub fn recovery_advice(folder: &RunDir, good: Option<u64>, config: &RunConfig, stage: Stage) -> String {
    let rate = config.train.learning_rate;
    let lower = format!("a lower train.learning_rate (now {})", short(rate));
    let (root, command) = (folder.root().display(), stage.command());
    let resume = format!("shearling {command} --resume {root} --set train.learning_rate={}", short(rate / 10.0));
    let steps = folder.list_steps().unwrap_or_default();
    let Some(last) = steps.last() else {
        return format!("No checkpoint was written: begin again with {lower}: {resume}");
    };
    let Some(good) = good.filter(|good| steps.contains(good)) else {
        let written = if steps.len() == 1 {
            format!("The only checkpoint (step {last}) was")
        } else {
            format!("The checkpoints (steps {}) were", list(&steps))
        };
        return format!(
            "{written} written when the losses were bad already, and may hold ruined weights: start again in another \
             run.directory with {lower}"
        );
    };
    if good == *last {
        return format!("The last checkpoint (step {good}) is from before that; resume with {lower}: {resume}");
    }
    let later: Vec<u64> = steps.iter().copied().filter(|step| *step > good).collect();
    let folders: Vec<String> =
        later.iter().map(|step| step_folder(folder.root(), *step).display().to_string()).collect();
    let those = if later.len() == 1 { "checkpoint of step" } else { "checkpoints of steps" };
    format!(
        "The {those} {} may hold ruined weights; the newest good one is that of step {good}. To go back to it, remove {} \
         and resume with {lower}: {resume}",
        list(&later),
        folders.join(" and ")
    )
}

/// A number as people write it in a configuration: `0.1`, `3e-5`.
fn short(number: f64) -> String {
    let text = format!("{number:.2e}");
    if let Some(plain) = text.parse::<f64>().ok().filter(|number| (1e-3..1e3).contains(number)) {
        return plain.to_string();
    }
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'))
}

fn list(steps: &[u64]) -> String {
    steps.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn advice(steps: &[u64], good: Option<u64>) -> String {
        let place = tempfile::tempdir().unwrap();
        let folder = RunDir::create(&place.path().join("run")).unwrap();
        for step in steps {
            let staging = folder.stage_step(*step).unwrap();
            std::fs::write(staging.path().join("file"), "x").unwrap();
            staging.commit(1, "prune").unwrap();
        }
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n";
        let advice = recovery_advice(&folder, good, &parse(text, "test", &[]).unwrap(), Stage::Prune);
        advice.replace(&folder.root().display().to_string(), "RUN")
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [(3e-5 / 10.0, "3e-6"), (0.1, "0.1"), (1e4, "1e4"), (1e38, "1e38"), (30.0 / 10.0, "3")] {
            assert_eq!(short(number), text);
        }
    }

    #[test]
    fn the_way_back_starts_at_a_checkpoint_that_is_good() {
        let resume = "shearling prune --resume RUN --set train.learning_rate=0.01";
        for (steps, good, expected) in [
            (
                &[][..],
                None,
                format!("No checkpoint was written: begin again with a lower train.learning_rate (now 0.1): {resume}"),
            ),
            (
                &[10],
                Some(10),
                format!(
                    "The last checkpoint (step 10) is from before that; resume with a lower train.learning_rate (now 0.1): {resume}"
                ),
            ),
            (
                &[10, 20],
                Some(10),
                format!(
                    "the newest good one is that of step 10. To go back to it, remove RUN/checkpoints/step-00000020 and \
                 resume with a lower train.learning_rate (now 0.1): {resume}"
                ),
            ),
            (&[10], None, "The only checkpoint (step 10) was written when the losses were bad already".to_string()),
            (&[10, 20], Some(5), "The checkpoints (steps 10, 20) were written when".to_string()),
        ] {
            let found = advice(steps, good);
            assert!(found.contains(&expected), "{found}\n{expected}");
        }
    }
}
