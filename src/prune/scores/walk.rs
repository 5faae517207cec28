//! Runs the calibration rows through the source, one layer of weights in memory at a time, and shows what happens inside:
//! what scores by activations, the principal basis and grouping by co-activation are measured with.

use super::super::Error;
use super::{Calibration, Progress, micro_batches, weights};
use crate::hf::Checkpoint;
use crate::model::probe::Site;
use crate::model::{Block, Embedding, ForwardContext, ModelGates};
use tch::{Device, TchError, Tensor};

/// Is shown every part of the rows in every layer.
pub trait Visitor {
    /// Activations inside a layer, of some rows.
    fn inside(&mut self, layer: i64, site: Site, seen: &Tensor) -> Result<(), TchError>;

    /// The residual stream `[B, T, D]` before and after a layer, of the same rows.
    fn passed(&mut self, _layer: i64, _before: &Tensor, _after: &Tensor) -> Result<(), TchError> {
        Ok(())
    }
}

/// Walks through all layers; the residual streams after the last one, a micro-batch each. `what` is told as progress.
pub fn walk(
    source: &Checkpoint,
    calibration: &Calibration,
    device: Device,
    visitor: &mut dyn Visitor,
    what: &str,
    progress: &mut Progress,
) -> Result<Vec<Tensor>, Error> {
    let _no_grad = tch::no_grad_guard();
    let (model, none) = (source.model(), ModelGates::none());
    let (layers, tokens) = (model.num_hidden_layers, calibration.rows.size()[1]);
    let mut weight = weights(source, calibration, device);
    let context = ForwardContext::new(model, tokens, device)?;
    let embedding = Embedding::build(model, &mut weight)?;
    let streams = micro_batches(calibration)?.into_iter().map(|ids| embedding.forward(&ids, &none));
    let mut streams = streams.collect::<Result<Vec<_>, _>>()?;
    drop(embedding);
    for layer in 0..layers {
        progress(what, layer as usize, layers as usize);
        let block = Block::build(model, layer, &mut weight)?;
        for x in &mut streams {
            let layer_context = context.layer(model, &none, layer, tokens)?;
            let after = block.forward_probed(x, &layer_context, &mut |site, seen| visitor.inside(layer, site, seen))?;
            visitor.passed(layer, x, &after)?;
            *x = after;
        }
        source.release();
    }
    Ok(streams)
}
