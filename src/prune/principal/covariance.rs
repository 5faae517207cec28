//! The second moments of the residual stream as the norms see it: `C = Σ x̂ᵀx̂` with `x̂ = x / rms(x)`, over all tokens of the
//! calibration rows and the input of every norm. Normalised, because that is what the layers read, and because a few tokens
//! of real models are a thousand times larger than the rest.

use super::super::Error;
use super::super::scores::{Calibration, Progress, micro_batches, weights};
use crate::hf::Checkpoint;
use crate::model::probe::Site;
use crate::model::{Block, Embedding, ForwardContext, ModelGates};
use tch::{Device, Kind, TchError, Tensor};

/// C `[D, D]`, fp64, on `device`; its trace is D times the number of vectors.
pub(super) fn covariance(
    source: &Checkpoint,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Tensor, Error> {
    let _no_grad = tch::no_grad_guard();
    let (model, none) = (source.model(), ModelGates::none());
    let mut weight = weights(source, calibration, device);
    let context = ForwardContext::new(model, calibration.rows.size()[1], device)?;
    let embedding = Embedding::build(model, &mut weight)?;
    let streams = micro_batches(calibration)?.into_iter().map(|ids| embedding.forward(&ids, &none));
    let mut streams = streams.collect::<Result<Vec<_>, _>>()?;
    drop(embedding);
    let size = model.hidden_size;
    let mut sum = Tensor::f_zeros([size, size], (Kind::Double, device))?;
    for layer in 0..model.num_hidden_layers {
        progress("measuring the stream before layer", layer as usize, model.num_hidden_layers as usize);
        let block = Block::build(model, layer, &mut weight)?;
        for x in &mut streams {
            let layer_context = context.layer(model, &none, layer, x.size()[1])?;
            *x = block.forward_probed(x, &layer_context, &mut |site, seen| match site {
                Site::AttentionInput | Site::FeedForwardInput => add(&mut sum, seen, model.rms_norm_eps),
                _ => Ok(()),
            })?;
        }
        source.release();
    }
    // What the final norm reads.
    for x in &streams {
        add(&mut sum, x, model.rms_norm_eps)?;
    }
    Ok(sum)
}

fn add(sum: &mut Tensor, x: &Tensor, eps: f64) -> Result<(), TchError> {
    let x = x.f_to_kind(Kind::Float)?.f_reshape([-1, sum.size()[0]])?;
    let mean_square = x.f_square()?.f_mean_dim(&[-1i64][..], true, Kind::Float)?;
    let normed = x.f_mul(&mean_square.f_add_scalar(eps)?.f_rsqrt()?)?;
    let _ = sum.f_add_(&normed.f_transpose(0, 1)?.f_matmul(&normed)?.f_to_kind(Kind::Double)?)?;
    Ok(())
}
