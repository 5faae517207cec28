//! Writes the pruned model: source weights in, one at a time, folded and sliced, streamed into a staged folder,
//! proven equal to the masked model, published.

use super::Error;
use super::equivalence::{Equivalence, check};
use super::fold::Folder;
use super::shape::pruned_config;
use crate::checkpoint::{self, Checkpoint, DType, ModelCard, ShardWriter, Staging, TensorPlan, carry_companions};
use crate::config::Dtype;
use crate::model::{HfModel, Parameter, parameters::layer_name, parameters::parameters};
use shearling_masks::{Gates, KeepPlan, MaskSpec};
use std::path::Path;
use tch::{Device, Tensor};

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
    pub dtype: Dtype,
    /// Size at which a weight file is split.
    pub max_shard_bytes: u64,
    /// Real rows `[N, T]` (int64) on which masked and pruned model must agree.
    pub check_rows: &'a Tensor,
    /// Where the work is done.
    pub device: Device,
}

/// Makes the pruned folder at `destination`. It appears there only when the check has passed; `card` gets the
/// measured error before it is written. `progress` is told each finished step of the work.
pub fn convert(
    conversion: &Conversion,
    destination: &Path,
    mut card: ModelCard,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Equivalence, Error> {
    let _no_grad = tch::no_grad_guard();
    let source_model = conversion.source.model();
    require_complete(conversion.source, source_model)?;
    let staging = Staging::new(destination)?;
    let dtype = conversion.dtype.into();
    let config = pruned_config(conversion.source.config(), conversion.spec, conversion.plan, dtype)?;
    config.write(staging.path())?;
    write_weights(conversion, source_model, &config.model()?, staging.path(), progress)?;
    carry_companions(conversion.companions, staging.path())?;
    let pruned = Checkpoint::open(staging.path())?;
    let equivalence = check(conversion, &pruned, progress)?;
    if !equivalence.passed() {
        return Err(Error::NotEqual(Box::new(equivalence)));
    }
    card.equivalence =
        Some(checkpoint::Equivalence { error: equivalence.written, bound: equivalence.written_tolerance });
    card.write(staging.path())?;
    staging.publish()?;
    Ok(equivalence)
}

/// Refuses a checkpoint without all the weights that its config asks for.
pub fn require_complete(checkpoint: &Checkpoint, model: &HfModel) -> Result<(), Error> {
    let expected: Vec<(String, Vec<i64>)> = parameters(model).into_iter().map(|p| (p.name, p.shape)).collect();
    let report = checkpoint.check(&expected);
    if report.is_complete() {
        return Ok(());
    }
    Err(Error::Incomplete { path: checkpoint.dir().to_path_buf(), report: report.to_string() })
}

fn write_weights(
    conversion: &Conversion,
    source: &HfModel,
    pruned: &HfModel,
    folder: &Path,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<(), Error> {
    let wanted = parameters(pruned);
    let dtype = DType::from(conversion.dtype);
    let plan = wanted.iter().map(|p| TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype }).collect();
    let mut writer = ShardWriter::create(folder, plan, conversion.max_shard_bytes)?;
    let folder = Folder::new(source, conversion.plan, conversion.gates, conversion.device);
    for (done, parameter) in wanted.iter().enumerate() {
        let origin = source_parameter(parameter, conversion.plan);
        let weight = conversion.source.tensor(&origin.name, tch::Kind::Float, conversion.device)?;
        let kept = parameter.layer.map(|layer| layer as usize);
        writer.write(&parameter.name, &folder.fold(&origin, kept, &weight)?)?;
        progress("folding", done + 1, wanted.len());
    }
    writer.finish()?;
    Ok(())
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
