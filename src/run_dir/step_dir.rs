//! One step of a run: a folder being written ([`StepStaging`]) or a committed one ([`StepDir`]).
//!
//! Order of a commit: the caller's files, their hashes, flush, the manifest last, flush, rename, flush the parent. A crash
//! anywhere leaves the former steps untouched and at most a temporary folder that nobody lists.

use super::layout::{MANIFEST_NAME, step_name, step_of};
use super::manifest::Manifest;
use crate::files::publish::{self, STAGING_MARK, Staging};
use crate::files::{Error, Result, sha256_of_file};
use std::fs;
use std::path::{Path, PathBuf};

/// How much of a step is checked before it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// The manifest, and that every file is there with its size.
    Sizes,
    /// All that, and the hash of every file: reads everything.
    Hashes,
}

/// A step being written.
#[derive(Debug)]
pub struct StepStaging {
    staging: Staging,
    step: u64,
    /// Whether the step is there already.
    again: bool,
}

impl StepStaging {
    pub(crate) fn new(checkpoints: &Path, step: u64) -> Result<StepStaging> {
        let path = checkpoints.join(step_name(step));
        if let Ok(committed) = StepDir::open(&path, Verify::Sizes) {
            return Err(Error::Exists { path: committed.path });
        }
        // What is there is broken (or not there); a run that passes this step again replaces it.
        set_aside(&path)?;
        Ok(StepStaging { staging: Staging::new(&path)?, step, again: false })
    }

    /// The step once more: what is there stays until the commit.
    pub(crate) fn again(checkpoints: &Path, step: u64) -> Result<StepStaging> {
        Ok(StepStaging { staging: Staging::replacing(&checkpoints.join(step_name(step)))?, step, again: true })
    }

    /// Where to write the step's files; sub-folders are fine.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Hashes the files, writes the manifest and makes the step visible.
    ///
    /// # Errors
    /// Nothing was written into the folder, or the disk refuses; nothing of the step remains then.
    pub fn commit(self, tokens: u64, kind: &str) -> Result<StepDir> {
        let manifest = Manifest::describe(self.path(), self.step, tokens, kind)?;
        if manifest.files.is_empty() {
            return Err(Error::BrokenStep {
                path: self.staging.final_dir().to_owned(),
                problem: "it has no files".into(),
            });
        }
        publish::sync_tree(self.path())?;
        publish::write_atomic(&self.path().join(MANIFEST_NAME), manifest.to_json()?.as_bytes())?;
        let path = if self.again { self.staging.replace()? } else { self.staging.publish()? };
        Ok(StepDir { path, manifest })
    }
}

/// A committed step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDir {
    path: PathBuf,
    manifest: Manifest,
}

impl StepDir {
    /// Opens a step folder and checks it against its manifest.
    ///
    /// # Errors
    /// No manifest, a damaged one, one of another step, or a file that is missing, of another size or (on demand) content.
    pub fn open(path: &Path, verify: Verify) -> Result<StepDir> {
        let manifest = Manifest::read(path)?;
        let step = StepDir { path: path.to_owned(), manifest };
        let named = path.file_name().and_then(|name| name.to_str()).and_then(step_of);
        if named.is_some_and(|named| named != step.step()) {
            return Err(step.broken(format!("its manifest is of step {}", step.step())));
        }
        step.check_sizes()?;
        if verify == Verify::Hashes {
            step.check_hashes()?;
        }
        Ok(step)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Optimiser steps done.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The path of one of its files.
    ///
    /// # Errors
    /// The manifest does not list it.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        match self.manifest.files.iter().any(|file| file.path == name) {
            true => Ok(self.path.join(name)),
            false => Err(self.broken(format!("it has no file `{name}`"))),
        }
    }

    fn check_sizes(&self) -> Result<()> {
        for file in &self.manifest.files {
            match fs::metadata(self.path.join(&file.path)) {
                Ok(found) if found.is_file() && found.len() == file.bytes => (),
                Ok(found) => {
                    let problem =
                        format!("`{}` has {} bytes, the manifest says {}", file.path, found.len(), file.bytes);
                    return Err(self.broken(problem));
                }
                Err(error) => return Err(self.broken(format!("`{}`: {error}", file.path))),
            }
        }
        Ok(())
    }

    fn check_hashes(&self) -> Result<()> {
        for file in &self.manifest.files {
            let found = sha256_of_file(&self.path.join(&file.path))?;
            if found != file.sha256 {
                return Err(
                    self.broken(format!("`{}` has SHA-256 {found}, the manifest says {}", file.path, file.sha256))
                );
            }
        }
        Ok(())
    }

    fn broken(&self, problem: String) -> Error {
        Error::BrokenStep { path: self.path.clone(), problem }
    }
}

/// Removes a step so that it never looks half there: renamed first, then deleted. Absent is fine.
pub(crate) fn set_aside(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}{STAGING_MARK}removed-{}", std::process::id()));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("rename", path))?,
    }
    publish::sync(&publish::parent_of(path))?;
    remove_any(&aside)
}

/// Removes a folder with its content, or a file.
pub(crate) fn remove_any(path: &Path) -> Result<()> {
    let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::entries;

    fn commit(root: &Path, step: u64) -> StepDir {
        let staging = StepStaging::new(root, step).unwrap();
        fs::create_dir(staging.path().join("model")).unwrap();
        fs::write(staging.path().join("model/weights"), vec![7; 1000]).unwrap();
        fs::write(staging.path().join("state"), step.to_string()).unwrap();
        staging.commit(step * 10, "prune").unwrap()
    }

    #[test]
    fn names_go_there_and_back() {
        for step in [0, 1, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(step_of(&step_name(step)), Some(step));
        }
        for other in [
            "step-1",
            "step-",
            "step-+0000001",
            "step-00000001.tmp",
            ".step-00000001.staging-x",
            "best",
            "step-0000000a",
        ] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_step_that_is_written_again_is_the_new_one_and_stays_the_old_one_until_then() {
        let root = tempfile::tempdir().unwrap();
        let old = commit(root.path(), 100);
        let again = StepStaging::again(root.path(), 100).unwrap();
        fs::write(again.path().join("state"), "other").unwrap();
        assert_eq!(StepDir::open(old.path(), Verify::Hashes).unwrap(), old);
        let new = again.commit(1000, "prune").unwrap();
        assert_eq!(entries(root.path()), ["step-00000100"]);
        assert_eq!(StepDir::open(old.path(), Verify::Hashes).unwrap(), new);
        assert_eq!(fs::read_to_string(new.file("state").unwrap()).unwrap(), "other");
    }

    #[test]
    fn a_committed_step_opens_with_what_was_written() {
        let root = tempfile::tempdir().unwrap();
        let step = commit(root.path(), 100);
        assert_eq!(entries(root.path()), ["step-00000100"]);
        let opened = StepDir::open(step.path(), Verify::Hashes).unwrap();
        assert_eq!(opened, step);
        assert_eq!((opened.step(), opened.manifest().tokens, opened.manifest().kind.as_str()), (100, 1000, "prune"));
        assert_eq!(fs::read(opened.file("model/weights").unwrap()).unwrap(), vec![7; 1000]);
        assert!(opened.file("model/other").unwrap_err().to_string().contains("model/other"));
        assert!(opened.file("../step-00000100/state").is_err());
    }

    #[test]
    fn an_uncommitted_or_empty_step_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let staging = StepStaging::new(root.path(), 1).unwrap();
        fs::write(staging.path().join("a"), "x").unwrap();
        drop(staging);
        assert!(StepStaging::new(root.path(), 1).unwrap().commit(0, "prune").is_err());
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn a_whole_step_is_never_overwritten_a_broken_one_is() {
        let root = tempfile::tempdir().unwrap();
        let step = commit(root.path(), 5);
        assert!(matches!(StepStaging::new(root.path(), 5).unwrap_err(), Error::Exists { .. }));
        fs::remove_file(step.path().join(MANIFEST_NAME)).unwrap();
        commit(root.path(), 5);
        assert_eq!(entries(root.path()), ["step-00000005"]);
        StepDir::open(step.path(), Verify::Hashes).unwrap();
    }

    #[test]
    fn damage_is_found_and_named() {
        let root = tempfile::tempdir().unwrap();
        let step = commit(root.path(), 5);
        let weights = step.path().join("model/weights");
        let error = |verify| StepDir::open(step.path(), verify).unwrap_err().to_string();
        fs::write(&weights, vec![8; 1000]).unwrap();
        StepDir::open(step.path(), Verify::Sizes).unwrap();
        assert!(error(Verify::Hashes).contains("model/weights"));
        for length in [0, 1, 999, 1001] {
            fs::write(&weights, vec![7; length]).unwrap();
            assert!(error(Verify::Sizes).contains(&format!("`model/weights` has {length} bytes")));
        }
        fs::remove_file(&weights).unwrap();
        assert!(error(Verify::Sizes).contains("model/weights"));
        let moved = root.path().join("step-00000006");
        fs::rename(step.path(), &moved).unwrap();
        assert!(StepDir::open(&moved, Verify::Sizes).unwrap_err().to_string().contains("step 5"));
    }
}
