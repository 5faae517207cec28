//! Writes a grouped model: a Hugging Face folder that any program loads as the dense model it is, with `lte.safetensors` beside
//! the weights.

use super::error::Error;
use super::experts::{Experts, Grouping};
use super::file;
use super::permute::{grouped_config, grouped_model, permuted_weight};
use crate::files::{DType, Staging, ensure_space};
use crate::hf::{CardShape, Checkpoint, EMBEDDING, ModelCard, ModelConfig, ShardWriter, TensorPlan, carry_companions};
use crate::model::count::ParameterCount;
use crate::model::parameters::parameters;
use crate::prune::scores::Progress;
use std::path::{Path, PathBuf};
use tch::Device;

/// Writes `source` in the order of `experts` to `out`, each weight in the dtype that it has; the folder.
///
/// # Errors
/// A place that is taken, a disk that is full, weights that are missing or not finite, experts of another model.
pub fn write_grouped(
    source: &Checkpoint,
    experts: &Experts,
    out: &Path,
    max_shard_bytes: u64,
    progress: &mut Progress,
) -> Result<PathBuf, Error> {
    let model = grouped_model(source.model(), experts);
    ensure_space(out, source.total_bytes())?;
    let staging = Staging::new(out)?;
    let main = source.dtype(EMBEDDING)?;
    grouped_config(source.config(), experts, main)?.write(staging.path())?;
    let wanted = parameters(&model);
    let plan = wanted.iter().map(|p| {
        let dtype = source.dtype(&p.name)?;
        Ok(TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype })
    });
    let mut writer = ShardWriter::create(staging.path(), plan.collect::<Result<_, Error>>()?, max_shard_bytes)?;
    for (index, parameter) in wanted.iter().enumerate() {
        progress("writing weight", index, wanted.len());
        writer.write(&parameter.name, &permuted_weight(source, experts, parameter, Device::Cpu)?)?;
        source.stored(&parameter.name)?.release();
    }
    writer.finish()?;
    file::write(staging.path(), experts, DType::F32)?;
    carry_companions(source.dir(), staging.path())?;
    card(source, &model, experts)?.write(staging.path())?;
    Ok(staging.publish()?)
}

/// Provenance of the grouped folder: that of the source, and one line more.
fn card(source: &Checkpoint, model: &ModelConfig, experts: &Experts) -> Result<ModelCard, Error> {
    let before = ModelCard::read(source.dir())?.unwrap_or_default();
    let shape = CardShape::of(model, Some(ParameterCount::of(model).total() as u64));
    let named = before.source.clone().unwrap_or_else(|| ModelCard::folder_name(source.dir()));
    let title = match before.title.is_empty() {
        true => ModelCard::grouped_title(&named),
        false => before.title.clone(),
    };
    let mut stages = before.stages.clone();
    stages.push((stage_name(experts), 0, 0));
    Ok(ModelCard {
        title,
        source: Some(named),
        target_shape: Some(shape),
        stages,
        versions: vec![
            ("shearling".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            ("libtorch".to_string(), "2.11.0 (tch 0.24)".to_string()),
        ],
        ..before
    })
}

fn stage_name(experts: &Experts) -> String {
    let by = match experts.grouping {
        Grouping::KMeans => "k-means",
        Grouping::CoActivation => "co-activation",
        Grouping::Random => "random",
    };
    format!("grouping ({by}, experts of {})", experts.expert_size)
}
