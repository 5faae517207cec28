//! Units assigned to groups of fixed sizes, so that the sum of scores is as high as can be: Bertsekas' auction, in its form
//! for places that are alike (Bertsekas & Castañón 1989, "The auction algorithm for the transportation problem").
//!
//! A unit bids for the group that is worth most to it (score − price), as much as it would lose by its second choice, and ε. A
//! group keeps its highest bids; its price is the lowest of them once it is full. Who is outbid bids again. The result is
//! within ε per unit of the best assignment there is. On rows of gate projections a unit bids two to five times, so that this
//! takes less than sorting all distances, as a greedy assignment does, and no swap of two units improves on it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

/// ε, as a share of the mean distance from the best to the worst score of a unit.
const EPSILON: f32 = 1e-3;
/// And as a share of the largest score, so that adding it to a price is not lost in rounding.
const LEAST_EPSILON: f32 = 1e-6;
/// Bids per unit after which ε is doubled, so that units to which all groups are alike come to an end.
const PATIENCE: usize = 16;

/// A bid for a place; of two equal ones that of the lower unit wins.
#[derive(Clone, Copy, PartialEq)]
struct Bid {
    amount: f32,
    unit: u32,
}

impl Eq for Bid {}

impl Ord for Bid {
    fn cmp(&self, other: &Bid) -> Ordering {
        self.amount.total_cmp(&other.amount).then(other.unit.cmp(&self.unit))
    }
}

impl PartialOrd for Bid {
    fn partial_cmp(&self, other: &Bid) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The group of each unit: `sizes[g]` units are given to group g, `scores [F, N]` (row-major) is how well they fit. The sizes
/// add up to the units.
pub(super) fn assign(scores: &[f32], sizes: &[usize]) -> Vec<u32> {
    let groups = sizes.len();
    if groups == 0 {
        return Vec::new();
    }
    let units = scores.len() / groups;
    let row = |unit: u32| &scores[unit as usize * groups..][..groups];
    let mut epsilon = epsilon(scores, groups);
    let mut prices = vec![0f32; groups];
    let mut held: Vec<BinaryHeap<Reverse<Bid>>> =
        sizes.iter().map(|size| BinaryHeap::with_capacity(size + 1)).collect();
    let mut labels = vec![0; units];
    let mut waiting: VecDeque<u32> = (0..units as u32).collect();
    let mut bids = 0;
    while let Some(unit) = waiting.pop_front() {
        bids += 1;
        if bids % (PATIENCE * units) == 0 {
            epsilon *= 2.0;
        }
        let (group, lead) = choose(row(unit), &prices);
        held[group].push(Reverse(Bid { amount: prices[group] + lead + epsilon, unit }));
        labels[unit as usize] = group as u32;
        if held[group].len() > sizes[group]
            && let Some(Reverse(outbid)) = held[group].pop()
        {
            waiting.push_back(outbid.unit);
        }
        if held[group].len() == sizes[group]
            && let Some(Reverse(lowest)) = held[group].peek()
        {
            prices[group] = lowest.amount;
        }
    }
    labels
}

/// The group that is worth most, and how much more than the second.
fn choose(scores: &[f32], prices: &[f32]) -> (usize, f32) {
    let (mut best, mut first, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (group, (score, price)) in scores.iter().zip(prices).enumerate() {
        let worth = score - price;
        if worth > first {
            (second, first, best) = (first, worth, group);
        } else if worth > second {
            second = worth;
        }
    }
    let lead = first - second;
    (best, if lead.is_finite() { lead } else { 0.0 })
}

fn epsilon(scores: &[f32], groups: usize) -> f32 {
    let (mut ranges, mut largest) = (0f64, 0f32);
    for row in scores.chunks(groups) {
        let (low, high) =
            row.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        ranges += f64::from(high - low);
        largest = largest.max(high.abs()).max(low.abs());
    }
    let range = (ranges / (scores.len() / groups).max(1) as f64) as f32;
    (EPSILON * range).max(LEAST_EPSILON * largest).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shearling_noise::weight_normals;

    fn total(scores: &[f32], groups: usize, labels: &[u32]) -> f32 {
        labels.iter().enumerate().map(|(unit, label)| scores[unit * groups + *label as usize]).sum()
    }

    fn check_sizes(labels: &[u32], sizes: &[usize]) {
        for (group, size) in sizes.iter().enumerate() {
            assert_eq!(labels.iter().filter(|label| **label == group as u32).count(), *size);
        }
    }

    /// The best sum there is, by trying every assignment.
    fn best(scores: &[f32], sizes: &[usize]) -> f32 {
        fn go(scores: &[f32], left: &mut [usize]) -> f32 {
            if scores.is_empty() {
                return 0.0;
            }
            let (mut best, groups) = (f32::NEG_INFINITY, left.len());
            for group in 0..groups {
                if left[group] > 0 {
                    left[group] -= 1;
                    best = best.max(scores[group] + go(&scores[groups..], left));
                    left[group] += 1;
                }
            }
            best
        }
        go(scores, &mut sizes.to_vec())
    }

    #[test]
    fn it_is_within_epsilon_of_the_best_assignment() {
        for (seed, sizes) in
            [(1, vec![3, 3, 3]), (2, vec![4, 4, 1]), (3, vec![2, 2, 2, 2]), (4, vec![5, 4]), (5, vec![6])]
        {
            let (units, groups) = (sizes.iter().sum::<usize>(), sizes.len());
            let scores = weight_normals(seed, "scores", units * groups);
            let labels = assign(&scores, &sizes);
            check_sizes(&labels, &sizes);
            let (found, best) = (total(&scores, groups, &labels), best(&scores, &sizes));
            let allowed = units as f32 * epsilon(&scores, groups) + 1e-5;
            assert!(best - found <= allowed, "{sizes:?}: {found} instead of {best}, allowed {allowed}");
        }
    }

    #[test]
    fn units_that_are_all_alike_come_to_an_end() {
        for value in [0.0, 1.0, -3e30] {
            let labels = assign(&[value; 96 * 6], &[16; 6]);
            check_sizes(&labels, &[16; 6]);
        }
        // Everybody wants the first group, and nothing else is told apart.
        let scores: Vec<f32> = (0..96 * 6).map(|at| if at % 6 == 0 { 1e6 } else { 0.0 }).collect();
        check_sizes(&assign(&scores, &[16; 6]), &[16; 6]);
        assert!(assign(&[], &[]).is_empty());
    }
}
