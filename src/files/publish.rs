//! Whole or absent: nothing appears under its final name before it is complete and on the disk, and nothing half-written is
//! left by whatever ends the program. The mechanism is the crate `shearling-staging`; here it has this part's errors.

use super::{Error, Result};
use shearling_staging::StagedFolder;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(crate) use shearling_staging::{STAGING_MARK, is_staged, parent_of};

/// A folder being written beside its final place. Removed when dropped unpublished.
#[derive(Debug)]
pub struct Staging(StagedFolder);

impl Staging {
    /// Makes the temporary sibling of `final_dir`, and the parents of both; what a program that is gone has left there is
    /// removed.
    ///
    /// # Errors
    /// `final_dir` exists and is not an empty folder.
    pub fn new(final_dir: &Path) -> Result<Staging> {
        Ok(Staging(StagedFolder::begin(final_dir)?))
    }

    /// The same to take the place of `final_dir` when it is [done](Staging::replace).
    ///
    /// # Errors
    /// Nothing can be made beside it.
    pub fn replacing(final_dir: &Path) -> Result<Staging> {
        Ok(Staging(StagedFolder::begin_replacement(final_dir)?))
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where it will appear.
    pub fn final_dir(&self) -> &Path {
        self.0.final_dir()
    }

    /// Flushes everything and renames the folder to its final name, which is returned.
    ///
    /// # Errors
    /// The final name was taken meanwhile, or the system refuses; the temporary folder is then removed.
    pub fn publish(self) -> Result<PathBuf> {
        Ok(self.0.publish()?)
    }

    /// The same in the place of what is there, of which nothing is left then.
    ///
    /// # Errors
    /// The system refuses; what is there stays.
    pub fn replace(self) -> Result<PathBuf> {
        Ok(self.0.replace()?)
    }
}

/// Writes a file so that readers see the old or the new content, never a part.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes).map_err(Error::io("write", path)))
}

/// [`write_atomic`] for content that is streamed.
pub(crate) fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    shearling_staging::write_whole(path, write)
}

/// Whether [`write_atomic`] could write `path` once its missing folders are made: a temporary file is made and removed in
/// the nearest folder that is there.
///
/// # Errors
/// No file can be made there.
pub fn ensure_writable(path: &Path) -> Result<()> {
    Ok(shearling_staging::ensure_writable(path)?)
}

/// Flushes one file or folder to the disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    Ok(shearling_staging::sync(path)?)
}

/// Flushes a folder and all that is in it, contents before the names that lead to them.
pub(crate) fn sync_tree(dir: &Path) -> Result<()> {
    Ok(shearling_staging::sync_tree(dir)?)
}

/// The paths in a folder, sorted.
pub(crate) fn entries_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = read().map_err(Error::io("list", dir))?;
    paths.sort();
    Ok(paths)
}

/// Refuses a place that something is at already. An empty folder may be taken over; anything else is somebody's.
///
/// # Errors
/// `path` is there and not an empty folder.
pub fn refuse_taken(path: &Path) -> Result<()> {
    Ok(shearling_staging::refuse_taken(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::entries;

    #[test]
    fn errors_of_the_mechanism_are_errors_of_checkpoints() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("no/file.json");
        let error = write_atomic(&path, b"x").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write `{}`", path.display()));
        let staging = Staging::new(&root.path().join("out")).unwrap();
        fs::create_dir(staging.final_dir()).unwrap();
        fs::write(staging.final_dir().join("mine"), b"1").unwrap();
        assert!(matches!(staging.publish().unwrap_err(), Error::Exists { .. }));
        assert_eq!(entries(root.path()), ["out"]);
    }
}
