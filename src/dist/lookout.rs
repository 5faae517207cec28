//! Answers for this rank while it works. A rank that computes for longer than the others wait for words (`notes`) would look
//! like one that is gone, and one that waits for a rank whose connections are still open would not learn that this one has
//! failed. So a thread looks every moment whether a rank has called for the words of all; then it answers, and keeps what
//! the others say.

use super::notes::{self, Notes, PATIENCE};
use crate::native::c10d::Store;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often is looked: one small request of the store.
const PERIOD: Duration = Duration::from_millis(500);

/// The thread of this rank.
#[derive(Debug)]
pub(super) struct Lookout {
    seen: Arc<Seen>,
    /// Dropped, it ends the thread, which drops the other's sender in turn.
    stop: Option<Sender<()>>,
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct Seen {
    is_inquired: AtomicBool,
    notes: Mutex<Notes>,
}

impl Lookout {
    /// Starts to look for calls at `store`. Without a thread this rank is without its answers, and no worse.
    pub(super) fn start(store: Arc<Store>, rank: usize, size: usize) -> Lookout {
        let seen = Arc::new(Seen { is_inquired: AtomicBool::new(false), notes: Mutex::new(Notes::none(size)) });
        let (stop, stopped) = channel();
        let (ending, ended) = channel();
        let shared = Arc::clone(&seen);
        let _ = std::thread::Builder::new().name("lookout".to_string()).spawn(move || {
            look_out(&store, rank, &shared, &stopped);
            // Whoever waits for the end may be the last that has the store.
            drop(store);
            drop(ending);
        });
        Lookout { seen, stop: Some(stop), ended: Mutex::new(ended) }
    }

    /// Whether a rank has called.
    pub(super) fn is_inquired(&self) -> bool {
        self.seen.is_inquired.load(Ordering::Acquire)
    }

    /// What the ranks have said since, if one has called.
    pub(super) fn found(&self) -> Option<Notes> {
        self.is_inquired().then(|| self.seen.notes.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It holds the store; one that hangs in it is not waited for.
        let _ = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(PERIOD * 2);
    }
}

fn look_out(store: &Store, rank: usize, seen: &Seen, stopped: &Receiver<()>) {
    while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        match notes::is_called(store) {
            Ok(false) => {}
            // This rank finds out by itself that the store is gone, or never needs it again.
            Err(_) => return,
            Ok(true) => {
                let answered = notes::answer(store, rank);
                seen.is_inquired.store(true, Ordering::Release);
                if answered.is_ok() {
                    notes::collect(store, &seen.notes, Instant::now() + PATIENCE);
                }
                return;
            }
        }
    }
}
