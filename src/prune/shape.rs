//! From a model and a `[target]` table to the shapes that the masks work between.

use crate::checkpoint::{HfConfig, HfModel, NewShape};
use crate::config::{Dtype, Target};
use shearling_masks::{KeepPlan, MaskSpec, Shape};

/// The prunable dimensions of a model.
pub fn source_shape(model: &HfModel) -> Shape {
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
pub fn mask_spec(model: &HfModel, target: &Target) -> Result<MaskSpec, shearling_masks::Error> {
    let source = source_shape(model);
    MaskSpec::new(&source, &target_shape(&source, target))
}

/// The configuration of the model with exactly `target`'s shape, before it is known which layers stay: for
/// counting. (Which layers stay only matters for per-layer entries, which do not change counts.)
pub fn target_model(config: &HfConfig, target: &Shape) -> Result<HfModel, crate::checkpoint::Error> {
    let layers: Vec<i64> = (0..target.num_hidden_layers).collect();
    config.with_shape(&new_shape(target, &layers), None).model()
}

/// The configuration of the pruned model, its per-layer entries following the kept layers.
pub fn pruned_config(config: &HfConfig, spec: &MaskSpec, plan: &KeepPlan, dtype: Option<Dtype>) -> HfConfig {
    let layers: Vec<i64> = plan.layers.iter().map(|layer| layer.source_index).collect();
    config.with_shape(&new_shape(spec.target(), &layers), dtype.map(Into::into))
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
