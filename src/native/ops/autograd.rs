//! Two things that tch lacks: backward from given gradients, and a loss that is taken along.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_attach_loss(x: CTensor, loss: CTensor, out: *mut CTensor, error: CError) -> c_int;
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

/// `x`, whose backward also goes into the scalar `loss` (fp32) with a gradient of one: as if `loss` were added to the
/// objective. For a loss of values inside a block, which nothing outside it sees, however often the block is recomputed.
///
/// # Errors
/// A `loss` that is not a single number.
pub fn attach_loss(x: &Tensor, loss: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: the tensors live for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_attach_loss(shim::pointer(x), shim::pointer(loss), out, error) })
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
    fn an_attached_loss_is_added_to_the_objective_also_where_its_block_is_recomputed() {
        let gradient = |recomputed: bool| {
            let w = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
            let x = Tensor::from_slice(&[3.0f32, 5.0]).set_requires_grad(true);
            let leaf = w.shallow_clone();
            let block = move |x: &Tensor| {
                let scores = x * &leaf;
                attach_loss(&scores, &scores.square().sum(tch::Kind::Float))
            };
            let y = match recomputed {
                true => crate::native::ops::recompute::recompute(&x, block).unwrap(),
                false => block(&x).unwrap(),
            };
            (y * 10.0).sum(tch::Kind::Float).backward();
            Vec::<f32>::try_from(w.grad()).unwrap()
        };
        // 10 x + 2 x² w
        assert_eq!(gradient(false), [48.0, 150.0]);
        assert_eq!(gradient(true), gradient(false));
        let x = Tensor::from_slice(&[1.0f32, 2.0]);
        assert!(attach_loss(&x, &x).is_err());
    }

    #[test]
    fn what_libtorch_refuses_is_an_error() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).set_requires_grad(true);
        let problem = backward(&[x.square()], &[Tensor::from_slice(&[1.0f32; 3])]).unwrap_err().to_string();
        assert!(problem.contains("shape"), "{problem}");
        assert!(backward(&[x.square()], &[]).is_err());
    }
}
