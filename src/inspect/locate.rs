//! From what a user names (a run, a step of it, a file) to a mask file. Snapshots count as much as checkpoints: of a
//! run whose checkpoints are gone, the masks can still be looked at.

use super::Error;
use super::one_shot;
use super::snapshots::{SnapshotFile, list};
use crate::run_dir::layout::{PRUNED, claimed_step, mask_file, step_folder};
use crate::run_dir::{RunDir, only_begun};
use shearling_masks::MaskSet;
use std::path::Path;
use tch::Device;

/// The step of a mask file, by its name or by that of the step folder it lies in.
pub fn step_of(file: &Path) -> Option<u64> {
    let step = |name: &std::ffi::OsStr| claimed_step(name.to_str()?);
    step(file.file_name()?).or_else(|| step(file.parent()?.file_name()?))
}

/// Every mask file of a run by step: of its checkpoints and of its evaluations. Of a step that has both, the
/// checkpoint's comes last.
pub fn mask_files(run: &Path) -> Vec<SnapshotFile> {
    let steps = RunDir::open(run).and_then(|folder| folder.list_steps()).unwrap_or_default();
    let checkpoints = steps.into_iter().map(|step| SnapshotFile { step, path: mask_file(&step_folder(run, step)) });
    let mut files = list(run);
    files.extend(checkpoints.filter(|file| file.path.is_file()));
    files.sort_by_key(|file| file.step);
    files
}

/// The newest one that can be read; the newest at all when none can.
pub(super) fn newest(files: Vec<SnapshotFile>) -> Option<SnapshotFile> {
    let readable = |file: &&SnapshotFile| MaskSet::load(&file.path, Device::Cpu).is_ok();
    files.iter().rev().find(readable).or(files.last()).cloned()
}

/// The mask file of a run: of `step`, or the newest.
///
/// # Errors
/// The run has no masks, or none of that step; the message lists the steps that have.
pub fn find(run: &Path, step: Option<u64>) -> Result<SnapshotFile, Error> {
    let no_masks = |problem: String| Error::NoMasks { path: run.to_path_buf(), problem };
    RunDir::open(run).map_err(|error| no_masks(error.to_string()))?;
    if let Some(begun) = only_begun(run) {
        return Err(no_masks(begun));
    }
    let files = mask_files(run);
    if files.is_empty() && one_shot::is_one_shot(run) {
        let model = run.join(PRUNED);
        return Err(no_masks(format!(
            "it was cut at once, by scores: such a cut learns no masks and leaves none. `shearling inspect model {}` shows \
             the model that it wrote",
            model.display()
        )));
    }
    let Some(step) = step else {
        let why = "it has no masks (neither in masks/ nor in checkpoints/): only a run of `prune` has, and only after its first \
                   step that is evaluated (eval.every_steps)";
        return newest(files).ok_or_else(|| no_masks(why.to_string()));
    };
    let mut steps: Vec<u64> = files.iter().map(|file| file.step).collect();
    steps.dedup();
    let found = files.into_iter().rev().find(|file| file.step == step);
    found
        .ok_or_else(|| no_masks(format!("there is no checkpoint or mask snapshot of step {step}; there are {steps:?}")))
}
