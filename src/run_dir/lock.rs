//! One writer per run: an exclusive lock that the system releases when the process ends, however it ends.
//!
//! The lock is the system's (`flock`) on `RUN/run.lock`; the process number inside is only for messages, so a stale one after a
//! crash locks nobody out. Who only wants to know asks [`RunLock::activity`], which takes no lock.

use super::layout::LOCK;
use crate::files::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Holds a run folder for this process until dropped.
#[derive(Debug)]
pub struct RunLock {
    /// Closing it releases the lock. Only who holds it may remove the file, and who takes it looks that it is still there: else
    /// two processes could lock two files of one name.
    _file: File,
}

/// A run folder for work that leaves a result or nothing: held while it goes on. When dropped, the lock is gone, and so is a
/// folder with nothing else in it.
#[derive(Debug)]
pub struct Claim {
    root: PathBuf,
    _lock: RunLock,
}

impl Claim {
    /// Makes the folder, if need be, and locks it.
    ///
    /// # Errors
    /// The folder cannot be made, or another process holds it; named.
    pub fn new(root: &Path) -> Result<Claim> {
        std::fs::create_dir_all(root).map_err(Error::io("create", root))?;
        Ok(Claim { root: root.to_path_buf(), _lock: RunLock::acquire(root)? })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.root.join(LOCK));
        // Refused where anything is in it.
        let _ = std::fs::remove_dir(&self.root);
    }
}

impl RunLock {
    /// Locks an existing run folder.
    ///
    /// # Errors
    /// Another process (or another part of this one) holds it; named.
    pub fn acquire(run: &Path) -> Result<RunLock> {
        let path = run.join(LOCK);
        let mut file = loop {
            let mut options = OpenOptions::new();
            let open = options.read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = open.map_err(Error::io("open", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => (),
                Err(Errno::WOULDBLOCK) => return Err(Error::Locked { path, holder: holder(&mut file) }),
                Err(errno) => return Err(Error::io("lock", &path)(errno.into())),
            }
            // Whoever held it may have removed it between the two calls ([`Claim`]): that file is nobody's any more.
            if is_at(&file, &path) {
                break file;
            }
        };
        let sign = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        sign(&mut file).map_err(Error::io("write", &path))?;
        Ok(RunLock { _file: file })
    }
}

/// Whether somebody writes to a run, as far as can be seen without a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// This process of this machine.
    Process(u32),
    /// No process of this machine that can be seen from here.
    Nobody,
    /// The system does not tell.
    Unknown,
}

impl RunLock {
    /// Who holds a run folder. Only looks: a lock tried and given back would get in the way of a run that starts.
    pub fn activity(run: &Path) -> Activity {
        let path = run.join(LOCK);
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Activity::Nobody,
            Ok(metadata) if metadata.is_file() => metadata,
            _ => return Activity::Unknown,
        };
        let opened = (File::open(&path), std::fs::read_to_string("/proc/locks"));
        let (Ok(mut file), Ok(locks)) = opened else { return Activity::Unknown };
        let signed = signature(&mut file);
        match signed.filter(|process| locks.lines().any(|line| is_lock(line, *process, metadata.ino()))) {
            Some(process) => Activity::Process(process),
            None => Activity::Nobody,
        }
    }
}

/// Whether an open file is still the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata().map(id), std::fs::metadata(path).map(id));
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}

/// Whether a line of `/proc/locks` is the lock of `process` on the file with this inode number:
/// `1: FLOCK  ADVISORY  WRITE 4729 fe:00:10010775 0 EOF`.
fn is_lock(line: &str, process: u32, inode: u64) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", holder, place, ..] = fields[..] else { return false };
    // The device is left out: on layered file systems it is not the one that the file says.
    let file = place.rsplit(':').next().and_then(|inode| inode.parse::<u64>().ok());
    holder.parse() == Ok(process) && file == Some(inode)
}

/// The process that signed the lock file.
fn signature(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Who signed the lock file, in words.
fn holder(file: &mut File) -> String {
    // The signature may be missing for a moment after the lock was taken.
    match signature(file) {
        Some(pid) if pid == std::process::id() => format!("this very process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_second_writer_is_refused_and_told_who_the_first_is() {
        let run = tempfile::tempdir().unwrap();
        let lock = RunLock::acquire(run.path()).unwrap();
        let error = RunLock::acquire(run.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        fs::write(run.path().join(LOCK), "4242\n").unwrap();
        assert!(RunLock::acquire(run.path()).unwrap_err().to_string().contains("process 4242"));
        drop(lock);
        RunLock::acquire(run.path()).unwrap();
    }

    #[test]
    fn who_holds_a_run_is_seen_without_a_lock() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(RunLock::activity(run.path()), Activity::Nobody);
        let lock = RunLock::acquire(run.path()).unwrap();
        let expected = if Path::new("/proc/locks").exists() {
            [Activity::Process(std::process::id()), Activity::Nobody]
        } else {
            [Activity::Unknown; 2]
        };
        assert_eq!(RunLock::activity(run.path()), expected[0]);
        drop(lock);
        assert_eq!(RunLock::activity(run.path()), expected[1]);
    }

    #[test]
    fn a_line_of_the_locks_is_one_file_and_one_process() {
        let line = "12: FLOCK  ADVISORY  WRITE 4729 fe:00:10010775 0 EOF";
        assert!(is_lock(line, 4729, 10_010_775));
        assert!(!is_lock(line, 4728, 10_010_775) && !is_lock(line, 4729, 775));
        for other in ["", "1: POSIX ADVISORY WRITE 4729 fe:00:10010775 0 EOF", "1: -> FLOCK ADVISORY WRITE 4729"] {
            assert!(!is_lock(other, 4729, 10_010_775), "{other}");
        }
    }

    #[test]
    fn a_claim_leaves_what_was_made_under_it_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("runs/a");
        let claim = Claim::new(&run).unwrap();
        let error = Claim::new(&run).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(claim);
        assert!(!run.exists() && root.path().join("runs").exists());
        let claim = Claim::new(&run).unwrap();
        fs::write(run.join("result"), "").unwrap();
        drop(claim);
        assert_eq!(fs::read_dir(&run).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_file_that_was_removed_is_not_the_one_of_that_name() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join(LOCK);
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
        let _other = File::create(&path).unwrap();
        assert!(!is_at(&file, &path));
    }

    #[test]
    fn a_stale_signature_locks_nobody_out() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join(LOCK), "1\nand a long rest that is not a number").unwrap();
        let _lock = RunLock::acquire(run.path()).unwrap();
        assert_eq!(fs::read_to_string(run.path().join(LOCK)).unwrap(), format!("{}\n", std::process::id()));
        assert!(RunLock::acquire(&run.path().join("none")).is_err());
    }
}
