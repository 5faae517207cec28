//! Writes the pruned model: source weights in, one at a time, folded and sliced, streamed into a staged folder,
//! proven equal to the masked model, published.
//!
//! ```text
//! mapped source ─► read ahead ─► fold in blocks of rows, a thread each ─► their place in the shard ─► flushed behind
//! ```

use super::blocks::Workers;
use super::conversion::{Conversion, source_parameter};
use super::equivalence::{Equivalence, check};
use super::fold::Folder;
use super::shape::pruned_config;
use super::{Error, Transfer, read_ahead};
use crate::files::{Staging, ensure_space};
use crate::hf::{self, Checkpoint, KeptLayer, ModelCard, ShardWriter, TensorPlan, carry_companions};
use crate::model::{ModelConfig, parameters::parameters};
use shearling_masks::LayerKeep;
use std::path::Path;
use std::time::Instant;

/// A published conversion.
#[derive(Clone, Debug)]
pub struct Converted {
    /// What writing the weights cost.
    pub transfer: Transfer,
    /// How far masked and pruned model are apart.
    pub equivalence: Equivalence,
}

/// Makes the pruned folder at `destination`. It appears there only when the check has passed (or is waived by
/// `unproven`); `card` gets what was measured before it is written. `progress` is told each finished step of the work.
pub fn convert(
    conversion: &Conversion,
    destination: &Path,
    mut card: ModelCard,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Converted, Error> {
    let _no_grad = tch::no_grad_guard();
    let staging = Staging::new(destination)?;
    let transfer = write_model(conversion, staging.path(), progress)?;
    carry_companions(conversion.companions, staging.path())?;
    let pruned = Checkpoint::open(staging.path())?;
    let equivalence = check(conversion, conversion.gates, &pruned, progress)?;
    if !equivalence.passed() && !conversion.unproven {
        return Err(Error::NotEqual(Box::new(equivalence)));
    }
    card.equivalence = Some(on_the_card(&equivalence));
    card.kept = Some(kept(conversion));
    if let Some(cut) = &mut card.cut {
        cut.rows = u64::try_from(equivalence.rows).unwrap_or_default();
        cut.cut = equivalence.rounding.masked_loss + equivalence.rounding.written.loss_change;
    }
    card.write(staging.path())?;
    staging.publish()?;
    Ok(Converted { transfer, equivalence })
}

fn kept(conversion: &Conversion) -> Vec<KeptLayer> {
    let group_size = conversion.spec.source().group_size();
    let layer =
        |layer: &LayerKeep| KeptLayer { source_layer: layer.source_index, heads: layer.query_heads(group_size) };
    conversion.plan.layers.iter().map(layer).collect()
}

fn on_the_card(equivalence: &Equivalence) -> hf::Equivalence {
    let rounding = &equivalence.rounding;
    hf::Equivalence {
        error: equivalence.folded,
        bound: equivalence.folded_bound,
        dtype: Some(rounding.dtype.name().to_string()),
        loss_change: Some(rounding.written.loss_change),
        mean_kl: Some(rounding.written.mean_kl),
        unproven: (!equivalence.passed()).then(|| equivalence.to_string()),
    }
}

/// Writes configuration and weights of the pruned model into an existing folder, unchecked: the first half of
/// [`convert`], by itself for benchmarks.
pub fn write_model(
    conversion: &Conversion,
    folder: &Path,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Transfer, Error> {
    require_complete(conversion.source, conversion.source.model())?;
    let dtype = conversion.dtype;
    let config = pruned_config(conversion.source.config(), conversion.spec, conversion.plan, dtype)?;
    config.write(folder)?;
    write_weights(conversion, &config.model()?, folder, progress)
}

/// Refuses a checkpoint that is not the network of its config: without all the weights that it asks for, or with others
/// that this network would not use.
pub fn require_complete(checkpoint: &Checkpoint, model: &ModelConfig) -> Result<(), Error> {
    let expected: Vec<(String, Vec<i64>)> = parameters(model).into_iter().map(|p| (p.name, p.shape)).collect();
    let report = checkpoint.check(&expected);
    if report.is_exact() {
        return Ok(());
    }
    // What is missing is told with what it may be called; the rest needs a word on what to do.
    let advice = match report.unused.is_empty() {
        true => "",
        false => {
            "\nWithout the unused tensors it is another network than the one that was trained: put config.json right, or \
             remove them from the weights if they are leftovers (load_file and save_file of safetensors.torch)"
        }
    };
    Err(Error::Incomplete { path: checkpoint.dir().to_path_buf(), report: format!("{report}{advice}") })
}

fn write_weights(
    conversion: &Conversion,
    pruned: &ModelConfig,
    folder: &Path,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Transfer, Error> {
    let (source, dtype) = (conversion.source, conversion.dtype);
    let wanted = parameters(pruned);
    let plan: Vec<TensorPlan> =
        wanted.iter().map(|p| TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype }).collect();
    ensure_space(folder, plan.iter().filter_map(TensorPlan::bytes).sum())?;
    let start = Instant::now();
    let mut writer = ShardWriter::create(folder, plan, conversion.max_shard_bytes)?;
    let folder = Folder::new(source.model(), conversion.plan, conversion.gates)?;
    let folds = wanted.iter().map(|parameter| {
        let origin = source_parameter(parameter, conversion.plan);
        let kept = parameter.layer.map(|layer| layer as usize);
        folder.bind(parameter.role, kept, source.stored(&origin.name)?, dtype)
    });
    let (mut workers, mut transfer, mut done) = (Workers::new(), Transfer::default(), 0);
    read_ahead::for_each(folds, |fold| {
        writer.write_pieces(&wanted[done].name, &fold.shape(), |region| {
            workers.fold(&fold, |offset, bytes| Ok(region.write_at(offset, bytes)?))
        })?;
        transfer.add(fold.source_bytes(), (fold.rows() * fold.row_bytes()) as u64);
        fold.source().release();
        done += 1;
        progress("folding", done, wanted.len());
        Ok(())
    })?;
    writer.finish()?;
    Ok(transfer.since(start))
}
