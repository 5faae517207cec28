//! Who is gone, and why. libtorch's collectives say that a connection closed or a time passed, not which rank was at fault:
//! a rank that has failed ends, and so the failure runs through all of them. So whoever notices one leaves a note in the
//! store and waits a moment for the notes of the others: a rank that ended by an error of its own has left its reason, and
//! one that leaves no note at all is the one that is gone.

use super::Place;
use crate::native::c10d::Store;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the notes of the others are waited for.
const PATIENCE: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(50);
/// How a note of a rank begins that ended by an error of its own; the reason follows.
const ENDED: &str = "ended: ";
const NOTICED: &str = "noticed";

/// Where notes are left.
#[derive(Debug)]
pub(super) struct Board {
    store: Arc<Store>,
    /// What serves the store in rank 0 must outlive the last note.
    _served: Store,
    rank: usize,
    size: usize,
    serves: bool,
}

/// What the notes tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A rank ended by an error of its own.
    Ended(usize, String),
    /// Ranks that left no note.
    Silent(Vec<usize>),
    /// All have noticed, none is at fault.
    AllAnswer,
}

/// Notes by rank, as far as they are known; and whether the store could be reached at all.
#[derive(Clone, Debug, Default)]
struct Notes {
    found: Vec<Option<String>>,
    reached: bool,
}

impl Board {
    pub(super) fn new(store: Arc<Store>, served: Store, place: &Place) -> Board {
        Board { store, _served: served, rank: place.rank, size: place.size, serves: place.serves() }
    }

    /// The store of the run.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// After a collective failed: who is at fault.
    pub(super) fn inquire(&self) -> Verdict {
        self.exchange(NOTICED.to_string()).verdict(self.rank)
    }

    /// Says why this rank ends. Whoever serves the store stays until the others have read it.
    pub(super) fn leave(&self, reason: &str) {
        let note = format!("{ENDED}{reason}");
        if self.serves {
            self.exchange(note);
        } else {
            let store = Arc::clone(&self.store);
            let key = key(self.rank);
            patiently(move || _ = store.set(&key, &note), PATIENCE);
        }
    }

    /// Leaves a note and collects those of the others, for a limited time: a store whose server hangs does not answer.
    fn exchange(&self, note: String) -> Notes {
        let notes = Arc::new(Mutex::new(Notes { found: vec![None; self.size], reached: false }));
        let (store, shared, rank) = (Arc::clone(&self.store), Arc::clone(&notes), self.rank);
        let until = Instant::now() + PATIENCE;
        patiently(move || collect(&store, rank, &note, &shared, until), PATIENCE + PAUSE * 4);
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.clone()
    }
}

impl Notes {
    fn verdict(&self, own: usize) -> Verdict {
        if !self.reached {
            // The store goes with the rank that serves it.
            return Verdict::Silent(vec![0]);
        }
        let others = || self.found.iter().enumerate().filter(|(rank, _)| *rank != own);
        let ended = others().find_map(|(rank, note)| Some((rank, note.as_deref()?.strip_prefix(ENDED)?)));
        if let Some((rank, reason)) = ended {
            return Verdict::Ended(rank, reason.to_string());
        }
        let silent: Vec<usize> = others().filter(|(_, note)| note.is_none()).map(|(rank, _)| rank).collect();
        if silent.is_empty() { Verdict::AllAnswer } else { Verdict::Silent(silent) }
    }

    fn is_complete(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }
}

fn key(rank: usize) -> String {
    format!("note/{rank}")
}

fn collect(store: &Store, own: usize, note: &str, shared: &Mutex<Notes>, until: Instant) {
    if store.set(&key(own), note).is_err() {
        return;
    }
    let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    while Instant::now() < until && !known.is_complete() {
        for rank in 0..known.found.len() {
            if known.found[rank].is_none() {
                let Ok(found) = store.get(&key(rank)) else { return };
                known.found[rank] = found;
            }
        }
        known.reached = true;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = known.clone();
        std::thread::sleep(PAUSE);
    }
}

/// Does `work` on a thread of its own, and goes on without it when `patience` is over.
pub(super) fn patiently(work: impl FnOnce() + Send + 'static, patience: Duration) {
    let (done, over) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("notes".to_string()).spawn(move || {
        work();
        // Nobody may be waiting any more.
        let _ = done.send(());
    });
    if thread.is_ok() {
        let _ = over.recv_timeout(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(found: &[Option<&str>], reached: bool) -> Notes {
        Notes { found: found.iter().map(|note| note.map(String::from)).collect(), reached }
    }

    #[test]
    fn the_rank_with_a_reason_is_at_fault_then_the_one_without_a_note() {
        let ended = notes(&[Some(NOTICED), Some("ended: no memory"), None], true);
        assert_eq!(ended.verdict(0), Verdict::Ended(1, "no memory".into()));
        assert_eq!(notes(&[Some(NOTICED), Some(NOTICED), None], true).verdict(0), Verdict::Silent(vec![2]));
        assert_eq!(notes(&[Some(NOTICED), Some(NOTICED)], true).verdict(1), Verdict::AllAnswer);
        assert_eq!(notes(&[None, None, None], false).verdict(2), Verdict::Silent(vec![0]));
    }

    #[test]
    fn work_that_hangs_is_not_waited_for() {
        let begun = Instant::now();
        patiently(|| std::thread::sleep(Duration::from_secs(30)), Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
