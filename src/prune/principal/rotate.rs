//! Writes a source in another basis of its residual stream, weight by weight: fp32, whatever the source has, so that the
//! rotation costs no more than its own rounding.

use super::super::Error;
use super::Basis;
use crate::files::DType;
use crate::hf::{Checkpoint, ShardWriter, TensorPlan};
use crate::model::parameters::parameters;
use crate::model::{Parameter, Role};
use crate::prune::scores::Progress;
use std::path::Path;
use tch::{Device, Kind, TchError, Tensor};

/// Writes `source` in `basis` into the existing folder `out`: configuration and weights.
///
/// # Errors
/// Weights that are missing or not finite; a disk that is full; libtorch's.
pub fn rotate(
    source: &Checkpoint,
    basis: &Basis,
    out: &Path,
    max_shard_bytes: u64,
    device: Device,
    progress: &mut Progress,
) -> Result<(), Error> {
    let _no_grad = tch::no_grad_guard();
    source.config().with_dtype(DType::F32)?.write(out)?;
    let wanted = parameters(source.model());
    let plan = wanted.iter().map(|p| TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype: DType::F32 });
    let mut writer = ShardWriter::create(out, plan.collect(), max_shard_bytes)?;
    for (index, parameter) in wanted.iter().enumerate() {
        progress("rotating weight", index, wanted.len());
        let rotated = rotated_weight(source, basis, parameter, device)?;
        writer.write(&parameter.name, &rotated.f_to_device(Device::Cpu)?.f_contiguous()?)?;
        source.stored(&parameter.name)?.release();
    }
    writer.finish()?;
    Ok(())
}

/// The norm weight `[D]` that is left behind: of one value, so that it commutes with the rotation, and of the size of
/// `norm`, so that the weights behind it stay as large as they were. AdamW's steps do not scale with a weight: one that took
/// up a small norm would be torn apart by the first of them.
fn constant(norm: &Tensor) -> Result<Tensor, TchError> {
    let size = norm.f_square()?.f_mean(Kind::Float)?.f_sqrt()?.f_clamp_min(f64::from(f32::MIN_POSITIVE))?;
    size.f_expand(norm.size(), false)?.f_contiguous()
}

/// The weight `parameter` of `source` in `basis`, fp32, on `device`.
///
/// # Errors
/// A weight that is missing or not finite; libtorch's.
pub fn rotated_weight(
    source: &Checkpoint,
    basis: &Basis,
    parameter: &Parameter,
    device: Device,
) -> Result<Tensor, Error> {
    use Role::*;
    let _no_grad = tch::no_grad_guard();
    let rotation = &basis.rotation;
    let of_role = |role: Role| source.finite_tensor(&role.name(parameter.layer), Kind::Float, device);
    let weight = source.finite_tensor(&parameter.name, Kind::Float, device)?;
    let read_through = |norm: Role| -> Result<Tensor, Error> {
        let norm = of_role(norm)?;
        Ok(weight.f_mul(&norm.f_div(&constant(&norm)?)?)?.f_matmul(rotation)?)
    };
    Ok(match parameter.role {
        Embedding => weight.f_matmul(rotation)?,
        Head => read_through(FinalNorm)?,
        QueryWeight | KeyWeight | ValueWeight => read_through(AttentionNorm)?,
        GateWeight | UpWeight => read_through(FeedForwardNorm)?,
        OutputWeight | DownWeight => rotation.f_transpose(0, 1)?.f_matmul(&weight)?,
        OutputBias | DownBias => weight.f_matmul(rotation)?,
        AttentionNorm | FeedForwardNorm => constant(&weight)?,
        FinalNorm => match &basis.tied_norm {
            Some(norm) => norm.f_to_kind(Kind::Float)?,
            None => constant(&weight)?,
        },
        QueryBias | KeyBias | ValueBias | QueryNorm | KeyNorm | GateBias | UpBias => weight,
    })
}
