//! Folds a weight in blocks of rows on all processors, and hands each finished block to whoever writes it.
//!
//! A thread that writes waits for the disk while another computes, so reading, folding and writing overlap; the memory
//! is one block per thread, whatever the size of the weight. A block's bytes do not depend on who makes it.

use super::Error;
use super::gather::Fold;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Bytes of a block: small enough to be in a core's cache when it is written, large enough that a call per block is
/// nothing.
const BLOCK_BYTES: usize = 1 << 20;

/// Threads that gain anything: one file takes one write at a time.
const MOST_WORKERS: usize = 16;

/// One reused buffer for each thread.
#[derive(Debug)]
pub(super) struct Workers {
    buffers: Vec<Vec<u8>>,
}

impl Workers {
    /// A worker for each processor.
    pub(super) fn new() -> Workers {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Workers { buffers: vec![Vec::new(); processors.min(MOST_WORKERS)] }
    }

    /// Folds all rows. `emit` gets bytes of the result and their offset in it, in any order and from several threads;
    /// its first error ends the work.
    pub(super) fn fold(
        &mut self,
        fold: &Fold,
        emit: impl Fn(u64, &[u8]) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let rows_per_block = (BLOCK_BYTES / fold.row_bytes().max(1)).max(1);
        let blocks = fold.rows().div_ceil(rows_per_block);
        let next = AtomicUsize::new(0);
        let work = |buffer: &mut Vec<u8>| -> Result<(), Error> {
            loop {
                let block = next.fetch_add(1, Ordering::Relaxed);
                if block >= blocks {
                    return Ok(());
                }
                let start = block * rows_per_block;
                let rows = start..(start + rows_per_block).min(fold.rows());
                // The others stop at their next block.
                one_block(fold, rows, buffer, &emit).inspect_err(|_| next.store(blocks, Ordering::Relaxed))?;
            }
        };
        // This thread is a worker too, and for a small weight the only one.
        let helpers = self.buffers.len().min(blocks).saturating_sub(1);
        let (own, others) = self.buffers.split_at_mut(1);
        thread::scope(|scope| {
            let others: Vec<_> = others[..helpers].iter_mut().map(|buffer| scope.spawn(|| work(buffer))).collect();
            let first = own.iter_mut().try_for_each(work);
            let rest =
                others.into_iter().map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            rest.fold(first, Result::and)
        })
    }
}

fn one_block(
    fold: &Fold,
    rows: Range<usize>,
    buffer: &mut Vec<u8>,
    emit: &impl Fn(u64, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut offset = (rows.start * fold.row_bytes()) as u64;
    if let Some(pieces) = fold.verbatim(rows.clone()) {
        for piece in pieces {
            emit(offset, piece)?;
            offset += piece.len() as u64;
        }
        return Ok(());
    }
    buffer.resize(rows.len() * fold.row_bytes(), 0);
    fold.write(rows, buffer);
    emit(offset, buffer)
}

#[cfg(test)]
pub(super) mod test_support {
    use super::*;
    use std::sync::Mutex;

    /// All bytes of a folded weight.
    pub(in crate::prune) fn collect(workers: &mut Workers, fold: &Fold) -> Result<Vec<u8>, Error> {
        let out = Mutex::new(vec![0; fold.rows() * fold.row_bytes()]);
        workers.fold(fold, |offset, bytes| {
            out.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        Ok(out.into_inner().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::test_support::collect;
    use super::*;
    use crate::files::DType;
    use crate::prune::fold_plan::{FoldPlan, Side};
    use crate::prune::fold_reference::checkpoint_of;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn a_weight_of_many_blocks_is_whole_for_any_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let weight = Tensor::randn([3001, 700], (Kind::Float, Device::Cpu));
        let checkpoint = checkpoint_of(dir.path(), &[("w", weight.shallow_clone())]);
        let stored = checkpoint.stored("w").unwrap();
        let rows: Vec<i64> = (0..3001).filter(|row| row % 7 != 0).collect();
        for columns in [(0..700).collect::<Vec<i64>>(), (0..700).filter(|column| column % 3 != 1).collect()] {
            let expected = weight.index_select(0, &Tensor::from_slice(&rows));
            let expected = expected.index_select(1, &Tensor::from_slice(&columns));
            let plan = FoldPlan::matrix(Side::kept(rows.clone()), Side::kept(columns));
            for target in [DType::F32, DType::BF16] {
                let fold = Fold::new(plan.clone(), stored, target).unwrap();
                assert!(fold.rows() * fold.row_bytes() > 2 * BLOCK_BYTES);
                for threads in [1, 3] {
                    let mut workers = Workers { buffers: vec![Vec::new(); threads] };
                    let bytes = collect(&mut workers, &fold).unwrap();
                    let read = Tensor::from_data_size(&bytes, &fold.shape(), target.kind());
                    assert_eq!(read, expected.to_kind(target.kind()));
                    assert!(workers.buffers.iter().all(|buffer| buffer.capacity() <= BLOCK_BYTES));
                }
            }
        }
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint_of(dir.path(), &[("w", Tensor::zeros([4096, 2048], (Kind::Float, Device::Cpu)))]);
        let plan = FoldPlan::matrix(Side::all(4096), Side::all(2048));
        let fold = Fold::new(plan, checkpoint.stored("w").unwrap(), DType::BF16).unwrap();
        let calls = AtomicUsize::new(0);
        let full = |_: u64, _: &[u8]| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(crate::files::Error::Shape { problem: "the disk is full".into() }.into())
        };
        let problem = Workers { buffers: vec![Vec::new(); 2] }.fold(&fold, full).unwrap_err().to_string();
        assert!(problem.contains("the disk is full"), "{problem}");
        assert!(calls.into_inner() <= 2);
    }
}
