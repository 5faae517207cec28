//! What is to be cut from what, and which weight of the source becomes which of the pruned model.

use super::equivalence::CheckRows;
use crate::files::DType;
use crate::hf::Checkpoint;
use crate::model::{Parameter, parameters::layer_name};
use shearling_masks::{Gates, KeepPlan, MaskSpec};
use std::path::Path;
use tch::Device;

/// What to convert and how.
#[derive(Debug)]
pub struct Conversion<'a> {
    /// Source weights (the trained ones of a run, or an untouched checkpoint).
    pub source: &'a Checkpoint,
    /// Folder whose tokenizer and generation files are carried along.
    pub companions: &'a Path,
    /// The masks' source and target shape.
    pub spec: &'a MaskSpec,
    /// Final gates: 0 for removed units.
    pub gates: &'a Gates,
    /// Kept units.
    pub plan: &'a KeepPlan,
    /// Kind of the written weights.
    pub dtype: DType,
    /// Size at which a weight file is split.
    pub max_shard_bytes: u64,
    /// Real rows on which masked and pruned model must agree.
    pub check_rows: &'a CheckRows,
    /// Where the check runs; fold and slice run on the CPU, beside the files.
    pub device: Device,
    /// Publishes even what the check refuses, with that on its card.
    pub unproven: bool,
}

/// The source's parameter that becomes `parameter` of the pruned model.
pub(super) fn source_parameter(parameter: &Parameter, plan: &KeepPlan) -> Parameter {
    let mut origin = parameter.clone();
    if let Some(layer) = parameter.layer {
        let source = plan.layers[layer as usize].source_index;
        let prefix = layer_name(layer, "");
        let suffix = parameter.name.strip_prefix(&prefix).unwrap_or(&parameter.name);
        origin.name = layer_name(source, suffix);
        origin.layer = Some(source);
    }
    origin
}
