//! How long a run took, over all processes that it was resumed in: its steps, and its evaluations beside them. Saving and
//! exporting are not in it.

use super::recorded::Recorded;
use crate::run_dir::layout::METRICS;
use serde::Serialize;
use std::path::Path;

/// Seconds of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TimeTaken {
    /// Of its recorded steps.
    pub steps: f64,
    /// Of its evaluations; `None` where not all of them were timed, as in runs of earlier versions.
    pub evaluations: Option<f64>,
}

impl TimeTaken {
    /// Of the run in a folder; `None` where its metrics cannot be read.
    pub fn read(run: &Path) -> Option<TimeTaken> {
        Some(TimeTaken::of(&Recorded::read(&run.join(METRICS)).ok()?))
    }

    pub(super) fn of(recorded: &Recorded) -> TimeTaken {
        let steps = recorded.steps.seconds.iter().flatten().sum();
        let evaluations = recorded.evaluations.iter().map(|evaluation| evaluation.seconds).sum();
        TimeTaken { steps, evaluations }
    }

    /// All that is known.
    pub fn total(&self) -> f64 {
        self.steps + self.evaluations.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_count_where_all_of_them_were_timed() {
        let folder = tempfile::tempdir().unwrap();
        let step = |step: u64| format!("{{\"type\": \"step\", \"step\": {step}, \"seconds\": 2.5}}\n");
        let eval = |step: u64, more: &str| format!("{{\"type\": \"eval\", \"step\": {step}{more}}}\n");
        let timed = ", \"seconds\": 1.5";
        let read = |text: String| {
            std::fs::write(folder.path().join(METRICS), text).unwrap();
            TimeTaken::read(folder.path()).unwrap()
        };
        let taken = read(eval(0, timed) + &step(1) + &step(2) + &eval(2, timed));
        assert_eq!((taken, taken.total()), (TimeTaken { steps: 5.0, evaluations: Some(3.0) }, 8.0));
        let older = read(eval(0, "") + &step(1) + &eval(1, timed));
        assert_eq!((older, older.total()), (TimeTaken { steps: 2.5, evaluations: None }, 2.5));
        assert_eq!(TimeTaken::read(Path::new("nowhere")), None);
    }
}
