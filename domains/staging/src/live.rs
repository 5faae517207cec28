//! What this program is writing at the moment, so that a signal handler can remove it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::leftovers::discard;

static LIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn live() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes something staged and notes its path, in one step for [`remove_all`].
pub(crate) fn register<T, E>(make: impl FnOnce() -> Result<(PathBuf, T), E>) -> Result<(Registered, T), E> {
    let mut live = live();
    let (path, made) = make()?;
    // The current folder may change before a signal comes.
    let path = std::path::absolute(&path).unwrap_or(path);
    live.insert(path.clone());
    Ok((Registered(path), made))
}

/// Stands for a noted path until dropped.
#[derive(Debug)]
pub(crate) struct Registered(PathBuf);

impl Registered {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        live().remove(&self.0);
    }
}

/// Removes everything that is being written, for a program that is about to end: no staged file or folder is begun,
/// published or given up by another thread afterwards; it waits until the program ends.
pub fn remove_all() {
    let live = live();
    for path in live.iter() {
        // Other threads may put a file into a folder while it is being removed.
        for _ in 0..20 {
            match discard(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
    }
    // The lock is never given back: see above.
    std::mem::forget(live);
}
