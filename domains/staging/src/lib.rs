//! Files and folders that appear whole or not at all, whatever ends the program.
//!
//! Everything is written beside its final place (a rename is atomic only within one file system), flushed, and renamed;
//! then the parent is flushed, so that the new name itself survives a power cut. What is on its way is removed
//!
//! * when the value that stands for it is dropped: an error, a panic;
//! * by [`remove_all`], which a signal handler calls before it ends the program: Ctrl-C, SIGTERM, SIGHUP;
//! * by the next program that writes to the same place, when nobody was left to do it: SIGKILL, a power cut.
//!
//! The last must not touch what a living program is writing. Each staged thing is therefore locked (`flock`) for as long
//! as it is being written; the system gives the lock back when its holder ends, however it ends. Who gets the lock of
//! something that lies in the way may remove it. Where the file system has no such locks nothing is removed.

mod file;
mod folder;
mod leftovers;
mod live;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use file::{ensure_writable, write_whole};
pub use folder::StagedFolder;
pub use leftovers::{STAGING_MARK, is_staged, remove_left_of};
pub use live::remove_all;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or folder that was asked for; never a temporary name.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Something is at the place of a folder that is to be written.
    #[error("{} already exists and is not an empty folder; remove it or name another output", .path.display())]
    Taken {
        /// The place.
        path: PathBuf,
    },
}

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Operation, path and the system's answer, for callers to whom no place can be taken: they write files.
    pub fn into_parts(self) -> (&'static str, PathBuf, io::Error) {
        match self {
            Self::Io { operation, path, source } => (operation, path, source),
            Self::Taken { path } => ("write", path, io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { operation, path, source: reason(source) }
    }
}

/// Refuses a place that something is at already. An empty folder may be taken over; anything else is somebody's.
///
/// # Errors
/// [`Error::Taken`], or [`Error::Io`] when it cannot be looked at.
pub fn refuse_taken(path: &Path) -> Result<()> {
    let taken = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io("look at", path)(error)),
        Ok(metadata) if metadata.is_dir() => fs::read_dir(path).map_err(Error::io("list", path))?.next().is_some(),
        Ok(_) => true,
    };
    if taken { Err(Error::Taken { path: path.to_path_buf() }) } else { Ok(()) }
}

/// The folder that holds `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Flushes one file or folder to the disk.
///
/// # Errors
/// The system refuses.
pub fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("flush", path))
}

/// Flushes a folder and all that is in it, contents before the names that lead to them.
///
/// # Errors
/// The system refuses.
pub fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let kind = entry.file_type().map_err(Error::io("look at", folder))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(folder)
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
