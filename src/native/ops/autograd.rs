//! Backward from given gradients, which tch lacks.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_backward(outputs: *const CTensor, gradients: *const CTensor, count: usize, error: CError) -> c_int;
}

/// Backward of `outputs` with `gradients` of the same shapes: adds to the `grad` of every leaf they depend on.
pub fn backward(outputs: &[Tensor], gradients: &[Tensor]) -> Result<(), TchError> {
    if outputs.len() != gradients.len() {
        let problem = format!("{} outputs, {} gradients", outputs.len(), gradients.len());
        return Err(TchError::Shape(problem));
    }
    let (outputs, gradients) = (shim::pointers(outputs), shim::pointers(gradients));
    // SAFETY: both arrays hold `outputs.len()` live tensors for the time of the call.
    shim::check(|error| unsafe { shearling_backward(outputs.as_ptr(), gradients.as_ptr(), outputs.len(), error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_flow_from_what_is_given() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
        let (square, double) = (x.square(), &x * 2.0);
        backward(&[square, double], &[Tensor::from_slice(&[1.0f32, 10.0]), Tensor::from_slice(&[0.0f32, 1.0])])
            .unwrap();
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [2.0, 42.0]);
    }

    #[test]
    fn what_libtorch_refuses_is_an_error() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
        let problem = backward(&[x.square()], &[Tensor::from_slice(&[1.0f32; 3])]).unwrap_err().to_string();
        assert!(problem.contains("shape"), "{problem}");
        assert!(backward(&[x.square()], &[]).is_err());
    }
}
