//! An output folder that appears whole or not at all.
//!
//! Everything is written into a temporary sibling, made durable, and moved into place by one rename. A failure on the
//! way removes the sibling.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Error, Result};

/// A folder on its way to being `output`.
pub(crate) struct Staging {
    output: PathBuf,
    /// Removed, with what is left in it, when this is dropped.
    holder: TempDir,
    folder: PathBuf,
}

impl Staging {
    /// Begins the folder `output`.
    ///
    /// # Errors
    /// [`Error::OutputExists`] when there is something in the way, [`Error::Io`] when the sibling cannot be made.
    pub(crate) fn begin(output: &Path) -> Result<Self> {
        check_free(output)?;
        let parent = parent_of(output);
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        let holder = tempfile::Builder::new().prefix(".partial-").tempdir_in(&parent);
        let holder = holder.map_err(Error::io("create a folder in", &parent))?;
        // The holder is private to its owner; the folder in it has the usual permissions.
        let folder = holder.path().join("output");
        fs::create_dir(&folder).map_err(Error::io("create", &folder))?;
        Ok(Self { output: output.to_path_buf(), holder, folder })
    }

    /// Where to write.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes everything durable and moves it into place.
    pub(crate) fn publish(self) -> Result<()> {
        sync_tree(&self.folder)?;
        check_free(&self.output)?;
        // Not every system renames onto an empty folder.
        match fs::remove_dir(&self.output) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("replace", &self.output)(error))?,
            _ => {}
        }
        fs::rename(&self.folder, &self.output).map_err(Error::io("move the finished folder to", &self.output))?;
        drop(self.holder);
        sync(&parent_of(&self.output))
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn check_free(output: &Path) -> Result<()> {
    match fs::symlink_metadata(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("look at", output)(error)),
        Ok(metadata) => {
            let empty = metadata.is_dir() && fs::read_dir(output).map_err(Error::io("list", output))?.next().is_none();
            if empty { Ok(()) } else { Err(Error::OutputExists { path: output.to_path_buf() }) }
        }
    }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let output = root.path().join("a/b");
        let staging = Staging::begin(&output).unwrap();
        fs::write(staging.folder().join("x"), "1").unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 0);
        fs::create_dir(&output).unwrap();
        let staging = Staging::begin(&output).unwrap();
        fs::write(staging.folder().join("x"), "1").unwrap();
        staging.publish().unwrap();
        assert_eq!(fs::read_to_string(output.join("x")).unwrap(), "1");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
        assert!(matches!(Staging::begin(&output), Err(Error::OutputExists { .. })));
        assert!(matches!(Staging::begin(&output.join("x")), Err(Error::OutputExists { .. })));
    }
}
