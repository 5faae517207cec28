//! What the ranks of a run sum at every step, where each holds all of its state (`dist.strategy = "ddp"`): each does some of the
//! micro-batches.
//!
//! ```text
//! before       is one of us asked to stop, or out of data?            the same answer for all
//! backward     of the last micro-batch: gradients of a layer          sums, begun when the layer is done
//! after        all other gradients: embedding, head, masks, routers   sums, in buckets
//!              losses by row, counts of routers                       sums; a row is not zero in one rank only
//! ```
//!
//! A micro-batch's loss is divided by the target tokens of the whole batch wherever it is done, so sums are what one process
//! has, but for the order in which they are added. All that follows (norms, clipping, skipped steps, updates) is computed
//! from sums that are the same bits in every rank. Gradients lie side by side in their buckets from the start: nothing is
//! copied to be sent. Sharded weights are summed in `sharding`; masks and routers always here.

use super::fault::Fault;
use super::optimizer::{Group, Slot};
use crate::dist::{Error, Reduction, Started, World};
use crate::model::AroundLayer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Kind, TchError, Tensor};

/// Elements of a bucket, where a tensor is not larger by itself: 32 MiB.
const BUCKET_ELEMENTS: i64 = 8 << 20;
/// Gradients begin at multiples of this many elements, as tensors of their own do.
const ALIGNMENT: usize = 16;

/// The other ranks, and what is summed over all.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub(super) world: World,
    /// Flat fp32 buffers that hold gradients which are summed after the backward.
    buckets: Vec<Tensor>,
    /// Those of each layer, which are summed while the backward goes on.
    layers: Vec<Arc<LayerSum>>,
    /// Whether the backward of the last micro-batch of this rank comes next.
    last: Arc<AtomicBool>,
    pub(super) fault: Fault,
    /// Whether this rank was asked to stop.
    pub(super) asked: bool,
    /// Whether all stop after this step.
    pub(super) stops: bool,
}

impl Exchange {
    /// Among the ranks of `world`.
    pub(super) fn new(world: World, fault: Fault) -> Exchange {
        Exchange { world, fault, ..Exchange::default() }
    }

    /// Lays the gradients of a group side by side, to be summed after the backward. Alone, everything stays as it is.
    pub(super) fn take(&mut self, group: &mut Group) -> Result<(), TchError> {
        if self.world.is_alone() {
            return Ok(());
        }
        lay_out(group.slots_mut(), BUCKET_ELEMENTS, &mut self.buckets)
    }

    /// The same of weights, those of the layers apart: `layer_of` tells which layer a weight belongs to. Weights of a layer lie
    /// side by side in `group`.
    pub(super) fn take_layers(
        &mut self,
        group: &mut Group,
        layer_of: &dyn Fn(&str) -> Option<i64>,
    ) -> Result<(), TchError> {
        if self.world.is_alone() {
            return Ok(());
        }
        let same = |a: &Slot, b: &Slot| layer_of(&a.name) == layer_of(&b.name);
        for slots in group.slots_mut().chunk_by_mut(same) {
            let inside = slots.first().is_some_and(|slot| layer_of(&slot.name).is_some());
            if !inside {
                lay_out(slots, BUCKET_ELEMENTS, &mut self.buckets)?;
                continue;
            }
            let mut buckets = Vec::new();
            lay_out(slots, BUCKET_ELEMENTS, &mut buckets)?;
            let sums = Mutex::new(Sums { buckets, started: Vec::new() });
            let (world, last, fault) = (self.world.clone(), Arc::clone(&self.last), self.fault.clone());
            self.layers.push(Arc::new(LayerSum { world, sums, last, fault }));
        }
        Ok(())
    }

    /// What is told of the passes of each layer.
    pub(super) fn around(&self) -> impl Iterator<Item = Arc<dyn AroundLayer>> + '_ {
        self.layers.iter().map(|layer| Arc::clone(layer) as Arc<dyn AroundLayer>)
    }

    /// Before the backward of a micro-batch; whether it is this rank's last one of the step.
    pub(super) fn expect(&self, last: bool) {
        self.last.store(last, Ordering::Relaxed);
    }

    /// Sums the gradients over all ranks, or waits for the sums that were begun.
    pub(super) fn sum_gradients(&self) -> Result<(), Error> {
        self.layers.iter().rev().try_for_each(|layer| layer.finish())?;
        self.buckets.iter().try_for_each(|bucket| self.world.all_reduce(bucket, Reduction::Sum))
    }
}

/// The gradients of a layer.
#[derive(Debug)]
struct LayerSum {
    world: World,
    sums: Mutex<Sums>,
    last: Arc<AtomicBool>,
    fault: Fault,
}

#[derive(Debug)]
struct Sums {
    buckets: Vec<Tensor>,
    started: Vec<Started>,
}

impl LayerSum {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<(), Error> {
        let mut sums = self.sums();
        let started = sums.buckets.iter().map(|bucket| self.world.start_all_reduce(bucket, Reduction::Sum));
        sums.started = started.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        if self.sums().started.is_empty() {
            // No backward came by: the sums are those of zeros.
            self.start()?;
        }
        let started = std::mem::take(&mut self.sums().started);
        started.into_iter().try_for_each(Started::wait)
    }
}

impl AroundLayer for LayerSum {
    fn after_backward(&self) -> Result<(), TchError> {
        if self.last.load(Ordering::Relaxed) { self.fault.keep(self.start()) } else { Ok(()) }
    }
}

/// Elements that the gradient of a tensor takes in a bucket.
fn room(slot: &Slot) -> i64 {
    slot.numel().div_ceil(ALIGNMENT) as i64 * ALIGNMENT as i64
}

/// Moves gradients into buckets of about `elements`.
fn lay_out(slots: &mut [Slot], elements: i64, buckets: &mut Vec<Tensor>) -> Result<(), TchError> {
    let mut rest = slots;
    while let Some(first) = rest.first() {
        let device = first.device();
        let (mut count, mut total) = (1, room(first));
        while let Some(next) = rest.get(count).filter(|next| total + room(next) <= elements) {
            (count, total) = (count + 1, total + room(next));
        }
        let bucket = Tensor::f_zeros([total], (Kind::Float, device))?;
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
        let mut start = 0;
        for slot in now {
            let (length, size) = (slot.numel() as i64, slot.size());
            slot.move_gradient(bucket.f_narrow(0, start, length)?.f_view(&size[..])?)?;
            start += room(slot);
        }
        buckets.push(bucket);
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::optimizer::Direction;
    use super::*;
    use crate::config::Train;
    use tch::Device;

    fn group(sizes: &[i64], kind: Kind) -> Group {
        let train: Train = toml::from_str("steps = 1\nbatch_rows = 1\nlearning_rate = 0.1").unwrap();
        let tensor = |(at, size): (usize, &i64)| (at.to_string(), Tensor::ones([*size, 2], (Kind::Float, Device::Cpu)));
        let tensors = sizes.iter().enumerate().map(tensor).collect();
        Group::new("weights", 0.1, Direction::Descent, &train, tensors, kind).unwrap()
    }

    #[test]
    fn gradients_lie_side_by_side_and_backward_adds_to_them_there() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let mut group = group(&[5, 3, 40, 1], kind);
            let mut buckets = Vec::new();
            lay_out(group.slots_mut(), 64, &mut buckets).unwrap();
            // 16 + 16 elements, 80 by itself, 16.
            assert_eq!(buckets.iter().map(Tensor::numel).collect::<Vec<_>>(), [32, 80, 16]);
            for (at, slot) in group.slots().iter().enumerate() {
                (slot.leaf() * (at as f64 + 1.0)).sum(Kind::Float).backward();
            }
            let sums: Vec<f64> = buckets.iter().map(|bucket| bucket.sum(Kind::Double).double_value(&[])).collect();
            assert_eq!(sums, [10.0 + 12.0, 240.0, 8.0]);
            let _ = buckets[1].fill_(2.0);
            assert_eq!(group.squared_norm().unwrap().double_value(&[]), 10.0 + 6.0 * 4.0 + 80.0 * 4.0 + 2.0 * 16.0);
        }
    }
}
