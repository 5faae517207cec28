//! Where a rank says what it knows of a failure, and asks who is at fault: the store of the run, which outlives its
//! collectives. What is written there is in `notes`.

use super::Place;
use super::lookout::Lookout;
use super::notes::{self, NOTICED, Notes, PATIENCE, PAUSE, Verdict, patiently};
use crate::native::c10d::Store;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Where notes are left.
#[derive(Debug)]
pub(super) struct Board {
    lookout: Lookout,
    store: Arc<Store>,
    /// What serves the store in rank 0 must outlive the last note.
    _served: Store,
    rank: usize,
    size: usize,
    serves: bool,
}

impl Board {
    pub(super) fn new(store: Arc<Store>, served: Store, place: &Place) -> Board {
        let (rank, size, serves) = (place.rank, place.size, place.serves());
        let lookout = Lookout::start(Arc::clone(&store), rank, size);
        Board { lookout, store, _served: served, rank, size, serves }
    }

    /// The store of the run.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether another rank has found a failure.
    pub(super) fn is_inquired(&self) -> bool {
        self.lookout.is_inquired()
    }

    /// After a collective failed: who is at fault.
    pub(super) fn inquire(&self) -> Verdict {
        let now = self.exchange(NOTICED.to_string());
        // A rank that was busy comes when the others, and the store with them, may have gone.
        self.lookout.found().map_or(now.clone(), |earlier| now.after(earlier)).verdict(self.rank)
    }

    /// Says why this rank ends. Whoever serves the store stays until the others have read it.
    pub(super) fn leave(&self, reason: &str) {
        let note = notes::ended(reason);
        if self.serves {
            self.exchange(note);
        } else {
            let (store, rank) = (Arc::clone(&self.store), self.rank);
            patiently(move || _ = notes::write(&store, rank, &note), PATIENCE);
        }
    }

    /// Leaves a note and collects those of the others, for a limited time: a store whose server hangs does not answer.
    fn exchange(&self, note: String) -> Notes {
        let notes = Arc::new(Mutex::new(Notes::none(self.size)));
        let (store, shared, rank) = (Arc::clone(&self.store), Arc::clone(&notes), self.rank);
        let until = Instant::now() + PATIENCE;
        let work = move || {
            if notes::write(&store, rank, &note).is_ok() {
                notes::collect(&store, &shared, until);
            }
        };
        patiently(work, PATIENCE + PAUSE * 4);
        let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.clone()
    }
}
