//! What ranks say of a failure, in the store where all read it. libtorch's collectives say that a connection closed or a time
//! passed, not which rank was at fault: a rank that has failed ends, and so the failure runs through all of them. So whoever
//! notices one leaves a note and waits a moment for the words of the others: a rank that ended by an error of its own has left
//! its reason, one that is in the middle of its work lets its lookout answer for it (`lookout`), and one of which there is no
//! word at all is the one that is gone. Who writes and asks when is in `board`.

use crate::native::c10d::Store;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tch::TchError;

/// How long the words of the others are waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// How a note of a rank begins that ended by an error of its own; the reason follows.
const ENDED: &str = "ended: ";
/// The note of a rank that has found a failure.
pub(super) const NOTICED: &str = "noticed";
/// Is there when one rank has left a note.
const INQUIRY: &str = "inquiry";

/// What the notes tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A rank ended by an error of its own.
    Ended(usize, String),
    /// Ranks of which there is no word.
    Silent(Vec<usize>),
    /// Ranks that are there and have noticed nothing.
    Busy(Vec<usize>),
    /// All have noticed, none is at fault.
    AllNoticed,
}

/// What is known of the ranks, and whether the store could be reached at all.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    found: Vec<Word>,
    reached: bool,
}

/// What there is of one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Word {
    #[default]
    Nothing,
    /// It answers, from the middle of its work.
    Alive,
    /// Its note.
    Note(String),
}

impl Notes {
    pub(super) fn none(size: usize) -> Notes {
        Notes { found: vec![Word::Nothing; size], reached: false }
    }

    /// These, and what was known before of ranks that say nothing now.
    pub(super) fn after(self, earlier: Notes) -> Notes {
        let newer = |(now, before): (Word, Word)| if matches!(now, Word::Note(_)) { now } else { before };
        let reached = self.reached || earlier.reached;
        Notes { found: self.found.into_iter().zip(earlier.found).map(newer).collect(), reached }
    }

    /// Who is at fault, for rank `own`.
    pub(super) fn verdict(&self, own: usize) -> Verdict {
        if !self.reached {
            // The store goes with the rank that serves it.
            return Verdict::Silent(vec![0]);
        }
        let others = || self.found.iter().enumerate().filter(|(rank, _)| *rank != own);
        let reason = |word: &Word| match word {
            Word::Note(note) => note.strip_prefix(ENDED).map(String::from),
            _ => None,
        };
        if let Some((rank, reason)) = others().find_map(|(rank, word)| Some((rank, reason(word)?))) {
            return Verdict::Ended(rank, reason);
        }
        let with = |wanted: Word| others().filter(|(_, word)| **word == wanted).map(|(rank, _)| rank).collect();
        let (silent, busy): (Vec<usize>, Vec<usize>) = (with(Word::Nothing), with(Word::Alive));
        match (silent.is_empty(), busy.is_empty()) {
            (false, _) => Verdict::Silent(silent),
            (true, false) => Verdict::Busy(busy),
            (true, true) => Verdict::AllNoticed,
        }
    }

    fn is_complete(&self) -> bool {
        self.found.iter().all(|word| matches!(word, Word::Note(_)))
    }

    /// Looks for what is still to come of each rank.
    fn look(&mut self, store: &Store) -> Result<(), TchError> {
        for (rank, word) in self.found.iter_mut().enumerate().filter(|(_, word)| !matches!(word, Word::Note(_))) {
            if let Some(note) = store.get(&note_key(rank))? {
                *word = Word::Note(note);
            } else if *word == Word::Nothing && store.has(&alive_key(rank))? {
                *word = Word::Alive;
            }
        }
        self.reached = true;
        Ok(())
    }
}

fn note_key(rank: usize) -> String {
    format!("note/{rank}")
}

fn alive_key(rank: usize) -> String {
    format!("alive/{rank}")
}

/// Leaves a note, then calls for those of the others.
pub(super) fn write(store: &Store, rank: usize, note: &str) -> Result<(), TchError> {
    store.set(&note_key(rank), note)?;
    store.set(INQUIRY, "")
}

/// The note of a rank that ends for this reason.
pub(super) fn ended(reason: &str) -> String {
    format!("{ENDED}{reason}")
}

/// Whether a rank has called for the words of all.
pub(super) fn is_called(store: &Store) -> Result<bool, TchError> {
    store.has(INQUIRY)
}

/// Answers for a rank that may be in the middle of its work.
pub(super) fn answer(store: &Store, rank: usize) -> Result<(), TchError> {
    store.set(&alive_key(rank), "")
}

/// Collects what there is of all ranks until all have left notes or the time is over.
pub(super) fn collect(store: &Store, shared: &Mutex<Notes>, until: Instant) {
    let mut known = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
    while Instant::now() < until && !known.is_complete() {
        if known.look(store).is_err() {
            return;
        }
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

    /// `-`: nothing, `alive`, or a note.
    fn notes(found: &[&str], reached: bool) -> Notes {
        let word = |text: &&str| match *text {
            "-" => Word::Nothing,
            "alive" => Word::Alive,
            note => Word::Note(note.to_string()),
        };
        Notes { found: found.iter().map(word).collect(), reached }
    }

    #[test]
    fn the_rank_with_a_reason_is_at_fault_then_the_one_without_a_word_then_the_one_without_a_note() {
        let ended = notes(&[NOTICED, "ended: no memory", "-", "alive"], true);
        assert_eq!(ended.verdict(0), Verdict::Ended(1, "no memory".into()));
        assert_eq!(notes(&[NOTICED, "alive", "-"], true).verdict(0), Verdict::Silent(vec![2]));
        assert_eq!(notes(&[NOTICED, NOTICED, "alive"], true).verdict(1), Verdict::Busy(vec![2]));
        assert_eq!(notes(&[NOTICED, NOTICED], true).verdict(1), Verdict::AllNoticed);
        assert_eq!(notes(&["-", "-", "-"], false).verdict(2), Verdict::Silent(vec![0]));
    }

    /// Rank 2 was busy while rank 0, which serves the store, found that rank 1 is gone, and ended.
    #[test]
    fn what_was_read_while_the_store_was_there_counts_later() {
        let earlier = notes(&[NOTICED, "-", "alive"], true);
        assert_eq!(notes(&["-", "-", "-"], false).after(earlier).verdict(2), Verdict::Silent(vec![1]));
        let earlier = notes(&["alive", "alive", "alive"], true);
        assert_eq!(notes(&[NOTICED, NOTICED, NOTICED], true).after(earlier).verdict(2), Verdict::AllNoticed);
    }

    #[test]
    fn work_that_hangs_is_not_waited_for() {
        let begun = Instant::now();
        patiently(|| std::thread::sleep(Duration::from_secs(30)), Duration::from_millis(20));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
