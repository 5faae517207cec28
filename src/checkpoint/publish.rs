//! Whole or absent: nothing appears under its final name before it is complete and on the disk.
//!
//! Write beside the final place (a rename is atomic only within one file system), flush every file and folder, rename, flush
//! the parent so that the new name itself survives a power cut.

use super::{Error, Result};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Marks temporary siblings; whoever lists a folder skips names that contain it.
pub(super) const STAGING_MARK: &str = ".staging-";

/// A folder being written beside its final place. Removed when dropped unpublished.
#[derive(Debug)]
pub struct Staging {
    dir: TempDir,
    final_dir: PathBuf,
}

impl Staging {
    /// Makes the temporary sibling of `final_dir`, and the parents of both.
    ///
    /// # Errors
    /// `final_dir` exists and is not an empty folder.
    pub fn new(final_dir: &Path) -> Result<Staging> {
        refuse_taken(final_dir)?;
        let parent = parent_of(final_dir);
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        let name = final_dir.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}{STAGING_MARK}");
        let mut builder = tempfile::Builder::new();
        // This will be the published folder, so the umask decides who may read it, as for any other folder.
        builder.prefix(&prefix).permissions(Permissions::from_mode(0o777));
        let dir = builder.tempdir_in(&parent).map_err(reason).map_err(Error::io("create a folder in", &parent))?;
        Ok(Staging { dir, final_dir: final_dir.to_owned() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where it will appear.
    pub fn final_dir(&self) -> &Path {
        &self.final_dir
    }

    /// Flushes everything and renames the folder to its final name, which is returned.
    ///
    /// # Errors
    /// The final name was taken meanwhile, or the system refuses; the temporary folder is then removed.
    pub fn publish(self) -> Result<PathBuf> {
        sync_tree(self.dir.path())?;
        refuse_taken(&self.final_dir)?;
        fs::rename(self.dir.path(), &self.final_dir)
            .map_err(Error::io("rename the finished folder to", &self.final_dir))?;
        // The temporary name is gone; nothing is left for the guard to remove.
        let _ = self.dir.keep();
        sync(&parent_of(&self.final_dir))?;
        Ok(self.final_dir)
    }
}

/// Writes a file so that readers see the old or the new content, never a part.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |file| file.write_all(bytes).map_err(Error::io("write", path)))
}

/// Whether [`write_atomic`] could write `path` once its missing folders are made: a temporary file is made and removed in
/// the nearest folder that is there.
///
/// # Errors
/// No file can be made there.
pub fn ensure_writable(path: &Path) -> Result<()> {
    let parent = std::path::absolute(parent_of(path)).map_err(Error::io("resolve", path))?;
    let folder = parent.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let tried = tempfile::Builder::new().prefix(STAGING_MARK).tempfile_in(folder);
    tried.map_err(reason).map_err(Error::io("create a file in", folder))?;
    Ok(())
}

/// An error of `tempfile` names the temporary file, which nobody asked for, in its text only: what stands before is the
/// system's reason.
fn reason(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" at path \"") {
        Some((reason, _)) => io::Error::new(error.kind(), reason.to_string()),
        None => error,
    }
}

/// [`write_atomic`] for content that is streamed.
pub(super) fn write_atomic_with(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let parent = parent_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(STAGING_MARK).permissions(Permissions::from_mode(0o666));
    let mut temporary = builder.tempfile_in(&parent).map_err(reason).map_err(Error::io("write", path))?;
    write(temporary.as_file_mut())?;
    temporary.as_file().sync_all().map_err(Error::io("flush", path))?;
    temporary.persist(path).map_err(|error| Error::io("rename the finished file to", path)(reason(error.error)))?;
    sync(&parent)
}

/// The folder that holds `path`; `.` for a bare name.
pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Flushes one file or folder to the disk.
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("flush", path))
}

/// Flushes a folder and all that is in it, contents before the names that lead to them.
pub(super) fn sync_tree(dir: &Path) -> Result<()> {
    for path in entries_of(dir)? {
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(dir)
}

/// The paths in a folder, sorted.
pub(super) fn entries_of(dir: &Path) -> Result<Vec<PathBuf>> {
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
    let taken = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("look at", path)(error)),
        Ok(metadata) if metadata.is_dir() => !entries_of(path)?.is_empty(),
        Ok(_) => true,
    };
    if taken { Err(Error::Exists { path: path.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::test_support::entries;

    #[test]
    fn a_published_folder_appears_whole_and_alone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("deep/out");
        let staging = Staging::new(&target).unwrap();
        fs::create_dir(staging.path().join("sub")).unwrap();
        fs::write(staging.path().join("sub/a"), b"1").unwrap();
        assert!(!target.exists());
        assert_eq!(staging.publish().unwrap(), target);
        assert_eq!(fs::read(target.join("sub/a")).unwrap(), b"1");
        assert_eq!(entries(&root.path().join("deep")), ["out"]);
        // Private to the user only if the umask says so, unlike a temporary folder.
        let reference = root.path().join("reference");
        fs::create_dir(&reference).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&reference));
    }

    #[test]
    fn an_unpublished_folder_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::new(&root.path().join("out")).unwrap();
        fs::write(staging.path().join("a"), b"1").unwrap();
        drop(staging);
        assert!(entries(root.path()).is_empty());
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        fs::create_dir(&target).unwrap();
        let staging = Staging::new(&target).unwrap();
        fs::write(target.join("mine"), b"1").unwrap();
        assert!(matches!(Staging::new(&target).unwrap_err(), Error::Exists { .. }));
        assert!(matches!(staging.publish().unwrap_err(), Error::Exists { .. }));
        assert_eq!(entries(root.path()), ["out"]);
        let file = root.path().join("file");
        fs::write(&file, b"1").unwrap();
        assert!(matches!(Staging::new(&file).unwrap_err(), Error::Exists { .. }));
    }

    #[test]
    fn an_atomic_write_replaces_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let failed = write_atomic_with(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::Shape { problem: "stopped".into() })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(entries(root.path()), ["a.json"]);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_no_temporary_one() {
        use std::error::Error as _;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("no/file.json");
        let error = write_atomic(&path, b"x").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write `{}`", path.display()));
        let cause = error.source().unwrap().to_string();
        assert!(cause.starts_with("No such file") && !cause.contains(STAGING_MARK), "{cause}");
        ensure_writable(&path).unwrap();
        assert!(entries(root.path()).is_empty(), "asking leaves nothing");
        fs::write(root.path().join("no"), b"a file").unwrap();
        let error = ensure_writable(&path).unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(error.to_string().contains("no`") && !cause.contains(STAGING_MARK), "{error}: {cause}");
    }
}
