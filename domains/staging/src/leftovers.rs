//! Names of staged things, and the removal of those whose writer is gone.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::parent_of;

/// Marks temporary siblings, which are hidden besides; whoever lists a folder skips names that contain it.
pub const STAGING_MARK: &str = ".staging-";
/// In the temporary sibling of a folder: the folder itself.
pub(crate) const OUTPUT: &str = "output";
/// In the temporary sibling of a folder: the file that is locked while it is written.
pub(crate) const LOCK: &str = "lock";
/// Bytes of a name that are repeated in the temporary one, so that this is not too long for the file system.
const MOST_NAME_BYTES: usize = 128;

/// How the temporary siblings of `path` begin.
pub(crate) fn prefix_of(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let mut end = name.len().min(MOST_NAME_BYTES);
    // Not in the middle of a character: some file systems take only UTF-8.
    while end < name.len() && name[end] & 0xc0 == 0x80 && end > 0 {
        end -= 1;
    }
    OsString::from_vec([b".", &name[..end], STAGING_MARK.as_bytes()].concat())
}

/// Whether a name is that of something staged.
pub fn is_staged(name: &OsStr) -> bool {
    let mark = STAGING_MARK.as_bytes();
    name.as_bytes().starts_with(b".") && name.as_bytes().windows(mark.len()).any(|part| part == mark)
}

/// Removes what programs that are gone have left on their way to `path`. What cannot be removed, or may still be
/// written, stays: it is in nobody's way.
pub fn remove_left_of(path: &Path) {
    let prefix = prefix_of(path);
    let Ok(entries) = fs::read_dir(parent_of(path)) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            reclaim(&entry.path());
        }
    }
}

fn reclaim(path: &Path) {
    let Ok(about) = fs::symlink_metadata(path) else { return };
    let locked = match about.is_dir() {
        // A folder without a lock was not begun by this mechanism, or a moment ago.
        true => path.join(LOCK),
        false => path.to_path_buf(),
    };
    let Ok(file) = File::options().read(true).write(true).open(&locked) else { return };
    if matches!(try_lock(&file, &locked), Ok(Locked::Ours)) {
        // Another clean-up may have been faster.
        let _ = discard(path);
    }
}

/// What came of an attempt to lock.
pub(crate) enum Locked {
    /// We hold it, until the file is closed.
    Ours,
    /// Somebody else holds it, or removed the file in between.
    Lost,
    /// The file system has no locks.
    Unsupported,
}

/// Locks `file`, opened at `path`, without waiting.
pub(crate) fn try_lock(file: &File, path: &Path) -> io::Result<Locked> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Locked::Lost),
        Err(_) => return Ok(Locked::Unsupported),
        Ok(()) => {}
    }
    // Who cleans up locks first and removes then: the name must still lead to what is locked.
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) if (found.dev(), found.ino()) == (ours.dev(), ours.ino()) => Ok(Locked::Ours),
        _ => Ok(Locked::Lost),
    }
}

/// Removes something staged. The lock goes last, so that a removal that is cut short can be ended by the next program.
pub(crate) fn discard(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    match fs::remove_dir_all(path.join(OUTPUT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_marked_and_short() {
        assert_eq!(prefix_of(Path::new("a/data")), ".data.staging-");
        assert!(is_staged(OsStr::new(".data.staging-x")) && !is_staged(OsStr::new("data.staging-x")));
        assert!(!is_staged(OsStr::new(".data")));
        // 255 bytes are what file systems allow; cut between characters.
        let long = prefix_of(Path::new(&format!("x{}", "é".repeat(127))));
        assert!(long.len() < 160 && long.to_str().is_some(), "{long:?}");
    }
}
