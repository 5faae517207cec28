//! From a model and a `[target]` table to the shapes that the masks work between.

use crate::config::Target;
use crate::files::{DType, Result};
use crate::hf::{ModelConfig, NewShape, RawConfig};
use shearling_masks::{KeepPlan, MaskSpec, Shape};

/// The prunable dimensions of a model.
pub fn source_shape(model: &ModelConfig) -> Shape {
    Shape {
        hidden_size: model.hidden_size,
        intermediate_size: model.intermediate_size,
        num_hidden_layers: model.num_hidden_layers,
        num_attention_heads: model.num_attention_heads,
        num_key_value_heads: model.num_key_value_heads,
        head_dim: model.head_dim,
    }
}

/// The target shape: what `[target]` does not name stays. Without a number of its own, the KV head count follows
/// the heads when every head of the source has its own (multi-head attention), and stays otherwise.
pub fn target_shape(source: &Shape, target: &Target) -> Shape {
    let heads = target.num_attention_heads.unwrap_or(source.num_attention_heads);
    let multi_head = source.num_key_value_heads == source.num_attention_heads;
    let kv = target.num_key_value_heads.unwrap_or(if multi_head { heads } else { source.num_key_value_heads });
    Shape {
        hidden_size: target.hidden_size.unwrap_or(source.hidden_size),
        intermediate_size: target.intermediate_size.unwrap_or(source.intermediate_size),
        num_hidden_layers: target.num_hidden_layers.unwrap_or(source.num_hidden_layers),
        num_attention_heads: heads,
        num_key_value_heads: kv,
        head_dim: target.head_dim.unwrap_or(source.head_dim),
    }
}

/// Which masks a model needs to reach `[target]`; refuses what cannot be reached.
pub fn mask_spec(model: &ModelConfig, target: &Target) -> shearling_masks::Result<MaskSpec> {
    let source = source_shape(model);
    MaskSpec::new(&source, &target_shape(&source, target))
}

/// Every reason for which [`mask_spec`] refuses a target; none if it does not.
pub fn unreachable(model: &ModelConfig, target: &Target) -> Vec<shearling_masks::Error> {
    let source = source_shape(model);
    MaskSpec::problems(&source, &target_shape(&source, target))
}

/// The model with exactly `target`'s shape, for counting before it is known which layers stay. (That only matters for
/// per-layer entries, which count nothing; the first ones are taken.)
pub fn resized(model: &ModelConfig, target: &Shape) -> ModelConfig {
    let mut small = model.clone();
    small.hidden_size = target.hidden_size;
    small.intermediate_size = target.intermediate_size;
    small.num_hidden_layers = target.num_hidden_layers;
    small.num_attention_heads = target.num_attention_heads;
    small.num_key_value_heads = target.num_key_value_heads;
    small.sliding_window.truncate(target.num_hidden_layers as usize);
    small
}

/// The configuration of the pruned model, its per-layer entries following the kept layers.
pub fn pruned_config(config: &RawConfig, spec: &MaskSpec, plan: &KeepPlan, dtype: DType) -> Result<RawConfig> {
    let layers: Vec<i64> = plan.layers.iter().map(|layer| layer.source_index).collect();
    config.with_shape(&new_shape(spec.target(), &layers), dtype)
}

/// The configuration of the pruned model before it is known which layers stay: the first ones are taken, as in
/// [`resized`].
pub fn planned_config(config: &RawConfig, spec: &MaskSpec, dtype: DType) -> Result<RawConfig> {
    let layers: Vec<i64> = (0..spec.target().num_hidden_layers).collect();
    config.with_shape(&new_shape(spec.target(), &layers), dtype)
}

fn new_shape<'a>(target: &Shape, kept_layers: &'a [i64]) -> NewShape<'a> {
    NewShape {
        hidden_size: target.hidden_size,
        intermediate_size: target.intermediate_size,
        num_attention_heads: target.num_attention_heads,
        num_key_value_heads: target.num_key_value_heads,
        head_dim: target.head_dim,
        kept_layers,
    }
}
