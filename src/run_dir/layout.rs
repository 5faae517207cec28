//! The names of a run folder, each written here and nowhere else: who writes or reads a part of a run asks here where it is.
//! docs/formats/run.md shows the tree.

use std::path::{Path, PathBuf};

/// What happened, one JSON object per line ([`record`](super::record)).
pub const METRICS: &str = "metrics.jsonl";
/// The configuration with every default written out.
pub const RESOLVED_CONFIG: &str = "resolved.toml";
/// The folder of steps.
pub const CHECKPOINTS: &str = "checkpoints";
/// The folder of masks at each evaluation.
pub const SNAPSHOTS: &str = "masks";
/// The folder of TensorBoard event files.
pub const TENSORBOARD: &str = "tensorboard";
/// Held by the process that writes.
pub const LOCK: &str = "run.lock";
/// The folder of the model that `prune` writes at its end.
pub const PRUNED: &str = "pruned";
/// The folder of the model that `pretrain` writes at its end.
pub const MODEL: &str = "model";

/// Inside the folder of a step: the weights, as a Hugging Face folder.
pub const STEP_MODEL: &str = "model";
/// Inside the folder of a step: masks and multipliers of `prune`.
pub const STEP_MASKS: &str = "masks.safetensors";
/// Inside the folder of a step: moments of weights, masks and multipliers.
pub const STEP_OPTIMIZER: &str = "optimizer.safetensors";
/// Inside the folder of a step: counters, position in the data, mixer.
pub const STEP_STATE: &str = "state.json";
/// Inside the folder of a step: sizes and hashes of all its files; written last.
pub const MANIFEST_NAME: &str = "manifest.json";

const STEP_PREFIX: &str = "step-";
const SNAPSHOT_SUFFIX: &str = ".safetensors";

/// `step-00000100`: eight digits, so that names sort; more if needed.
pub fn step_name(step: u64) -> String {
    format!("{STEP_PREFIX}{step:08}")
}

/// The inverse of [`step_name`]; `None` for every other name, temporary ones included.
pub fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix(STEP_PREFIX)?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// `RUN/checkpoints/step-00000100`.
pub fn step_folder(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(step_name(step))
}

/// The masks inside the folder of a step.
pub fn mask_file(step: &Path) -> PathBuf {
    step.join(STEP_MASKS)
}

/// `step-00000100.safetensors`: the masks at an evaluation, in [`SNAPSHOTS`].
pub fn snapshot_name(step: u64) -> String {
    format!("{}{SNAPSHOT_SUFFIX}", step_name(step))
}

/// The step that the name of a snapshot or of a step folder claims, with any number of digits.
pub fn claimed_step(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(STEP_PREFIX)?;
    digits.strip_suffix(SNAPSHOT_SUFFIX).unwrap_or(digits).parse().ok()
}
