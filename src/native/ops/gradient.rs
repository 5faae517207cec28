//! Gradient buffers that exist before the first backward.
//!
//! Backward adds to the `grad` of a leaf in place when there is one. So a bf16 leaf with an fp32 buffer gets its
//! micro-batches added up in fp32, with no bf16 gradient kept between them.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_set_gradient_buffer(leaf: CTensor, buffer: CTensor, error: CError) -> c_int;
}

/// Makes `buffer` the `grad` of `leaf`: same shape and device, any floating-point dtype.
///
/// # Errors
/// `leaf` is no leaf that requires a gradient, or `buffer` does not fit it.
pub fn set_gradient_buffer(leaf: &Tensor, buffer: &Tensor) -> Result<(), TchError> {
    // SAFETY: both are live tensors for the time of the call.
    shim::check(|error| unsafe { shearling_set_gradient_buffer(shim::pointer(leaf), shim::pointer(buffer), error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn bf16_gradients_add_up_in_fp32() {
        let leaf = Tensor::ones([3], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
        let buffer = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        set_gradient_buffer(&leaf, &buffer).unwrap();
        // 256 + 1 is not a bf16 number: a bf16 sum would stay at 256.
        for factor in [256.0, 1.0] {
            (&leaf * factor).sum(Kind::Float).backward();
        }
        assert_eq!(Vec::<f32>::try_from(&buffer).unwrap(), [257.0; 3]);
        assert_eq!(leaf.grad().data_ptr(), buffer.data_ptr());
    }

    #[test]
    fn a_buffer_that_does_not_fit_is_refused() {
        let leaf = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        for (leaf, buffer) in [
            (leaf.shallow_clone(), Tensor::zeros([4], (Kind::Float, Device::Cpu))),
            (leaf.shallow_clone(), Tensor::zeros([3], (Kind::Int64, Device::Cpu))),
            (leaf.detach(), Tensor::zeros([3], (Kind::Float, Device::Cpu))),
            (&leaf * 2.0, Tensor::zeros([3], (Kind::Float, Device::Cpu))),
        ] {
            assert!(set_gradient_buffer(&leaf, &buffer).is_err());
        }
    }
}
