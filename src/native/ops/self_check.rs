//! Whether a GPU's kernels compute there what they should: a small forward and backward through most of them, against the CPU.
//! Asked once at the start of a run, so that kernels that are wrong on some GPU cost their speed and not the run. `bench
//! check` asks more.

use super::autograd::backward;
use super::cross_entropy::linear_cross_entropy;
use super::embedding::embedding;
use super::projection::project_gated;
use super::rms_norm::rms_norm;
use super::rope::rope;
use super::swiglu::swiglu;
use crate::native::kernels;
use tch::{Device, Kind, TchError, Tensor};

/// Largest difference, relative to the largest number: bf16 rounds to 2⁻⁹.
const BOUND: f64 = 2e-2;

/// Compares, on a GPU with kernels, and takes the kernels out of use where they differ; [`kernels::state`] then says so.
///
/// # Errors
/// What libtorch says.
pub fn check_kernels(device: Device) -> Result<(), TchError> {
    let Device::Cuda(gpu) = device else { return Ok(()) };
    if !kernels::compute_on(device) {
        return Ok(());
    }
    let worst = match difference(device) {
        Ok(worst) if worst <= BOUND => return Ok(()),
        Ok(worst) => format!("off by {worst:.1e} of the largest number"),
        Err(error) => error.to_string(),
    };
    kernels::distrust(gpu, worst);
    Ok(())
}

/// Largest relative difference between `device` and the CPU, of outputs and gradients in bf16 and fp32.
fn difference(device: Device) -> Result<f64, TchError> {
    let mut worst: f64 = 0.0;
    for kind in [Kind::Float, Kind::BFloat16] {
        for (expected, found) in pass(kind, Device::Cpu)?.iter().zip(&pass(kind, device)?) {
            let size = expected.f_abs()?.f_max()?.f_double_value(&[])?.max(f64::MIN_POSITIVE);
            let off = expected.f_sub(found)?.f_abs()?.f_max()?.f_double_value(&[])? / size;
            worst = if off.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(off) };
        }
    }
    Ok(worst)
}

/// Loss and gradients of two heads' worth of a layer, on the CPU in fp32.
fn pass(kind: Kind, device: Device) -> Result<Vec<Tensor>, TchError> {
    let waves = |shape: &[i64], step: f64| {
        let count = shape.iter().product::<i64>();
        let angles = Tensor::f_arange(count, (Kind::Double, Device::Cpu))?.f_mul_scalar(step)?;
        angles.f_sin()?.f_view(shape)?.f_to_kind(kind)?.f_to_device(device)
    };
    let leaf = |shape: &[i64], step: f64| waves(shape, step)?.f_set_requires_grad(true);
    let leaves = [leaf(&[50, 48], 0.7)?, leaf(&[48], 0.3)?, leaf(&[48, 48], 0.11)?, leaf(&[40, 48], 0.13)?];
    let gate = waves(&[48], 0.17)?.f_to_kind(Kind::Float)?.f_set_requires_grad(true)?;
    let ids = Tensor::f_arange(20, (Kind::Int64, device))?.f_mul_scalar(7)?.f_remainder(50)?.f_view([2, 10])?;
    let angles = waves(&[10, 8], 0.05)?.f_to_kind(Kind::Float)?;
    let angles = Tensor::f_cat(&[&angles, &angles], 1)?;
    let x = embedding(&ids, &leaves[0], Some(&gate))?;
    let (normed, stream) = rms_norm(&x, &leaves[1], None, 1e-5)?;
    let turned = rope(&normed.f_view([2, 10, 3, 16])?, &angles.f_cos()?, &angles.f_sin()?)?.f_view([2, 10, 48])?;
    let inner = swiglu(&turned, &normed, Some(&gate))?;
    let mixed = project_gated(&inner, &leaves[2], Some(&gate), Some(&gate), None, &stream)?;
    let targets = ids.f_view([20])?.f_remainder(40)?;
    let loss = linear_cross_entropy(&mixed.f_view([20, 48])?, &leaves[3], &targets, 0.05, 8)?;
    backward(&[loss.objective.shallow_clone()], &[loss.objective.f_ones_like()?])?;
    let host = |tensor: &Tensor| tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float);
    let gradients = leaves.iter().chain([&gate]).map(|leaf| host(&leaf.grad()));
    [host(&loss.token_losses)].into_iter().chain(gradients).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::kernels::{Path, compute_by};

    #[test]
    fn the_paths_of_a_gpu_pass_and_a_fault_would_not() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let own = pass(kind, Device::Cpu).unwrap();
            for path in [Path::DeviceKernels, Path::Composed] {
                let _path = compute_by(path);
                for (a, b) in own.iter().zip(pass(kind, Device::Cpu).unwrap()) {
                    let size = a.abs().max().double_value(&[]);
                    let off = (a - &b).abs().max().double_value(&[]) / size;
                    assert!(off < BOUND, "{path:?} {kind:?}: {off}");
                    assert!(size > 0.0 && b.isfinite().all().int64_value(&[]) == 1);
                    // One number in the wrong place is more than the bound allows.
                    let shifted = a.view([-1]).roll([1i64], [0i64]);
                    assert!((a.view([-1]) - shifted).abs().max().double_value(&[]) / size > BOUND);
                }
            }
        }
        check_kernels(Device::Cpu).unwrap();
    }
}
