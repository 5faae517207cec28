//! The shape of a small model: as many parameters as asked for, in the source's proportions, in sizes that other tools
//! take.
//!
//! - Width before depth: all layers stay while a third of the prunable parameters does; below that three quarters of
//!   them. So did Sheared-LLaMA (7B to 2.7B: 32 of 32 layers, to 1.3B: 24 of 32) and Minitron (8B to 4B: 32 of 32).
//! - Hidden size, MLP width and heads shrink alike, as in both. Of the shapes in reach the one is taken in which
//!   the three ratios differ least and whose parameters are nearest.
//! - Sizes are multiples of up to 128, heads divide the hidden size where transformers insists on it, key/value heads stay
//!   or are divided, so that groups stay equal.

use crate::hf::{Architecture, ModelConfig};
use crate::model::count::ParameterCount;
use crate::prune::shape::{resized, source_shape};
use shearling_masks::Shape;

/// What the small model should be; what is not given is found or stays.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    pub(super) parameters: Option<i64>,
    pub(super) hidden_size: Option<i64>,
    pub(super) intermediate_size: Option<i64>,
    pub(super) layers: Option<i64>,
    pub(super) heads: Option<i64>,
    pub(super) kv_heads: Option<i64>,
}

/// Share of the prunable parameters below which layers go too, and the share of layers that stay then.
const WIDTH_ONLY: f64 = 1.0 / 3.0;
const KEPT_LAYERS: f64 = 0.75;
/// What a relative miss in parameters weighs against a difference of proportions, both squared.
const MISS: f64 = 25.0;
/// A key/value head fewer is avoided where another shape is as good: they are few, and tools split models along them.
const FEWER_KV: f64 = 0.01;
/// Units that the source's sizes have at least: a hidden size has few that heads divide, the MLP width makes up for it.
const HIDDEN_UNITS: i64 = 8;
const INTERMEDIATE_UNITS: i64 = 16;
/// Largest miss that is taken for what was asked for.
const MOST_MISS: f64 = 0.05;

/// The shape that comes nearest to `wish`.
///
/// # Errors
/// Nothing that could be pruned to is near enough; the message says what is.
pub(super) fn find(model: &ModelConfig, wish: &Wish) -> anyhow::Result<Shape> {
    let source = source_shape(model);
    let found = match wish.parameters {
        Some(parameters) => near(model, &source, wish, parameters)?,
        None => given(model, &source, wish)?,
    };
    Ok(found)
}

/// All parameters of a model of that shape.
pub(super) fn parameters(model: &ModelConfig, shape: &Shape) -> i64 {
    ParameterCount::of(&resized(model, shape)).total()
}

/// Only what was asked for changes; heads follow a given hidden size.
fn given(model: &ModelConfig, source: &Shape, wish: &Wish) -> anyhow::Result<Shape> {
    let hidden_size = wish.hidden_size.unwrap_or(source.hidden_size);
    let ratio = hidden_size as f64 / source.hidden_size as f64;
    let heads = heads(source, wish).filter(|(heads, _)| loads(model, hidden_size, *heads));
    let apart = |heads: i64| (heads as f64 / source.num_attention_heads as f64 / ratio).ln().abs();
    let found =
        heads.min_by(|a, b| (apart(a.0), -a.1).partial_cmp(&(apart(b.0), -b.1)).unwrap_or(std::cmp::Ordering::Equal));
    let Some((num_attention_heads, num_key_value_heads)) = found else { anyhow::bail!("{}", no_heads(hidden_size)) };
    Ok(Shape {
        hidden_size,
        intermediate_size: wish.intermediate_size.unwrap_or(source.intermediate_size),
        num_hidden_layers: wish.layers.unwrap_or(source.num_hidden_layers),
        num_attention_heads,
        num_key_value_heads,
        head_dim: source.head_dim,
    })
}

fn no_heads(hidden_size: i64) -> String {
    format!(
        "no number of heads that the source could be pruned to divides hidden_size = {hidden_size}; give another \
         --hidden-size, or --heads and --kv-heads"
    )
}

fn near(model: &ModelConfig, source: &Shape, wish: &Wish, asked: i64) -> anyhow::Result<Shape> {
    let before = parameters(model, source);
    if asked >= before {
        anyhow::bail!("--target-params {asked} is not below the {before} parameters of the source; give fewer");
    }
    let num_hidden_layers = wish.layers.unwrap_or_else(|| kept_layers(model, source, asked));
    let (unit, mut best): (i64, Option<(f64, Shape)>) = (unit(source.hidden_size, HIDDEN_UNITS), None);
    let hidden_sizes: Vec<i64> = match wish.hidden_size {
        Some(hidden_size) => vec![hidden_size],
        None => (1..=source.hidden_size / unit).map(|units| units * unit).collect(),
    };
    for (num_attention_heads, num_key_value_heads) in heads(source, wish) {
        for hidden_size in hidden_sizes.iter().copied().filter(|size| loads(model, *size, num_attention_heads)) {
            let base = Shape {
                hidden_size,
                intermediate_size: source.intermediate_size,
                num_hidden_layers,
                num_attention_heads,
                num_key_value_heads,
                head_dim: source.head_dim,
            };
            let shape = with_width(model, base, source, wish, asked);
            let cost = cost(model, source, &shape, asked);
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, shape));
            }
        }
    }
    let Some((_, shape)) = best else { anyhow::bail!("{}", no_heads(wish.hidden_size.unwrap_or(source.hidden_size))) };
    let found = parameters(model, &shape);
    if (found - asked).abs() as f64 > MOST_MISS * asked as f64 {
        anyhow::bail!(
            "no shape near --target-params {asked} is in reach: the nearest has {found} parameters (hidden {}, \
             intermediate {}, {} layers, {} heads); give another number, or sizes of your own",
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_hidden_layers,
            shape.num_attention_heads
        );
    }
    Ok(shape)
}

/// The MLP width, in its units, that brings a shape nearest to the parameters asked for.
fn with_width(model: &ModelConfig, mut shape: Shape, source: &Shape, wish: &Wish, asked: i64) -> Shape {
    if let Some(given) = wish.intermediate_size {
        shape.intermediate_size = given;
        return shape;
    }
    let unit = unit(source.intermediate_size, INTERMEDIATE_UNITS);
    let of = |intermediate_size: i64| parameters(model, &Shape { intermediate_size, ..shape.clone() });
    // Parameters are linear in the width.
    let (one, two) = (of(unit), of(2 * unit));
    let units = 1.0 + (asked - one) as f64 / (two - one).max(1) as f64;
    shape.intermediate_size = (units.round() as i64).clamp(1, source.intermediate_size / unit) * unit;
    shape
}

/// How much the proportions change, and how far the parameters are off.
fn cost(model: &ModelConfig, source: &Shape, shape: &Shape, asked: i64) -> f64 {
    let ratio = |new: i64, old: i64| (new as f64 / old as f64).ln();
    let logs = [
        (ratio(shape.hidden_size, source.hidden_size), 1.0),
        (ratio(shape.intermediate_size, source.intermediate_size), 1.0),
        (ratio(shape.num_attention_heads, source.num_attention_heads), 0.5),
    ];
    let weight: f64 = logs.iter().map(|(_, weight)| weight).sum();
    let mean = logs.iter().map(|(log, weight)| log * weight).sum::<f64>() / weight;
    let spread = logs.iter().map(|(log, weight)| weight * (log - mean).powi(2)).sum::<f64>();
    let miss = parameters(model, shape) as f64 / asked as f64 - 1.0;
    let grouped = source.num_key_value_heads < source.num_attention_heads;
    let fewer = grouped && shape.num_key_value_heads < source.num_key_value_heads;
    spread + MISS * miss * miss + if fewer { FEWER_KV } else { 0.0 }
}

/// Layers that stay: all, unless width alone would have to give up too much.
fn kept_layers(model: &ModelConfig, source: &Shape, asked: i64) -> i64 {
    let all = ParameterCount::of(model);
    let (fixed, prunable) = ((all.embedding + all.head) as f64, (all.attention + all.mlp) as f64);
    // fixed·w + prunable·w² = asked, for a width factor w.
    let width = ((fixed * fixed + 4.0 * prunable * asked as f64).sqrt() - fixed) / (2.0 * prunable);
    let part = if width * width < WIDTH_ONLY { KEPT_LAYERS } else { 1.0 };
    ((source.num_hidden_layers as f64 * part).round() as i64).max(1)
}

/// Numbers of query and key/value heads that the source can be pruned to.
fn heads(source: &Shape, wish: &Wish) -> impl Iterator<Item = (i64, i64)> {
    let (all, kv) = (source.num_attention_heads, source.num_key_value_heads);
    let (group, wish) = (all / kv.max(1), *wish);
    let pairs = (1..=kv).flat_map(move |kept| (1..=group).map(move |size| (kept * size, kept)));
    pairs.filter(move |(heads, kept)| {
        // Without groups any number is as good as another; with them tools want to divide the key/value heads evenly.
        let even = group == 1 || kv % kept == 0 || wish.kv_heads.is_some();
        even && wish.heads.is_none_or(|wanted| wanted == *heads) && wish.kv_heads.is_none_or(|wanted| wanted == *kept)
    })
}

/// Whether other tools load that hidden size with so many heads: transformers' Llama divides one by the other, and llama.cpp
/// and vLLM derive the width of a Qwen2 head from it.
fn loads(model: &ModelConfig, hidden_size: i64, heads: i64) -> bool {
    match model.architecture {
        Architecture::Llama => hidden_size % heads == 0,
        Architecture::Qwen2 => {
            hidden_size == heads * model.head_dim || model.hidden_size != model.num_attention_heads * model.head_dim
        }
        _ => true,
    }
}

/// What a size should be a multiple of: 128, or less where the source would have fewer than `least` of them.
fn unit(size: i64, least: i64) -> i64 {
    let mut unit = 128;
    while unit > 1 && (unit * least > size || size % unit != 0) {
        unit /= 2;
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf::RawConfig;
    use serde_json::{Value, json};
    use std::path::Path;

    fn read(config: Value) -> ModelConfig {
        let Value::Object(raw) = config else { panic!("an object") };
        RawConfig::from_raw(raw, Path::new("config.json")).model().unwrap()
    }

    fn llama2_7b() -> ModelConfig {
        read(serde_json::from_str(include_str!("../../../tests/fixtures/configs/llama2-7b.json")).unwrap())
    }

    fn llama3_8b() -> ModelConfig {
        read(serde_json::from_str(include_str!("../../../tests/fixtures/configs/llama3.1-8b.json")).unwrap())
    }

    fn smollm2() -> ModelConfig {
        read(json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "head_dim": 64, "tie_word_embeddings": true,
        }))
    }

    fn sizes(shape: &Shape) -> [i64; 5] {
        [
            shape.hidden_size,
            shape.intermediate_size,
            shape.num_hidden_layers,
            shape.num_attention_heads,
            shape.num_key_value_heads,
        ]
    }

    fn near(model: &ModelConfig, parameters: i64) -> anyhow::Result<Shape> {
        find(model, &Wish { parameters: Some(parameters), ..Wish::default() })
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
                let found = parameters(&model, &shape) as f64;
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
        let wish = Wish { parameters: Some(60_000_000), hidden_size: Some(384), layers: Some(24), ..Wish::default() };
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
        assert!(message.contains("is not below the 134515008 parameters"), "{message}");
        let message = near(&model, 1_000).unwrap_err().to_string();
        assert!(message.contains("the nearest has"), "{message}");
        let odd = Wish { hidden_size: Some(7), ..Wish::default() };
        assert_eq!(find(&model, &odd).unwrap().num_attention_heads, 1, "one head divides anything");
    }
}
