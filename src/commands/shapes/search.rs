//! The search: of all sizes in a room the shape that keeps the source's proportions best and comes nearest to the need.
//!
//! ```text
//! cost = Σ w · (ln r − mean)²  +  25 · miss²  +  0.01 if key/value heads go
//! ```
//!
//! over the ratios r of hidden size and MLP width (w = 1) and query heads (w = ½) to the source's: all three shrink alike, as
//! in Sheared-LLaMA (arXiv 2310.06694) and Minitron (2407.14679). Layers are given: what depth costs is not in it.

use super::need::Need;
use super::sizes::{heads, hidden_sizes, intermediate_unit, loads};
use crate::hf::ModelConfig;
use crate::prune::shape::{resized, source_shape};
use shearling_masks::Shape;

/// What a relative miss weighs against a difference of proportions, both squared.
const MISS: f64 = 25.0;
/// A key/value head fewer is avoided where another shape is as good: they are few, and tools split models along them.
const FEWER_KV: f64 = 0.01;
/// Largest miss that is taken for what was asked for.
pub(super) const MOST_MISS: f64 = 0.05;

/// What is looked through.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) layers: i64,
    pub(super) hidden_sizes: Vec<i64>,
    /// Query and key/value heads.
    pub(super) heads: Vec<(i64, i64)>,
    /// An MLP width that is given; else the one that meets the need best.
    pub(super) intermediate_size: Option<i64>,
}

impl Room {
    /// All sizes that the rules allow, with so many layers.
    pub(super) fn all(source: &Shape, layers: i64) -> Room {
        Room { layers, hidden_sizes: hidden_sizes(source), heads: heads(source, false), intermediate_size: None }
    }
}

/// The best shape of a room.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) cost: f64,
    pub(super) shape: Shape,
}

/// The search for one need on one model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    pub(super) model: &'a ModelConfig,
    pub(super) need: Need,
}

impl Search<'_> {
    /// The cheapest shape of a room; `None` where no hidden size goes with any number of heads, or the need is a limit and
    /// nothing stays within it.
    pub(super) fn best(&self, room: &Room) -> Option<Found> {
        let source = source_shape(self.model);
        let mut best: Option<Found> = None;
        for base in self.bases(&source, room) {
            let Some(shape) = self.with_width(base, &source, room.intermediate_size) else { continue };
            let cost = self.cost(&source, &shape);
            if best.as_ref().is_none_or(|best| cost < best.cost) {
                best = Some(Found { cost, shape });
            }
        }
        best
    }

    /// The smallest shape of a room, and what it has.
    pub(super) fn least(&self, room: &Room) -> Option<(f64, Shape)> {
        let source = source_shape(self.model);
        let width = room.intermediate_size.unwrap_or(intermediate_unit(&source));
        let shapes = self.bases(&source, room).map(|base| Shape { intermediate_size: width, ..base });
        shapes.map(|shape| (self.amount(&shape), shape)).min_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// What the need counts, of a shape.
    pub(super) fn amount(&self, shape: &Shape) -> f64 {
        self.need.amount(&resized(self.model, shape))
    }

    /// How far a shape is from the need, relative to it; negative below it.
    pub(super) fn miss(&self, shape: &Shape) -> f64 {
        self.amount(shape) / self.need.goal() - 1.0
    }

    /// Every hidden size with every number of heads that it goes with; the MLP as in the source.
    fn bases(&self, source: &Shape, room: &Room) -> impl Iterator<Item = Shape> {
        let pairs = room.heads.iter().flat_map(|heads| room.hidden_sizes.iter().map(move |hidden| (*heads, *hidden)));
        let fitting = pairs.filter(|((heads, _), hidden)| loads(self.model, *hidden, *heads));
        fitting.map(|((num_attention_heads, num_key_value_heads), hidden_size)| Shape {
            hidden_size,
            num_hidden_layers: room.layers,
            num_attention_heads,
            num_key_value_heads,
            ..source.clone()
        })
    }

    /// With the MLP width that brings a shape nearest to the need, or nearest below it where that is a limit.
    fn with_width(&self, mut shape: Shape, source: &Shape, given: Option<i64>) -> Option<Shape> {
        let unit = intermediate_unit(source);
        let of = |intermediate_size: i64| self.amount(&Shape { intermediate_size, ..shape.clone() });
        let goal = self.need.goal();
        shape.intermediate_size = match given {
            Some(given) => given,
            None => {
                // The amount is linear in the width.
                let (one, two) = (of(unit), of(2 * unit));
                let units = 1.0 + (goal - one) / (two - one).max(f64::MIN_POSITIVE);
                let units = if self.need.is_limit() { units.floor() } else { units.round() };
                let most = (source.intermediate_size + unit - 1) / unit;
                ((units.clamp(1.0, most as f64) as i64) * unit).min(source.intermediate_size)
            }
        };
        (!self.need.is_limit() || self.amount(&shape) <= goal).then_some(shape)
    }

    fn cost(&self, source: &Shape, shape: &Shape) -> f64 {
        let miss = self.miss(shape);
        let grouped = source.num_key_value_heads < source.num_attention_heads;
        let fewer = grouped && shape.num_key_value_heads < source.num_key_value_heads;
        spread(source, shape) + MISS * miss * miss + if fewer { FEWER_KV } else { 0.0 }
    }
}

/// How much the proportions of the widths change.
pub(super) fn spread(source: &Shape, shape: &Shape) -> f64 {
    let ratio = |new: i64, old: i64| (new as f64 / old as f64).ln();
    let logs = [
        (ratio(shape.hidden_size, source.hidden_size), 1.0),
        (ratio(shape.intermediate_size, source.intermediate_size), 1.0),
        (ratio(shape.num_attention_heads, source.num_attention_heads), 0.5),
    ];
    let weight: f64 = logs.iter().map(|(_, weight)| weight).sum();
    let mean = logs.iter().map(|(log, weight)| log * weight).sum::<f64>() / weight;
    logs.iter().map(|(log, weight)| weight * (log - mean).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::need::Serving;
    use super::super::test_models::llama2_7b;
    use super::*;

    #[test]
    fn a_limit_is_kept_to_and_a_number_is_met_from_either_side() {
        let model = llama2_7b();
        let source = source_shape(&model);
        let serving = Serving { element_bytes: 2, context: 4096, batch: 1 };
        for gib in [1.0, 2.5, 4.0, 9.0] {
            let bytes = gib * (1u64 << 30) as f64;
            let search = Search { model: &model, need: Need::Memory { bytes, serving } };
            let found = search.best(&Room::all(&source, 24)).unwrap();
            let used = serving.memory_bytes(&resized(&model, &found.shape)) / bytes;
            assert!(used <= 1.0 && used > 0.95, "{gib}: {used} by {:?}", found.shape);
        }
        let mut misses = Vec::new();
        for hundred_million in 10..20 {
            let search = Search { model: &model, need: Need::Parameters(hundred_million * 100_000_000) };
            misses.push(search.miss(&search.best(&Room::all(&source, 24)).unwrap().shape));
        }
        assert!(misses.iter().any(|miss| *miss > 0.0) && misses.iter().any(|miss| *miss < 0.0), "{misses:?}");
    }

    #[test]
    fn proportions_that_stay_cost_nothing() {
        let source = source_shape(&llama2_7b());
        let half = Shape { hidden_size: 2048, intermediate_size: 5504, num_attention_heads: 16, ..source.clone() };
        assert_eq!(spread(&source, &half), 0.0);
        // One width halved, logs −ln 2, 0, 0 with weights 1, 1, ½: (ln 2)² · (0.36 + 0.16 · 1.5).
        let thin = Shape { intermediate_size: 5504, ..source.clone() };
        assert!((spread(&source, &thin) - 2f64.ln().powi(2) * 0.6).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_within_a_limit_is_none() {
        let model = llama2_7b();
        let serving = Serving { element_bytes: 2, context: 4096, batch: 1 };
        let search = Search { model: &model, need: Need::Memory { bytes: 1e6, serving } };
        let room = Room::all(&source_shape(&model), 24);
        assert!(search.best(&room).is_none());
        let (least, shape) = search.least(&room).unwrap();
        assert!(least > 1e6 && shape.num_attention_heads == 1, "{shape:?}");
        let none = Room { hidden_sizes: vec![2047], heads: vec![(16, 16)], ..room };
        assert!(search.best(&none).is_none() && search.least(&none).is_none());
    }
}
