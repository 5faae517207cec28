//! The one shape of `init`, and the first that `plan` proposes: as many parameters as asked for, in the source's
//! proportions, with the sizes that are given.
//!
//! Width before depth: all layers stay while a third of the prunable parameters does; below that three quarters of them. So
//! did Sheared-LLaMA (7B to 2.7B: 32 of 32 layers, to 1.3B: 24 of 32) and Minitron (8B to 4B: 32 of 32).

use super::error::ShapeError;
use super::need::Need;
use super::search::{MOST_MISS, Room, Search};
use super::sizes::{heads, hidden_sizes, loads};
use crate::hf::ModelConfig;
use crate::model::count::ParameterCount;
use crate::prune::shape::source_shape;
use shearling_masks::Shape;

/// What the small model should be; what is not given is found or stays.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::commands) struct Wish {
    pub(in crate::commands) need: Option<Need>,
    pub(in crate::commands) hidden_size: Option<i64>,
    pub(in crate::commands) intermediate_size: Option<i64>,
    pub(in crate::commands) layers: Option<i64>,
    pub(in crate::commands) heads: Option<i64>,
    pub(in crate::commands) kv_heads: Option<i64>,
}

/// Share of the prunable parameters below which layers go too, and the share of layers that stay then.
const WIDTH_ONLY: f64 = 1.0 / 3.0;
const KEPT_LAYERS: f64 = 0.75;
/// How far apart the shares of heads and of hidden dimensions that stay may be, as a logarithm: a factor of 1.65. Heads that
/// are further off are not taken unless they are asked for.
const MOST_OUT_OF_PROPORTION: f64 = 0.5;

/// The shape that comes nearest to `wish`.
///
/// # Errors
/// The source has no more than is asked for, or nothing that it could be pruned to is near enough; the message says what is.
pub(in crate::commands) fn find(model: &ModelConfig, wish: &Wish) -> Result<Shape, ShapeError> {
    match wish.need {
        Some(need) => near(&Search { model, need }, wish),
        None => given(model, wish),
    }
}

/// Only what was asked for changes; heads follow a given hidden size.
fn given(model: &ModelConfig, wish: &Wish) -> Result<Shape, ShapeError> {
    let source = source_shape(model);
    let hidden_size = wish.hidden_size.unwrap_or(source.hidden_size);
    let (num_attention_heads, num_key_value_heads) = heads_for(model, wish, hidden_size)?;
    Ok(Shape {
        hidden_size,
        intermediate_size: wish.intermediate_size.unwrap_or(source.intermediate_size),
        num_hidden_layers: wish.layers.unwrap_or(source.num_hidden_layers),
        num_attention_heads,
        num_key_value_heads,
        head_dim: source.head_dim,
    })
}

/// The heads that go with a hidden size and are nearest to its proportion, of those that are wanted.
fn heads_for(model: &ModelConfig, wish: &Wish, hidden_size: i64) -> Result<(i64, i64), ShapeError> {
    let source = source_shape(model);
    let found = nearest_heads(model, &wanted_heads(&source, wish), hidden_size)
        .ok_or_else(|| no_heads(model, wish, hidden_size))?;
    let given = wish.heads.is_some() || wish.kv_heads.is_some() || wish.hidden_size.is_none();
    if given || out_of_proportion(&source, hidden_size, found.0) <= MOST_OUT_OF_PROPORTION {
        return Ok(found);
    }
    let good = |size: &i64| {
        let (heads, _) = nearest_heads(model, &heads(&source, false), *size)?;
        (out_of_proportion(&source, *size, heads) <= MOST_OUT_OF_PROPORTION).then_some((*size, heads))
    };
    let sizes = hidden_sizes(&source);
    let below = sizes.iter().rev().filter(|size| **size < hidden_size).find_map(good);
    let above = sizes.iter().filter(|size| **size > hidden_size).find_map(good);
    Err(ShapeError::FewHeads {
        hidden_size,
        source_hidden: source.hidden_size,
        found: found.0,
        kv_heads: found.1,
        source_heads: source.num_attention_heads,
        nearest: below.into_iter().chain(above).collect(),
    })
}

/// Of several numbers of heads the loadable one that is nearest to the hidden size's proportion.
fn nearest_heads(model: &ModelConfig, pairs: &[(i64, i64)], hidden_size: i64) -> Option<(i64, i64)> {
    let source = source_shape(model);
    let apart = |heads: i64| out_of_proportion(&source, hidden_size, heads);
    let loadable = pairs.iter().copied().filter(|(heads, _)| loads(model, hidden_size, *heads));
    loadable.min_by(|a, b| apart(a.0).total_cmp(&apart(b.0)).then(b.1.cmp(&a.1)))
}

/// |ln| of the share of heads that stay over the share of the hidden size that does.
fn out_of_proportion(source: &Shape, hidden_size: i64, heads: i64) -> f64 {
    let ratio = hidden_size as f64 / source.hidden_size as f64;
    (heads as f64 / source.num_attention_heads as f64 / ratio).ln().abs()
}

fn no_heads(model: &ModelConfig, wish: &Wish, hidden_size: i64) -> ShapeError {
    let asked = match (wish.heads, wish.kv_heads) {
        (None, None) => "any number of heads".to_string(),
        (heads, kv_heads) => {
            let option = |name: &str, value: Option<i64>| value.map(|value| format!("--{name} {value}"));
            let given = [option("heads", heads), option("kv-heads", kv_heads)];
            given.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
    };
    let mut possible = heads(&source_shape(model), true);
    possible.retain(|(heads, _)| loads(model, hidden_size, *heads));
    ShapeError::NoHeads { hidden_size, asked, possible }
}

fn near(search: &Search, wish: &Wish) -> Result<Shape, ShapeError> {
    let (need, source) = (search.need, source_shape(search.model));
    if let Some(hidden_size) = wish.hidden_size {
        heads_for(search.model, wish, hidden_size)?;
    }
    let before = search.amount(&source);
    let room = Room {
        layers: wish.layers.unwrap_or_else(|| kept_layers(search)),
        hidden_sizes: wish.hidden_size.map_or_else(|| hidden_sizes(&source), |size| vec![size]),
        heads: wanted_heads(&source, wish),
        intermediate_size: wish.intermediate_size,
    };
    let refused = || no_heads(search.model, wish, wish.hidden_size.unwrap_or(source.hidden_size));
    let (_, smallest) = search.least(&room).ok_or_else(refused)?;
    // Of any need: a small one leaves fewer layers.
    let lowest = Room { layers: wish.layers.unwrap_or_else(|| fewest_layers(search.model)), ..room.clone() };
    let (least, _) = search.least(&lowest).ok_or_else(refused)?;
    if need.goal() >= before {
        return Err(ShapeError::NotSmaller {
            asked: need.said(),
            source_has: need.amount_said(before),
            least: need.amount_said(least),
        });
    }
    let found = search.best(&room).map(|found| found.shape);
    let meets = |shape: &Shape| need.is_limit() || search.miss(shape).abs() <= MOST_MISS;
    let shape = match found {
        Some(shape) if meets(&shape) => return Ok(shape),
        Some(shape) => shape,
        None => smallest,
    };
    Err(ShapeError::OutOfReach {
        asked: need.said(),
        nearest: need.amount_said(search.amount(&shape)),
        shape: Box::new(shape),
        least: need.amount_said(least),
        source_has: need.amount_said(before),
    })
}

/// Layers that stay: all, unless width alone would have to give up too much.
fn kept_layers(search: &Search) -> i64 {
    let (model, need) = (search.model, search.need);
    let count = ParameterCount::of(model);
    let prunable = (count.attention + count.mlp) as f64 * need.of_a_parameter();
    // Embedding, head and cache shrink with the width, matrices of layers with its square.
    let norms = count.norms as f64 * need.of_a_parameter();
    let linear = need.amount(model) - norms - prunable;
    // linear·w + prunable·w² = goal, for a width factor w.
    let width = ((linear * linear + 4.0 * prunable * need.goal()).sqrt() - linear) / (2.0 * prunable);
    if width * width < WIDTH_ONLY { fewest_layers(model) } else { model.num_hidden_layers }
}

/// Layers of the smallest shapes.
fn fewest_layers(model: &ModelConfig) -> i64 {
    ((model.num_hidden_layers as f64 * KEPT_LAYERS).round() as i64).max(1)
}

/// Numbers of heads that are left by those that are given.
fn wanted_heads(source: &Shape, wish: &Wish) -> Vec<(i64, i64)> {
    let mut pairs = heads(source, wish.kv_heads.is_some());
    pairs.retain(|(heads, kept)| {
        wish.heads.is_none_or(|wanted| wanted == *heads) && wish.kv_heads.is_none_or(|wanted| wanted == *kept)
    });
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::need::{Serving, parameters};
    use super::super::test_models::{all, llama2_7b, llama3_8b, smollm2};
    use super::*;
    use crate::prune::shape::resized;

    fn sizes(shape: &Shape) -> [i64; 5] {
        [
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_hidden_layers,
            shape.num_attention_heads,
            shape.num_key_value_heads,
        ]
    }

    fn near(model: &ModelConfig, parameters: i64) -> Result<Shape, ShapeError> {
        find(model, &Wish { need: Some(Need::Parameters(parameters)), ..Wish::default() })
    }

    #[test]
    fn the_published_sizes_give_the_published_shapes() {
        let model = llama2_7b();
        assert_eq!(sizes(&near(&model, 1_345_423_360).unwrap()), [2048, 5504, 24, 16, 16]);
        assert_eq!(sizes(&near(&model, 2_701_560_320).unwrap()), [2560, 6912, 32, 20, 20]);
    }

    #[test]
    fn what_is_found_can_be_pruned_to_and_is_near_what_was_asked() {
        for (model, counts) in [
            (llama2_7b(), [400e6, 1e9, 1.3e9, 3e9, 5e9]),
            (llama3_8b(), [1e9, 2e9, 4e9, 4.5e9, 6e9]),
            (smollm2(), [30e6, 50e6, 51e6, 70e6, 100e6]),
        ] {
            for asked in counts {
                let shape = near(&model, asked as i64).unwrap();
                let found = parameters(&resized(&model, &shape)) as f64;
                assert!((found / asked - 1.0).abs() < 0.03, "{asked}: {shape:?} has {found}");
                shearling_masks::MaskSpec::new(&source_shape(&model), &shape).unwrap();
                assert_eq!(shape.hidden_size % shape.num_attention_heads, 0, "{shape:?}");
                assert_eq!((shape.hidden_size % 64, shape.intermediate_size % 64), (0, 0), "{shape:?}");
            }
        }
    }

    #[test]
    fn sizes_that_are_given_are_kept() {
        let model = smollm2();
        let wish = Wish {
            need: Some(Need::Parameters(60_000_000)),
            hidden_size: Some(384),
            layers: Some(24),
            ..Wish::default()
        };
        let shape = find(&model, &wish).unwrap();
        assert_eq!((shape.hidden_size, shape.num_hidden_layers), (384, 24));
        let only = Wish { hidden_size: Some(384), ..Wish::default() };
        assert_eq!(sizes(&find(&model, &only).unwrap()), [384, 1536, 30, 6, 3], "heads follow the hidden size");
        let width = Wish { intermediate_size: Some(1024), ..Wish::default() };
        assert_eq!(sizes(&find(&model, &width).unwrap()), [576, 1024, 30, 9, 3]);
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_nearest() {
        let model = smollm2();
        let message = near(&model, 200_000_000).unwrap_err().to_string();
        assert!(message.contains("is not below the 134,515,008 parameters"), "{message}");
        let message = near(&model, 1_000).unwrap_err().to_string();
        assert!(message.contains("the nearest has"), "{message}");
        let odd = Wish { hidden_size: Some(7), ..Wish::default() };
        assert!(matches!(find(&model, &odd), Err(ShapeError::FewHeads { found: 1, .. })), "one head divides anything");
        let asked = Wish { heads: Some(1), ..odd };
        assert_eq!(find(&model, &asked).unwrap().num_attention_heads, 1);
    }

    #[test]
    fn heads_are_not_given_up_in_silence_for_a_hidden_size_that_few_divide() {
        let model = smollm2();
        for need in [None, Some(Need::Parameters(65_000_000))] {
            let wish = Wish { need, hidden_size: Some(448), ..Wish::default() };
            let message = find(&model, &wish).unwrap_err().to_string();
            for part in
                ["448 of 576 goes only with 2 of 9 heads", "384 (6 heads), 576 (9 heads)", "--heads 2 --kv-heads"]
            {
                assert!(message.contains(part), "{part} in {message}");
            }
        }
        let taken = Wish { hidden_size: Some(448), heads: Some(2), ..Wish::default() };
        assert_eq!(find(&model, &taken).unwrap().num_attention_heads, 2);
        for asked in [5, 6] {
            let wish = Wish { hidden_size: Some(400), heads: Some(asked), ..Wish::default() };
            let message = find(&model, &wish).unwrap_err().to_string();
            let said = message.contains(&format!("does not go with --heads {asked}"));
            assert!(said && message.contains("1 / 1, 2 / 1, 2 / 2, 4 / 2"), "{message}");
        }
    }

    /// What a limit leads to is what its parameters lead to, but for the cache.
    #[test]
    fn a_limit_gives_the_largest_shape_within_it() {
        for (name, model) in all() {
            let context = 4096.min(model.max_position_embeddings);
            let serving = Serving { element_bytes: 2, context, batch: 1 };
            let whole = Need::Memory { bytes: 0.0, serving }.amount(&model);
            for part in [0.9, 0.6, 0.35] {
                let need = Need::Memory { bytes: part * whole, serving };
                let shape = find(&model, &Wish { need: Some(need), ..Wish::default() }).unwrap();
                let used = need.amount(&resized(&model, &shape)) / need.goal();
                assert!(used <= 1.0 && used > 0.93, "{name}: {used} of {part} by {shape:?}");
            }
        }
    }

    #[test]
    fn an_impossible_limit_says_what_is_possible() {
        let (model, serving) = (llama2_7b(), Serving { element_bytes: 2, context: 4096, batch: 1 });
        let refused = |need| find(&model, &Wish { need: Some(need), ..Wish::default() }).unwrap_err();
        let large = refused(Need::Memory { bytes: 1e12, serving });
        assert!(matches!(large, ShapeError::NotSmaller { .. }) && large.to_string().contains("14.6 GiB"), "{large}");
        let small = refused(Need::Latency { seconds: 1e-9, bandwidth: 1e12, serving });
        assert!(matches!(small, ShapeError::OutOfReach { .. }), "{small}");
        assert!(small.to_string().contains("In reach are") && small.to_string().contains(" ms to 15"), "{small}");
    }
}
