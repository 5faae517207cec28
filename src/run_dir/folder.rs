//! The folder of a run: `RUN/checkpoints/step-00000100/`, which steps there are, which one to resume from, which ones may go.
//!
//! A step counts only when its manifest says so. Broken ones are passed over with a reason, never silently, and old ones are
//! deleted only after the newest has been verified, so that there is always one to resume from.

use super::layout::{CHECKPOINTS, step_name, step_of};
use super::step_dir::{remove_any, set_aside};
use super::{StepDir, StepStaging, Verify};
use crate::files::publish::{entries_of, is_staged};
use crate::files::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Steps that lie in a run's folder at once, at most: the best, the last and the one being written.
pub const STEPS_AT_ONCE: u8 = 3;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunDir {
    root: PathBuf,
    checkpoints: PathBuf,
}

/// A step that was passed over.
#[derive(Debug)]
pub struct SkippedStep {
    /// The step its name claims.
    pub step: u64,
    /// Why it is not usable.
    pub reason: Error,
}

/// The outcome of looking for a step to resume from.
#[derive(Debug)]
pub struct Latest {
    /// The newest whole step, if any.
    pub step: Option<StepDir>,
    /// Newer ones that are broken, newest first.
    pub skipped: Vec<SkippedStep>,
}

impl RunDir {
    /// Opens a run folder, making it if need be.
    pub fn create(root: &Path) -> Result<RunDir> {
        let run = RunDir { root: root.to_owned(), checkpoints: root.join(CHECKPOINTS) };
        fs::create_dir_all(&run.checkpoints).map_err(Error::io("create", &run.checkpoints))?;
        Ok(run)
    }

    /// Opens a run folder that must be there.
    pub fn open(root: &Path) -> Result<RunDir> {
        fs::read_dir(root).map_err(Error::io("open the run folder", root))?;
        Ok(RunDir { root: root.to_owned(), checkpoints: root.join(CHECKPOINTS) })
    }

    /// The folder of a run that another process holds; nothing is looked at.
    pub fn of_another(root: &Path) -> RunDir {
        RunDir { root: root.to_owned(), checkpoints: root.join(CHECKPOINTS) }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Begins a step; nothing is visible before [`StepStaging::commit`].
    ///
    /// # Errors
    /// The step exists and is whole. A broken one of that number is removed.
    pub fn stage_step(&self, step: u64) -> Result<StepStaging> {
        StepStaging::new(&self.checkpoints, step)
    }

    /// The same for a step that is there, which stays until the commit.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn stage_step_again(&self, step: u64) -> Result<StepStaging> {
        StepStaging::again(&self.checkpoints, step)
    }

    /// The steps there are by name, ascending; they may be broken. Temporary folders and other files are passed over.
    pub fn list_steps(&self) -> Result<Vec<u64>> {
        if !self.checkpoints.exists() {
            return Ok(Vec::new());
        }
        let paths = entries_of(&self.checkpoints)?.into_iter().filter(|path| path.is_dir());
        let mut steps: Vec<u64> = paths.filter_map(|path| step_of(path.file_name()?.to_str()?)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest whole step, and why newer ones were passed over.
    pub fn latest_valid(&self, verify: Verify) -> Result<Latest> {
        let mut skipped = Vec::new();
        for step in self.list_steps()?.into_iter().rev() {
            match StepDir::open(&self.step_path(step), verify) {
                Ok(found) => return Ok(Latest { step: Some(found), skipped }),
                Err(reason) => skipped.push(SkippedStep { step, reason }),
            }
        }
        Ok(Latest { step: None, skipped })
    }

    /// Opens one step.
    ///
    /// # Errors
    /// It is not there (the message lists those that are) or not whole.
    pub fn open_step(&self, step: u64, verify: Verify) -> Result<StepDir> {
        let steps = self.list_steps()?;
        if steps.contains(&step) {
            return StepDir::open(&self.step_path(step), verify);
        }
        let available = match steps.as_slice() {
            [] => "none".to_owned(),
            steps => format!("{steps:?}"),
        };
        Err(Error::NoSuchStep { run: self.root.clone(), step, available })
    }

    /// Deletes every step that is neither in `keep` nor the newest; returns those deleted.
    ///
    /// # Errors
    /// The newest step is not whole: nothing is deleted then.
    pub fn retain(&self, keep: &[u64], verify: Verify) -> Result<Vec<u64>> {
        let steps = self.list_steps()?;
        let Some((newest, older)) = steps.split_last() else { return Ok(Vec::new()) };
        StepDir::open(&self.step_path(*newest), verify)?;
        let delete: Vec<u64> = older.iter().copied().filter(|step| !keep.contains(step)).collect();
        delete.iter().try_for_each(|step| set_aside(&self.step_path(*step)))?;
        Ok(delete)
    }

    /// Deletes one step, whole or broken.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub fn remove_step(&self, step: u64) -> Result<()> {
        set_aside(&self.step_path(step))
    }

    /// Removes what a crash left behind: temporary files and folders of models, steps and masks that were never
    /// published. To be called by the holder of the run's lock only, since what another program is writing looks the
    /// same. Returns how many.
    pub fn remove_leftovers(&self) -> Result<usize> {
        let is_leftover = |path: &PathBuf| path.file_name().is_some_and(is_staged);
        let (mut leftovers, others): (Vec<_>, Vec<_>) = entries_of(&self.root)?.into_iter().partition(is_leftover);
        for folder in others.iter().filter(|path| path.is_dir() && !path.is_symlink()) {
            leftovers.extend(entries_of(folder)?.into_iter().filter(is_leftover));
        }
        leftovers.iter().try_for_each(|path| remove_any(path))?;
        Ok(leftovers.len())
    }

    /// Where a step is, or would be.
    pub fn step_path(&self, step: u64) -> PathBuf {
        self.checkpoints.join(step_name(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::entries;
    use crate::run_dir::MANIFEST_NAME;

    fn run_with(steps: &[u64]) -> (tempfile::TempDir, RunDir) {
        let root = tempfile::tempdir().unwrap();
        let run = RunDir::create(root.path()).unwrap();
        for step in steps {
            let staging = run.stage_step(*step).unwrap();
            fs::write(staging.path().join("state"), format!("{step} and more")).unwrap();
            staging.commit(*step, "pretrain").unwrap();
        }
        (root, run)
    }

    #[test]
    fn steps_are_listed_in_order_and_leftovers_are_not_steps() {
        let (_root, run) = run_with(&[300, 20, 100]);
        for name in [".step-00000400.staging-abc", "step-500", "notes"] {
            fs::create_dir(run.checkpoints.join(name)).unwrap();
        }
        fs::write(run.checkpoints.join(".step-00000020.staging-removed-1"), "").unwrap();
        fs::create_dir(run.root().join("masks")).unwrap();
        fs::write(run.root().join("masks/.step-00000020.safetensors.staging-x"), "").unwrap();
        fs::create_dir(run.root().join(".pruned.staging-x")).unwrap();
        fs::write(run.checkpoints.join("step-00000600"), "a file").unwrap();
        assert_eq!(run.list_steps().unwrap(), [20, 100, 300]);
        assert_eq!(run.latest_valid(Verify::Hashes).unwrap().step.unwrap().step(), 300);
        assert_eq!(run.remove_leftovers().unwrap(), 4);
        assert_eq!(entries(run.root()), ["checkpoints", "masks"]);
        assert!(entries(&run.root().join("masks")).is_empty());
        assert_eq!(
            entries(&run.checkpoints),
            ["notes", "step-00000020", "step-00000100", "step-00000300", "step-00000600", "step-500"]
        );
    }

    #[test]
    fn a_run_without_steps_says_so() {
        let (root, run) = run_with(&[]);
        assert!(run.latest_valid(Verify::Sizes).unwrap().step.is_none());
        assert!(run.open_step(3, Verify::Sizes).unwrap_err().to_string().contains("it has none"));
        assert!(run.retain(&[], Verify::Sizes).unwrap().is_empty());
        let error = RunDir::open(&root.path().join("other")).unwrap_err().to_string();
        assert!(error.contains("other"));
        fs::remove_dir(&run.checkpoints).unwrap();
        assert!(RunDir::open(root.path()).unwrap().list_steps().unwrap().is_empty());
    }

    #[test]
    fn broken_steps_are_passed_over_with_a_reason() {
        let (_root, run) = run_with(&[1, 2, 3, 4]);
        fs::remove_file(run.step_path(4).join(MANIFEST_NAME)).unwrap();
        fs::write(run.step_path(3).join("state"), "x").unwrap();
        fs::write(run.step_path(2).join("state"), "3 and more").unwrap();
        let latest = run.latest_valid(Verify::Hashes).unwrap();
        assert_eq!(latest.step.unwrap().step(), 1);
        assert_eq!(latest.skipped.iter().map(|skipped| skipped.step).collect::<Vec<_>>(), [4, 3, 2]);
        assert!(latest.skipped[2].reason.to_string().contains("SHA-256"));
        assert_eq!(run.latest_valid(Verify::Sizes).unwrap().step.unwrap().step(), 2);
        assert!(run.open_step(3, Verify::Sizes).is_err());
        assert!(run.open_step(9, Verify::Sizes).unwrap_err().to_string().contains("[1, 2, 3, 4]"));
    }

    #[test]
    fn retention_keeps_the_named_and_the_newest() {
        let (_root, run) = run_with(&[1, 2, 3, 4]);
        assert_eq!(run.retain(&[2], Verify::Hashes).unwrap(), [1, 3]);
        assert_eq!(run.list_steps().unwrap(), [2, 4]);
        assert_eq!(entries(&run.checkpoints).len(), 2);
    }

    #[test]
    fn nothing_is_deleted_while_the_newest_is_broken() {
        let (_root, run) = run_with(&[1, 2, 3]);
        fs::write(run.step_path(3).join("state"), "3 and mare").unwrap();
        assert!(run.retain(&[], Verify::Hashes).unwrap_err().to_string().contains("step-00000003"));
        assert_eq!(run.list_steps().unwrap(), [1, 2, 3]);
    }
}
