//! Which units of the source make up the small model, in the words of a reader: layers, heads, widths.

use serde::Serialize;
use shearling_masks::{KeepPlan, LayerKeep, Shape};
use std::collections::BTreeSet;

/// What stays when the masks are cut to the target.
#[derive(Clone, Debug, Serialize)]
pub struct Survivors {
    /// Finished steps of the masks.
    pub step: u64,
    /// The mask file, relative to the run folder.
    pub path: String,
    /// Shape of the source.
    pub source: Shape,
    /// Shape after the cut.
    pub target: Shape,
    /// Hidden dimensions that stay.
    pub hidden: usize,
    /// Layers of the source that go.
    pub removed_layers: Vec<i64>,
    /// Layers that stay.
    pub layers: Vec<SurvivingLayer>,
}

/// What stays of a layer; indices are the source's.
#[derive(Clone, Debug, Serialize)]
pub struct SurvivingLayer {
    /// Index in the source.
    pub source_layer: i64,
    /// Index in the small model.
    pub becomes: usize,
    /// Query heads that stay.
    pub heads: Vec<i64>,
    /// Key/value heads that stay.
    pub kv_heads: Vec<i64>,
    /// Places inside every group that stay.
    pub query_slots: Vec<i64>,
    /// How many MLP units stay.
    pub intermediate: usize,
}

impl Survivors {
    /// In the words of a keep-plan from `source` to `target`.
    pub fn of(plan: &KeepPlan, source: &Shape, target: &Shape, step: u64, path: String) -> Survivors {
        let group_size = source.group_size();
        let layer = |(becomes, layer): (usize, &LayerKeep)| SurvivingLayer {
            source_layer: layer.source_index,
            becomes,
            heads: layer.query_heads(group_size),
            kv_heads: layer.kv_heads.clone(),
            query_slots: layer.query_slots.clone(),
            intermediate: layer.intermediate.len(),
        };
        let stay: BTreeSet<i64> = plan.layers.iter().map(|layer| layer.source_index).collect();
        Survivors {
            step,
            path,
            source: source.clone(),
            target: target.clone(),
            hidden: plan.hidden.len(),
            removed_layers: (0..source.num_hidden_layers).filter(|index| !stay.contains(index)).collect(),
            layers: plan.layers.iter().enumerate().map(layer).collect(),
        }
    }
}
