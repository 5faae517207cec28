//! What a device can do at most: the denominator of model FLOPs utilisation.

use crate::native::ops::projection::project;
use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};

/// Dense peaks of an H100 or H200 (SXM), FLOP/s: bf16 and fp16, and fp32 as libtorch computes it unless told otherwise
/// (no TF32).
const H200_HALF_FLOPS: f64 = 989e12;
const H200_FLOAT_FLOPS: f64 = 67e12;
/// Side of the square matrices that measure a CPU: large enough that the rate no longer grows.
const SIDE: i64 = 2048;
/// Products of which the fastest counts.
const PRODUCTS: usize = 5;

/// FLOP/s of `device` in computations of `kind`: the known peak of a GPU, the measured rate of a CPU.
pub(super) fn flops(device: Device, kind: Kind) -> Result<f64, TchError> {
    match device {
        Device::Cuda(_) if kind == Kind::Float => Ok(H200_FLOAT_FLOPS),
        Device::Cuda(_) => Ok(H200_HALF_FLOPS),
        _ => measured(device, kind),
    }
}

fn measured(device: Device, kind: Kind) -> Result<f64, TchError> {
    let _no_grad = tch::no_grad_guard();
    let matrix = || Tensor::f_ones([SIDE, SIDE], (kind, device));
    let (x, weight) = (matrix()?, matrix()?);
    let mut best = f64::INFINITY;
    for _ in 0..=PRODUCTS {
        let start = Instant::now();
        project(&x, &[(&weight, None)])?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best)
}
