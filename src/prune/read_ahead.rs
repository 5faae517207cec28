//! Weights come from the disk while earlier ones are folded: a thread asks the system for the pieces to come, so that
//! those who fold find them in memory.
//!
//! A thread of its own, because asking takes time (the system finds room for every page first), and waits where the
//! disk's queue is full. On files that are in memory already it costs next to nothing.

use super::Error;
use super::gather::Fold;
use crate::files::StoredTensor;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc;
use std::thread;

/// Weights asked for beyond the one at hand. They are kept by the system as part of its cache of files.
const AHEAD: usize = 3;

/// Calls `each` for every fold in its order; the first error ends the work.
pub(super) fn for_each<'a>(
    folds: impl Iterator<Item = Result<Fold<'a>, Error>>,
    mut each: impl FnMut(Fold<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    thread::scope(|scope| {
        let (ask, asked) = mpsc::channel::<(StoredTensor, Vec<Range<usize>>)>();
        scope.spawn(move || {
            for (source, pieces) in asked {
                pieces.into_iter().for_each(|piece| source.will_need(piece));
            }
        });
        let mut folds = folds.inspect(|fold| {
            // Nobody listens any more only if the thread died, and reading goes on without it.
            let _ = fold.as_ref().map(|fold| ask.send((*fold.source(), fold.source_pieces())));
        });
        let mut waiting: VecDeque<_> = folds.by_ref().take(AHEAD).collect();
        loop {
            waiting.extend(folds.next());
            match waiting.pop_front() {
                Some(fold) => each(fold?)?,
                None => return Ok(()),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{DType, Error as Broken};
    use crate::hf::Checkpoint;
    use crate::prune::fold_plan::{FoldPlan, Side};
    use crate::prune::fold_reference::checkpoint_of;
    use tch::{Device, Kind, Tensor};

    /// Row `i` of a weight of 9, as a fold of its own.
    fn row(checkpoint: &Checkpoint, i: i64) -> Result<Fold<'_>, Error> {
        let plan = FoldPlan::matrix(Side::kept([i]), Side::all(1));
        Fold::new(plan, checkpoint.stored("w")?, DType::F32)
    }

    fn nine() -> (tempfile::TempDir, Checkpoint) {
        let dir = tempfile::tempdir().unwrap();
        let weight = Tensor::arange(9, (Kind::Float, Device::Cpu)).view([9, 1]);
        let checkpoint = checkpoint_of(dir.path(), &[("w", weight)]);
        (dir, checkpoint)
    }

    #[test]
    fn every_fold_comes_once_and_in_order() {
        let (_dir, checkpoint) = nine();
        for count in [0, 1, AHEAD as i64, AHEAD as i64 + 1, 9] {
            let mut seen = Vec::new();
            let each = |fold: Fold| {
                seen.push(fold.to_tensor()?.double_value(&[0, 0]) as i64);
                Ok(())
            };
            for_each((0..count).map(|i| row(&checkpoint, i)), each).unwrap();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_comes_in_its_turn_and_ends_the_work() {
        let (_dir, checkpoint) = nine();
        let mut calls = 0;
        // Row 9 is not there.
        let problem = for_each((6..12).map(|i| row(&checkpoint, i)), |_| {
            calls += 1;
            Ok(())
        });
        assert!(problem.unwrap_err().to_string().contains("row 9"));
        assert_eq!(calls, 3);
        let full = |_: Fold| Err(Broken::Shape { problem: "the disk is full".into() }.into());
        assert!(for_each((0..9).map(|i| row(&checkpoint, i)), full).is_err());
    }
}
