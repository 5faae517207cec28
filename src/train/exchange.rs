//! What the ranks of a run exchange at every step (`dist.strategy = "ddp"`): each has the whole model, does some of the
//! micro-batches, and adds what it found to what the others found.
//!
//! ```text
//! before   is one of us asked to stop, or out of data?             the same answer for all
//! after    gradients of weights, masks, multipliers, routers       sums, in buckets
//!          losses by row, counts of routers                        sums; a row is not zero in one rank only
//! ```
//!
//! A micro-batch's loss is divided by the target tokens of the whole batch wherever it is done, so sums are what one process
//! has, but for the order in which they are added. All that follows (norms, clipping, skipped steps, updates) is computed
//! from sums that are the same bits in every rank. Gradients lie side by side in their buckets from the start: nothing is
//! copied to be sent.

use super::optimizer::{Group, Slot};
use crate::dist::{Error, Reduction, World};
use tch::{Kind, TchError, Tensor};

/// Elements of a bucket, where a tensor is not larger by itself: 32 MiB.
const BUCKET_ELEMENTS: i64 = 8 << 20;
/// Gradients begin at multiples of this many elements, as tensors of their own do.
const ALIGNMENT: usize = 16;

/// The other ranks, and what is summed over all.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub(super) world: World,
    /// Flat fp32 buffers that hold all gradients.
    buckets: Vec<Tensor>,
    /// Whether this rank was asked to stop.
    pub(super) asked: bool,
    /// Whether all stop after this step.
    pub(super) stops: bool,
}

impl Exchange {
    /// Among the ranks of `world`; lays the gradients of `groups` side by side. Alone, everything stays as it is.
    pub(super) fn new<'a>(world: World, groups: impl Iterator<Item = &'a mut Group>) -> Result<Exchange, TchError> {
        let mut buckets = Vec::new();
        if !world.is_alone() {
            for group in groups {
                lay_out(group.slots_mut(), BUCKET_ELEMENTS, &mut buckets)?;
            }
        }
        Ok(Exchange { world, buckets, asked: false, stops: false })
    }

    /// Bytes of gradients that are summed at every step.
    pub(super) fn gradient_bytes(&self) -> u64 {
        self.buckets.iter().map(|bucket| 4 * bucket.numel() as u64).sum()
    }

    /// Sums the gradients over all ranks.
    pub(super) fn sum_gradients(&self) -> Result<(), Error> {
        self.buckets.iter().try_for_each(|bucket| self.world.all_reduce(bucket, Reduction::Sum))
    }
}

/// Elements that the gradient of a tensor takes in a bucket.
fn room(slot: &Slot) -> i64 {
    slot.master.numel().div_ceil(ALIGNMENT) as i64 * ALIGNMENT as i64
}

/// Moves gradients into buckets of about `elements`.
fn lay_out(slots: &mut [Slot], elements: i64, buckets: &mut Vec<Tensor>) -> Result<(), TchError> {
    let mut rest = slots;
    while let Some(first) = rest.first() {
        let device = first.master.device();
        let (mut count, mut total) = (1, room(first));
        while let Some(next) = rest.get(count).filter(|next| total + room(next) <= elements) {
            (count, total) = (count + 1, total + room(next));
        }
        let bucket = Tensor::f_zeros([total], (Kind::Float, device))?;
        let (now, later) = std::mem::take(&mut rest).split_at_mut(count);
        let mut start = 0;
        for slot in now {
            let (length, size) = (slot.master.numel() as i64, slot.master.size());
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
