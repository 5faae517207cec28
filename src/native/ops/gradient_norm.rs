//! The squared L2 norm of many gradients together, as one number that stays on their device:
//!
//! ```text
//! s = Σ_tensors Σ_i gᵢ²
//! ```
//!
//! Clipping needs it before each update. On the CPU one pass of a kernel of ours, summed in fp64 in an order that does
//! not depend on the threads; on other devices one launch of `_foreach_norm`. NaN and infinity come through.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Device, Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_squared_norm(gradients: *const CTensor, count: usize, out: *mut CTensor, error: CError) -> c_int;
}

/// Σ g² over all `gradients` (fp32, contiguous, all on one device): fp64 of shape `[]` on that device, with no host
/// synchronisation. No gradients: a zero on the CPU.
///
/// # Errors
/// Another dtype, a gradient with gaps, or two devices.
pub fn squared_norm(gradients: &[Tensor]) -> Result<Tensor, TchError> {
    let gradients = shim::pointers(gradients);
    // SAFETY: the array holds `gradients.len()` live tensors for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_squared_norm(gradients.as_ptr(), gradients.len(), out, error) })
}

/// The same of plain operators; any dtype and layout.
///
/// # Errors
/// As libtorch's operators.
pub fn squared_norm_reference(gradients: &[Tensor]) -> Result<Tensor, TchError> {
    let squares = gradients.iter().map(|g| g.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double));
    let squares = squares.collect::<Result<Vec<_>, _>>()?;
    match squares.is_empty() {
        true => Tensor::f_zeros([0i64; 0], (Kind::Double, Device::Cpu)),
        false => Tensor::f_stack(&squares, 0)?.f_sum(Kind::Double),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradients(scale: f64) -> Vec<Tensor> {
        // One element, odd sizes, more than one block of the kernel, no elements.
        let sizes = [vec![1], vec![3, 7], vec![70_001, 3], vec![0]];
        let values = |count: i64| Tensor::arange(count, (Kind::Float, Device::Cpu)).sin() + 0.1;
        sizes.iter().map(|size| values(size.iter().product()).view(&size[..]) * scale).collect()
    }

    fn value(tensor: Tensor) -> f64 {
        assert_eq!((tensor.kind(), tensor.dim()), (Kind::Double, 0));
        tensor.double_value(&[])
    }

    #[test]
    fn it_is_the_sum_of_all_squares_of_any_size() {
        // fp32 squares of 1e25 and 1e-25 would overflow and vanish.
        for scale in [1.0, 1e25, 1e-25] {
            let gradients = gradients(scale);
            let found = value(squared_norm(&gradients).unwrap());
            let expected = value(squared_norm_reference(&gradients).unwrap());
            assert!(expected > 0.0 && (found - expected).abs() <= 1e-12 * expected, "{found} {expected}");
        }
        assert_eq!(value(squared_norm(&[]).unwrap()), 0.0);
        assert_eq!(value(squared_norm_reference(&[]).unwrap()), 0.0);
    }

    #[test]
    fn what_is_not_finite_comes_through() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let gradients = gradients(1.0);
            let _ = gradients[2].get(70_000).fill_(bad);
            let found = value(squared_norm(&gradients).unwrap());
            assert!(if bad.is_nan() { found.is_nan() } else { found == f64::INFINITY }, "{bad} {found}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_read_is_refused() {
        let fine = Tensor::ones([4, 4], (Kind::Float, Device::Cpu));
        for wrong in [fine.to_kind(Kind::BFloat16), fine.shallow_clone().slice(1, 0, 4, 2)] {
            let problem = squared_norm(&[fine.shallow_clone(), wrong]).unwrap_err().to_string();
            assert!(problem.contains("contiguous fp32"), "{problem}");
        }
    }

    #[test]
    fn cuda_agrees_with_the_cpu() {
        if !tch::Cuda::is_available() {
            eprintln!("skipped: no CUDA device");
            return;
        }
        let gradients = gradients(1.0);
        let there: Vec<Tensor> = gradients.iter().map(|gradient| gradient.to_device(Device::Cuda(0))).collect();
        let found = squared_norm(&there).unwrap();
        assert_eq!(found.device(), Device::Cuda(0));
        let expected = value(squared_norm(&gradients).unwrap());
        assert!((value(found) - expected).abs() < 1e-5 * expected);
    }
}
