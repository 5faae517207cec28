//! Whether a kernel of ours computes an operation, or libtorch's operators do.

use crate::native::kernels::{self, Path};
use tch::{Device, Kind, TchError, Tensor};

/// What computes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// A kernel: of `cpp/` on the CPU, of `cu/` on a GPU.
    Kernel,
    /// The reference of the same function, composed of libtorch's operators.
    Composed,
}

/// The backend for activations like `x`: kernels take fp32 and bf16, on the CPU and on a GPU for which they are compiled.
pub(super) fn backend(x: &Tensor) -> Result<Backend, TchError> {
    Ok(match x.f_kind()? {
        Kind::Float | Kind::BFloat16 if kernels::compute_on(x.device()) => Backend::Kernel,
        _ => Backend::Composed,
    })
}

/// The same for an operation that has no kernel in `cu/`.
pub(super) fn cpu_backend(x: &Tensor) -> Result<Backend, TchError> {
    Ok(match backend(x)? {
        Backend::Kernel if x.device() == Device::Cpu && Path::current() == Path::Own => Backend::Kernel,
        _ => Backend::Composed,
    })
}

/// Whether kernels of `cu/` compute activations like `x`: on a GPU, or on the CPU as a GPU does.
pub(super) fn device_kernels(x: &Tensor) -> Result<bool, TchError> {
    Ok(backend(x)? == Backend::Kernel && cpu_backend(x)? == Backend::Composed)
}

/// The dtype that a reference computes in: fp32, or f64 for f64.
pub(super) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
