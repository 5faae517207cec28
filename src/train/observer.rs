//! What a run tells while it goes on.

use super::evaluation::EvalReport;
use super::metrics::Timing;
use super::step::StepReport;
use super::trainer::Trainer;
use std::path::Path;

/// Who watches a run; the only way it talks. All methods may be left alone.
pub trait Observer {
    /// What is measured on the source before the first step: what, how far, of how much.
    fn measuring(&mut self, _what: &str, _done: usize, _of: usize) {}
    /// The run is set up; `resumed` says that it continues.
    fn started(&mut self, _trainer: &Trainer, _resumed: bool) {}
    /// A step is done.
    fn stepped(&mut self, _trainer: &Trainer, _report: &StepReport, _timing: Timing) {}
    /// An evaluation goes on: of which model (`model`, `teacher`, `cut to target`), how many rows are done, of how many.
    fn evaluating(&mut self, _what: &str, _done: usize, _of: usize) {}
    /// An evaluation is done.
    fn evaluated(&mut self, _trainer: &Trainer, _report: &EvalReport) {}
    /// A checkpoint is written.
    fn saved(&mut self, _step: u64, _path: &Path) {}
    /// Something to know: a skipped step, an exhausted domain, a checkpoint passed over.
    fn noted(&mut self, _message: &str) {}
    /// Worth knowing, and nothing to worry about: a bounded mixer at its work.
    fn remarked(&mut self, message: &str) {
        self.noted(message);
    }
    /// Whether to stop, with a checkpoint: after this step, or in this evaluation.
    fn interrupted(&mut self) -> bool {
        false
    }
}
