//! One writer per run: an exclusive lock that the system releases when the process ends, however it ends.
//!
//! The lock is the system's (`flock`) on `RUN/run.lock`; the process number inside is only for messages, so a stale one after a
//! crash locks nobody out.

use super::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

/// Holds a run folder for this process until dropped.
#[derive(Debug)]
pub struct RunLock {
    /// Closing it releases the lock. The file itself stays: removing it would let two processes lock two files of one name.
    _file: File,
}

impl RunLock {
    /// Locks an existing run folder.
    ///
    /// # Errors
    /// Another process (or another part of this one) holds it; named.
    pub fn acquire(run: &Path) -> Result<RunLock> {
        let path = run.join("run.lock");
        let mut options = OpenOptions::new();
        let open = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(Error::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => (),
            Err(Errno::WOULDBLOCK) => return Err(Error::Locked { path, holder: holder(&mut file) }),
            Err(errno) => return Err(Error::io("lock", &path)(errno.into())),
        }
        let sign = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        sign(&mut file).map_err(Error::io("write", &path))?;
        Ok(RunLock { _file: file })
    }
}

/// Who signed the lock file, in words.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // The signature may be missing for a moment after the lock was taken.
    let read = file.take(32).read_to_string(&mut text);
    match read.ok().and_then(|_| text.trim().parse::<u32>().ok()) {
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
        fs::write(run.path().join("run.lock"), "4242\n").unwrap();
        assert!(RunLock::acquire(run.path()).unwrap_err().to_string().contains("process 4242"));
        drop(lock);
        RunLock::acquire(run.path()).unwrap();
    }

    #[test]
    fn a_stale_signature_locks_nobody_out() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("run.lock"), "1\nand a long rest that is not a number").unwrap();
        let _lock = RunLock::acquire(run.path()).unwrap();
        assert_eq!(fs::read_to_string(run.path().join("run.lock")).unwrap(), format!("{}\n", std::process::id()));
        assert!(RunLock::acquire(&run.path().join("none")).is_err());
    }
}
