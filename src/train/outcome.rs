//! How a run ended, and what memory its steps were predicted to take.

use super::memory::MemoryEstimate;
use super::setup::Setup;
use crate::hf::Checkpoint;
use std::path::PathBuf;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The run folder.
    pub run: PathBuf,
    /// Its last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Finished steps.
    pub step: u64,
    /// Whether these are all steps of the run.
    pub finished: bool,
    /// Tokens seen.
    pub tokens: u64,
    /// Rows seen by domain, in the order of the data's domains.
    pub domain_rows: Vec<u64>,
    /// Proportions at the end.
    pub proportions: Vec<f64>,
    /// Peak memory of the steps on the device of the run, as predicted.
    pub predicted_memory: MemoryEstimate,
    /// The same as measured, without what the process had before the model; where the system tells, and a step was made.
    pub peak_memory_bytes: Option<u64>,
}

/// Peak memory of the steps of `setup` on its device.
pub(super) fn predicted_memory(setup: &Setup) -> MemoryEstimate {
    let teacher = setup.teacher.as_ref().map(Checkpoint::model);
    let (model, config, device) = (&setup.model, &setup.config, setup.device);
    let ranks = setup.mesh.as_ref().map_or(1, |mesh| mesh.shard.size());
    let estimate = MemoryEstimate::new(model, teacher, config, setup.dataset.sequence_length() as i64, device);
    estimate.sharded(ranks, model, config, device)
}
