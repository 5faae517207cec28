//! What a run has already evaluated, for the process that resumes it: the loss that it began with, and how long an evaluation
//! takes.

use super::recorded::Recorded;
use crate::run_dir::layout::METRICS;
use std::path::Path;

/// Of the evaluations before a resume.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluated {
    /// Mean validation loss of the first one.
    pub first_loss: f64,
    /// Seconds of the last one; runs of earlier versions do not say.
    pub seconds: Option<f64>,
}

impl Evaluated {
    /// Of the run in a folder; `None` where its metrics cannot be read or it has not evaluated yet.
    pub fn read(run: &Path) -> Option<Evaluated> {
        let recorded = Recorded::read(&run.join(METRICS)).ok()?;
        // Experts times scores are another model than the one that the run is about.
        let mut own = recorded.evaluations.iter().filter(|evaluation| evaluation.gates != "soft");
        let first_loss = own.find_map(|evaluation| evaluation.mean_loss)?;
        let seconds = recorded.evaluations.iter().rev().find_map(|evaluation| evaluation.seconds);
        Some(Evaluated { first_loss, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_and_the_last_time_count() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Evaluated::read(folder.path()), None);
        let eval = |step: u64, gates: &str, loss: f64, more: &str| {
            format!("{{\"type\": \"eval\", \"step\": {step}, \"gates\": \"{gates}\", \"mean_loss\": {loss}{more}}}\n")
        };
        let text = eval(0, "soft", 9.0, "")
            + &eval(0, "experts", 6.5, ", \"seconds\": 3.0")
            + &eval(5, "experts", 4.0, ", \"seconds\": 2.0");
        std::fs::write(folder.path().join(METRICS), text).unwrap();
        assert_eq!(Evaluated::read(folder.path()), Some(Evaluated { first_loss: 6.5, seconds: Some(2.0) }));
    }
}
