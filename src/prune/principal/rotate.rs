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
use tch::{Device, Kind, Tensor};

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
    let rotation = basis.rotation.f_to_kind(Kind::Float)?.f_to_device(device)?;
    for (index, parameter) in wanted.iter().enumerate() {
        progress("rotating weight", index, wanted.len());
        let rotated = rotated(source, basis, &rotation, parameter, device)?;
        writer.write(&parameter.name, &rotated.f_to_device(Device::Cpu)?.f_contiguous()?)?;
        source.stored(&parameter.name)?.release();
    }
    writer.finish()?;
    Ok(())
}

/// A weight in the new basis, fp32.
fn rotated(
    source: &Checkpoint,
    basis: &Basis,
    rotation: &Tensor,
    parameter: &Parameter,
    device: Device,
) -> Result<Tensor, Error> {
    use Role::*;
    let of_role = |role: Role| source.finite_tensor(&role.name(parameter.layer), Kind::Float, device);
    let weight = source.finite_tensor(&parameter.name, Kind::Float, device)?;
    let read_through = |norm: Role| -> Result<Tensor, Error> { Ok(weight.f_mul(&of_role(norm)?)?.f_matmul(rotation)?) };
    Ok(match parameter.role {
        Embedding => weight.f_matmul(rotation)?,
        Head => read_through(FinalNorm)?,
        QueryWeight | KeyWeight | ValueWeight => read_through(AttentionNorm)?,
        GateWeight | UpWeight => read_through(FeedForwardNorm)?,
        OutputWeight | DownWeight => rotation.f_transpose(0, 1)?.f_matmul(&weight)?,
        OutputBias | DownBias => weight.f_matmul(rotation)?,
        AttentionNorm | FeedForwardNorm => weight.f_ones_like()?,
        FinalNorm => basis.final_norm.f_to_kind(Kind::Float)?,
        QueryBias | KeyBias | ValueBias | QueryNorm | KeyNorm | GateBias | UpBias => weight,
    })
}
