//! Where a fused kernel runs. Everything else (CUDA, f64, fp16) takes the composed reference of the same function.

use tch::{Device, Kind, TchError, Tensor};

/// Whether the CPU kernels take activations like `x`: fp32 or bf16 on the CPU.
pub(super) fn has_kernel(x: &Tensor) -> Result<bool, TchError> {
    Ok(matches!(x.f_kind()?, Kind::Float | Kind::BFloat16) && x.device() == Device::Cpu)
}

/// The dtype that a reference computes in: fp32, or f64 for f64.
pub(super) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
