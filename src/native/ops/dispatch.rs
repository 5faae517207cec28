//! Which backend computes an operation.

use tch::{Device, Kind, TchError, Tensor};

/// What computes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// The kernel of `cpp/` on the CPU.
    Cpu,
    /// The reference of the same function, composed of libtorch's operators.
    Composed,
}

/// The backend for activations like `x`: the CPU's kernels take fp32 and bf16; CUDA, f64 and fp16 are composed.
pub(super) fn backend(x: &Tensor) -> Result<Backend, TchError> {
    Ok(match x.f_kind()? {
        Kind::Float | Kind::BFloat16 if x.device() == Device::Cpu => Backend::Cpu,
        _ => Backend::Composed,
    })
}

/// The dtype that a reference computes in: fp32, or f64 for f64.
pub(super) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
