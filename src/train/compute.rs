//! What a run computes in, and where.

use crate::config::ComputeDtype;
use crate::files::DType;
use crate::native::runtime::precision::has_bf16;
use tch::Kind;

/// Where tensors live (libtorch's device).
pub type Device = tch::Device;

/// What `run.dtype` means on `device`. A run writes the answer into its resolved.toml, so a resume on another machine
/// keeps it.
pub fn compute_dtype(asked: ComputeDtype, device: Device) -> DType {
    match asked {
        ComputeDtype::Fixed(dtype) => dtype,
        ComputeDtype::Auto if has_bf16(device) => DType::BF16,
        ComputeDtype::Auto => DType::F32,
    }
}

/// libtorch's kind of a dtype.
pub fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::F32 => Kind::Float,
        DType::BF16 => Kind::BFloat16,
        DType::F16 => Kind::Half,
    }
}
