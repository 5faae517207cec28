//! A mask file in numbers: what survives in each layer, and what is undecided.

use serde::Serialize;
use shearling_masks::{KeepPlan, LayerKeep, MaskReport, MaskSet, Shape};
use std::path::Path;
use tch::Device;

/// A mask file, cut to its target.
#[derive(Debug, Serialize)]
pub struct MaskSummary {
    /// Shape of the source.
    pub source: Shape,
    /// Shape after the cut.
    pub target: Shape,
    /// Sparsity of the prunable weights that the masks expect now.
    pub expected_sparsity: f64,
    /// Sparsity of the target.
    pub target_sparsity: f64,
    /// State of every mask.
    pub report: MaskReport,
    /// Units that stay when the masks are cut to the target.
    pub plan: KeepPlan,
}

impl MaskSummary {
    /// Reads a mask file.
    pub fn read(path: &Path) -> Result<MaskSummary, shearling_masks::Error> {
        let masks = MaskSet::load(path, Device::Cpu)?;
        let spec = masks.spec();
        Ok(MaskSummary {
            source: spec.source().clone(),
            target: spec.target().clone(),
            expected_sparsity: masks.expected_size()?.overall_sparsity,
            target_sparsity: 1.0 - spec.target_prunable_params() as f64 / spec.prunable_params() as f64,
            report: MaskReport::new(&masks)?,
            plan: KeepPlan::from_gates(spec, &masks.deterministic_target()?)?,
        })
    }

    /// What stays of a source layer; `None` when it is removed.
    pub fn layer(&self, source_layer: i64) -> Option<&LayerKeep> {
        self.plan.layers.iter().find(|layer| layer.source_index == source_layer)
    }
}
