//! Several shapes for one need, of different character, in an order that is argued and not measured.
//!
//! The first is the one that `init` takes. The others vary it in one respect each and come by their cost, that of the
//! search plus `w · ln²(L / L₁)` for layers other than the first one's L₁: w = 2 for fewer, 1 for more.
//!
//! - At one size width loses less than depth: of the two 4B models from Llama-3.1-8B the one that kept its layers scores
//!   higher (Minitron, arXiv 2407.14679 and 2408.11796), and below a billion deep and thin models beat wide and shallow ones
//!   (MobileLLM, 2402.14905).
//! - A shallow one answers faster than its bytes say, since every layer of a step waits for the one before: in the same
//!   comparison it has the higher throughput. So it is listed.

use super::error::ShapeError;
use super::need::{Need, parameters};
use super::search::{Found, MOST_MISS, Room, Search, spread};
use super::wish::{Wish, find};
use crate::hf::ModelConfig;
use crate::prune::shape::{resized, source_shape};
use crate::words::counted;
use shearling_masks::Shape;
use std::cmp::Ordering;

/// One of them.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Proposal {
    /// Its sizes.
    pub(in crate::commands) shape: Shape,
    /// Its character, in a few words.
    pub(in crate::commands) why: String,
    cost: f64,
}

/// What a difference of depth weighs.
const DEEPER: f64 = 1.0;
const SHALLOWER: f64 = 2.0;
/// Depths that are tried, in sixteenths of the source's, and how many of them are listed besides the first.
const SIXTEENTHS: std::ops::RangeInclusive<i64> = 8..=16;
const DEPTHS: usize = 4;
/// How much another hidden size differs at least.
const OTHER_HIDDEN: f64 = 1.15;
/// Share of key/value heads that a shape with a small cache has at most.
const FEWER_KV: f64 = 0.75;
/// Largest change of proportions: with 0.3 one width in half is taken, and one in a third is not.
const MOST_SPREAD: f64 = 0.3;
/// Share of the largest proposal's parameters that the first one has at least, where there is a limit.
const NEARLY_THE_LARGEST: f64 = 0.8;

/// Shapes for `need`, the first the one of `init` unless a limit leaves room for a much larger one.
///
/// # Errors
/// None is in reach; the message says what is.
pub(in crate::commands) fn propose(model: &ModelConfig, need: Need) -> Result<Vec<Proposal>, ShapeError> {
    let first = find(model, &Wish { need: Some(need), ..Wish::default() })?;
    let varied = Varied { search: Search { model, need }, source: source_shape(model), first };
    let mut others = varied.in_depth();
    others.extend(varied.in_width());
    others.extend(varied.in_cache());
    others.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let mut proposals = vec![varied.first()];
    for other in others {
        if proposals.iter().all(|proposal| proposal.shape != other.shape) {
            proposals.push(other);
        }
    }
    if need.is_limit() {
        largest_first(model, &mut proposals);
    }
    Ok(proposals)
}

/// Within a limit the best shape is one of the largest: where the first is far from that, since its cache takes what weights
/// could, the cheapest of those that are near it comes first.
fn largest_first(model: &ModelConfig, proposals: &mut [Proposal]) {
    let size = |proposal: &Proposal| parameters(&resized(model, &proposal.shape)) as f64;
    let most = proposals.iter().map(size).fold(0.0, f64::max);
    let large = proposals.iter().position(|proposal| size(proposal) >= NEARLY_THE_LARGEST * most);
    if let Some(at) = large.filter(|at| *at > 0) {
        proposals[at].why = format!("nearly the most parameters within the limit; {}", proposals[at].why);
        proposals[..=at].rotate_right(1);
    }
}

/// What is varied, and from what.
struct Varied<'a> {
    search: Search<'a>,
    source: Shape,
    first: Shape,
}

impl Varied<'_> {
    fn first(&self) -> Proposal {
        let why = format!("widths in proportion, {}", self.layers_said(self.first.num_hidden_layers));
        Proposal { shape: self.first.clone(), why, cost: 0.0 }
    }

    /// Other numbers of layers, the widths in proportion.
    fn in_depth(&self) -> Vec<Proposal> {
        let all = self.source.num_hidden_layers;
        let mut depths: Vec<i64> = SIXTEENTHS.map(|part| ((all * part) as f64 / 16.0).round() as i64).collect();
        depths.retain(|layers| *layers >= 1 && *layers != self.first.num_hidden_layers);
        depths.dedup();
        let found = depths.into_iter().filter_map(|layers| self.best(&Room::all(&self.source, layers)));
        let named = |found: Found| {
            let layers = found.shape.num_hidden_layers;
            let depth = if layers > self.first.num_hidden_layers { "deeper" } else { "shallower" };
            // A large cache may take heads instead of width.
            let width = match found.shape.hidden_size.cmp(&self.first.hidden_size) {
                Ordering::Less => ", narrower",
                Ordering::Equal => "",
                Ordering::Greater => ", wider",
            };
            let character = format!("{depth}{width}");
            self.proposal(found, format!("{character}: {}", self.layers_said(layers)))
        };
        spaced(found.map(named).collect(), DEPTHS)
    }

    /// Another hidden size, which the MLP or the heads make up for.
    fn in_width(&self) -> Vec<Proposal> {
        let hidden = self.first.hidden_size as f64;
        let wider = move |size: &i64| *size as f64 >= hidden * OTHER_HIDDEN;
        let narrower = move |size: &i64| *size as f64 * OTHER_HIDDEN <= hidden;
        [self.with_hidden(wider), self.with_hidden(narrower)].into_iter().flatten().collect()
    }

    fn with_hidden(&self, wanted: impl Fn(&i64) -> bool) -> Option<Proposal> {
        let mut room = self.room();
        room.hidden_sizes.retain(wanted);
        let found = self.best(&room)?;
        let stream = if found.shape.hidden_size > self.first.hidden_size { "wider" } else { "narrower" };
        let changes = [
            ("MLP", found.shape.intermediate_size - self.first.intermediate_size),
            ("attention", found.shape.num_attention_heads - self.first.num_attention_heads),
        ];
        let listed = |adjective: &str, sign: i64| {
            let parts: Vec<&str> =
                changes.iter().filter(|(_, change)| change.signum() == sign).map(|(part, _)| *part).collect();
            (!parts.is_empty()).then(|| format!(", {adjective} {}", parts.join(" and ")))
        };
        let changes = [listed("thinner", -1), listed("broader", 1)].map(Option::unwrap_or_default).concat();
        Some(self.proposal(found, format!("{stream} hidden size{changes}")))
    }

    /// Fewer key/value heads, so that long texts take less memory.
    fn in_cache(&self) -> Option<Proposal> {
        let mut room = self.room();
        let most = self.first.num_key_value_heads as f64 * FEWER_KV;
        room.heads.retain(|(_, kv)| *kv as f64 <= most);
        let found = self.best(&room)?;
        let kv = found.shape.num_key_value_heads;
        Some(self.proposal(found, format!("smaller cache: {}", counted(kv, "key/value head"))))
    }

    /// All sizes at the first one's depth.
    fn room(&self) -> Room {
        Room::all(&self.source, self.first.num_hidden_layers)
    }

    /// The best of a room, if it is as wanted and not out of proportion.
    fn best(&self, room: &Room) -> Option<Found> {
        let found = self.search.best(room)?;
        let near = self.search.miss(&found.shape).abs() <= MOST_MISS;
        (near && found.shape != self.source && spread(&self.source, &found.shape) <= MOST_SPREAD).then_some(found)
    }

    fn proposal(&self, found: Found, why: String) -> Proposal {
        let Found { cost, shape } = found;
        let depth = (shape.num_hidden_layers as f64 / self.first.num_hidden_layers as f64).ln();
        let weight = if depth < 0.0 { SHALLOWER } else { DEEPER };
        Proposal { shape, why, cost: cost + weight * depth * depth }
    }

    fn layers_said(&self, layers: i64) -> String {
        let all = self.source.num_hidden_layers;
        if layers == all { format!("all {all} layers") } else { format!("{layers} of {all} layers") }
    }
}

/// At most `most` of them, the ends and evenly between.
fn spaced<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let (last, steps) = (all.len().saturating_sub(1), most.max(2) - 1);
    let kept: Vec<usize> = (0..=steps).map(|step| (step * last + steps / 2) / steps).collect();
    all.into_iter().enumerate().filter(|(index, _)| kept.contains(index)).map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::super::need::Serving;
    use super::super::sizes::{hidden_unit, intermediate_unit, loads};
    use super::super::test_models::{all, llama2_7b, llama3_8b};
    use super::*;
    use crate::model::count::{ParameterCount, cache_bytes};
    use crate::prune::shape::resized;
    use shearling_masks::MaskSpec;

    /// Needs of each kind that leave `part` of the source.
    fn needs(model: &ModelConfig, part: f64, batch: i64) -> [Need; 3] {
        let (bandwidth, context) = (1e12, 4096.min(model.max_position_embeddings));
        let serving = Serving { element_bytes: 2, context, batch };
        let whole = |need: Need| need.amount(model) * part;
        [
            Need::Parameters(whole(Need::Parameters(1)) as i64),
            Need::Memory { bytes: whole(Need::Memory { bytes: 1.0, serving }), serving },
            Need::Latency { seconds: whole(Need::Latency { seconds: 1.0, bandwidth, serving }), bandwidth, serving },
        ]
    }

    #[test]
    fn every_proposal_can_be_pruned_to_loads_elsewhere_and_is_what_was_asked_for() {
        for (name, model) in all() {
            let source = source_shape(&model);
            let parts = [(0.8, 1), (0.5, 1), (0.25, 1), (0.5, 16)];
            let with = |(part, batch): (f64, i64)| needs(&model, part, batch).map(|need| (need, batch > 1));
            for (need, heavy) in parts.into_iter().flat_map(with) {
                let proposals = match propose(&model, need) {
                    Ok(proposals) => proposals,
                    // An embedding of a third of the model leaves little to choose from.
                    Err(ShapeError::OutOfReach { .. }) if name == "tiny" => continue,
                    Err(error) => panic!("{name} {need:?}: {error}"),
                };
                for Proposal { shape, why, .. } in &proposals {
                    let context = format!("{name} {need:?} {why}: {shape:?}");
                    let spec = MaskSpec::new(&source, shape).unwrap_or_else(|error| panic!("{context}: {error}"));
                    assert!(!spec.modules().is_empty(), "{context}");
                    assert_eq!(shape.head_dim, source.head_dim, "{context}");
                    assert!(loads(&model, shape.hidden_size, shape.num_attention_heads), "{context}");
                    let own = |size: i64, unit: i64, whole: i64| size % unit == 0 || size == whole;
                    assert!(own(shape.hidden_size, hidden_unit(&source), source.hidden_size), "{context}");
                    let unit = intermediate_unit(&source);
                    assert!(own(shape.intermediate_size, unit, source.intermediate_size), "{context}");
                    let divides = source.num_key_value_heads % shape.num_key_value_heads == 0;
                    assert!(source.group_size() == 1 || divides, "{context}: uneven groups");
                    assert!(shape.group_size() <= source.group_size(), "{context}");
                    let amount = need.amount(&resized(&model, shape));
                    // A whole key/value head may be a quarter of a limit that is mostly cache.
                    let most = if !why.contains("widths in proportion") {
                        MOST_MISS
                    } else if heavy {
                        0.3
                    } else {
                        0.07
                    };
                    assert!((amount / need.goal() - 1.0).abs() <= most, "{context}: {amount}");
                    assert!(!need.is_limit() || amount <= need.goal(), "{context}: {amount}");
                }
                let base = |proposal: &&Proposal| proposal.why.contains("widths in proportion");
                let first = &proposals.iter().find(base).unwrap().shape;
                let most =
                    proposals.iter().map(|found| parameters(&resized(&model, &found.shape))).max().unwrap() as f64;
                let leads = parameters(&resized(&model, &proposals[0].shape)) as f64;
                assert!(!need.is_limit() || leads >= NEARLY_THE_LARGEST * most, "{name} {need:?}: {leads} of {most}");
                for Proposal { shape, why, .. } in proposals.iter().filter(|found| found.shape != *first) {
                    let says =
                        |word: &str, is: bool| assert!(!why.contains(word) || is, "{name} {need:?} {why}: {shape:?}");
                    says("deeper", shape.num_hidden_layers > first.num_hidden_layers);
                    says("shallower", shape.num_hidden_layers < first.num_hidden_layers);
                    says("wider", shape.hidden_size > first.hidden_size);
                    says("narrower", shape.hidden_size < first.hidden_size);
                    says("smaller cache", shape.num_key_value_heads < first.num_key_value_heads);
                }
                let mut distinct: Vec<String> = proposals.iter().map(|found| format!("{:?}", found.shape)).collect();
                distinct.sort();
                distinct.dedup();
                assert_eq!(distinct.len(), proposals.len(), "{name}: no shape twice");
            }
        }
    }

    #[test]
    fn they_differ_in_character() {
        for (model, counts) in [(llama2_7b(), [1.3e9, 2.7e9]), (llama3_8b(), [2e9, 4e9])] {
            for count in counts {
                let proposals = propose(&model, Need::Parameters(count as i64)).unwrap();
                assert!((6..=10).contains(&proposals.len()), "{count}: {proposals:#?}");
                let shapes: Vec<&Shape> = proposals.iter().map(|proposal| &proposal.shape).collect();
                let first = shapes[0];
                let layers = |shape: &&Shape| shape.num_hidden_layers;
                assert!(shapes.iter().map(layers).max().unwrap() == 32, "{proposals:#?}");
                assert!(shapes.iter().map(layers).min().unwrap() <= 20, "{proposals:#?}");
                let alike = |shape: &&&Shape| shape.num_hidden_layers == first.num_hidden_layers;
                let hidden: Vec<i64> = shapes.iter().filter(alike).map(|shape| shape.hidden_size).collect();
                assert!(hidden.iter().any(|size| *size > first.hidden_size), "{proposals:#?}");
                assert!(hidden.iter().any(|size| *size < first.hidden_size), "{proposals:#?}");
                let cache = |shape: &&Shape| cache_bytes(&resized(&model, shape), 1000.0, 2);
                let least = shapes.iter().map(cache).fold(f64::INFINITY, f64::min);
                assert!(least < 0.8 * cache(&first), "{proposals:#?}");
            }
        }
    }

    #[test]
    fn the_published_shape_is_first_and_the_rest_goes_by_cost() {
        let proposals = propose(&llama2_7b(), Need::Parameters(1_345_423_360)).unwrap();
        let first = &proposals[0].shape;
        assert_eq!((first.hidden_size, first.intermediate_size, first.num_hidden_layers), (2048, 5504, 24));
        assert_eq!(ParameterCount::of(&resized(&llama2_7b(), first)).total(), 1_345_423_360);
        assert!(proposals[0].why.contains("24 of 32 layers"), "{}", proposals[0].why);
        assert!(proposals[1..].windows(2).all(|pair| pair[0].cost <= pair[1].cost));
        // As far from 24 layers in either direction, and as well in proportion: more layers come first.
        let place = |layers: i64| proposals.iter().position(|found| found.shape.num_hidden_layers == layers);
        assert!(place(32).unwrap() < place(16).unwrap(), "{proposals:#?}");
    }

    #[test]
    fn of_many_the_ends_and_some_between_are_kept() {
        assert_eq!(spaced((0..8).collect(), 4), [0, 2, 5, 7]);
        assert_eq!(spaced(vec![1, 2], 4), [1, 2]);
        assert_eq!(spaced(Vec::<i64>::new(), 4), [] as [i64; 0]);
    }
}
