//! RMSNorm over all or some of the dimensions, with the residual stream passed through.
//!
//! ```text
//! v = Σ_j m_j x_j²        y_j = w_j · x_j · (v + ε)^(−1/2)        m_j = 1/D, or given
//! ```
//!
//! A pre-norm block reads x twice: into the norm, and past it into the residual sum. When the sum takes the second
//! output instead of x, the two gradients of x meet inside the kernel and are added where the first is made, which
//! saves a pass over `[B, T, D]` and a buffer of that size per norm.

use super::dispatch::{Backend, backend, wide};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_rms_norm(
        x: CTensor,
        weight: CTensor,
        mean_weights: CTensor,
        eps: f64,
        outputs: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// Normalises `x [.., D]` with `weight [D]` of any float dtype: `(y, x)`, both `[.., D]` in x's dtype.
///
/// `mean_weights [D]` (fp32, no gradient) are the weights m of the mean of squares, 1/D where absent. Statistics and
/// products are in fp32 with one rounding at the end. The second output is x itself: use it as the residual stream.
///
/// # Errors
/// Shapes that do not fit each other, and dtypes or devices other than said.
pub fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    mean_weights: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor), TchError> {
    match backend(x)? {
        Backend::Composed => return rms_norm_reference(x, weight, mean_weights, eps),
        Backend::Kernel => (),
    }
    let (x, weight, mean_weights) = (shim::pointer(x), shim::pointer(weight), shim::optional(mean_weights));
    // SAFETY: the tensors live for the time of the call, `outputs` has room for two.
    let mut outputs =
        shim::tensors(2, |outputs, error| unsafe { shearling_rms_norm(x, weight, mean_weights, eps, outputs, error) })?;
    let through = outputs.remove(1);
    Ok((outputs.remove(0), through))
}

/// [`rms_norm`] of plain tch operators.
pub fn rms_norm_reference(
    x: &Tensor,
    weight: &Tensor,
    mean_weights: Option<&Tensor>,
    eps: f64,
) -> Result<(Tensor, Tensor), TchError> {
    let kind = x.f_kind()?;
    let values = x.f_to_kind(wide(kind))?;
    let squares = values.f_square()?;
    let mean = match mean_weights {
        Some(weights) => squares.f_matmul(&weights.f_detach()?.f_to_kind(wide(kind))?)?.f_unsqueeze(-1)?,
        None => squares.f_mean_dim(&[-1i64][..], true, None::<Kind>)?,
    };
    let scaled = values.f_mul(&mean.f_add_scalar(eps)?.f_rsqrt()?)?.f_mul(&weight.f_to_kind(wide(kind))?)?;
    Ok((scaled.f_to_kind(kind)?, x.shallow_clone()))
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{all_nan, as_leaf, assert_close, compare, on_every_backend, sample};
    use super::*;
    use tch::Device;

    type Function = fn(&Tensor, &Tensor, Option<&Tensor>, f64) -> Result<(Tensor, Tensor), TchError>;

    const EPS: f64 = 1e-5;
    const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-3)];

    /// Weights of a mean over part of the dimensions.
    fn part(columns: i64) -> Tensor {
        let alive = (sample(&[columns], 9).abs().gt(0.4)).to_kind(Kind::Float);
        &alive / alive.sum(Kind::Float).clamp_min(1.0)
    }

    fn both(pair: (Tensor, Tensor)) -> Vec<Tensor> {
        vec![pair.0, pair.1]
    }

    #[test]
    fn equals_the_reference_in_f64() {
        for (kind, tolerance) in KINDS {
            for shape in [&[1, 5][..], &[3, 16], &[7, 33], &[2, 3, 67], &[2, 3, 5, 24], &[1100, 19], &[3, 2304]] {
                let columns = shape[shape.len() - 1];
                let inputs = [sample(shape, 1).to_kind(kind), sample(&[columns], 2).to_kind(kind)];
                for means in [None, Some(part(columns))] {
                    compare(
                        &inputs,
                        tolerance,
                        |inputs| both(rms_norm(&inputs[0], &inputs[1], means.as_ref(), EPS).unwrap()),
                        |inputs| both(rms_norm_reference(&inputs[0], &inputs[1], means.as_ref(), EPS).unwrap()),
                    );
                }
            }
        }
    }

    #[test]
    fn either_output_may_be_left_unread() {
        on_every_backend(either_output_may_be_left_unread_here);
    }

    fn either_output_may_be_left_unread_here() {
        let inputs = [sample(&[7, 33], 1), sample(&[33], 2)];
        for output in [0, 1] {
            let grads = |reference: bool| {
                let (x, weight) = (as_leaf(&inputs[0]), as_leaf(&inputs[1]));
                let function = if reference { rms_norm_reference } else { rms_norm };
                let outputs = both(function(&x, &weight, None, EPS).unwrap());
                (&outputs[output] * sample(&[7, 33], 3)).sum(Kind::Float).backward();
                (x.grad(), weight.grad())
            };
            let (kernel, reference) = (grads(false), grads(true));
            assert_close("x", &kernel.0, &reference.0, 1e-5);
            assert_eq!(kernel.1.defined(), output == 0);
            if output == 0 {
                assert_close("weight", &kernel.1, &reference.1, 1e-5);
            }
        }
    }

    #[test]
    fn x_may_be_read_around_the_norm_and_need_not_be_contiguous() {
        let x = sample(&[5, 3, 9], 1);
        let inputs = [x, sample(&[9], 2)];
        let twice = |function: Function| {
            move |inputs: &[Tensor]| {
                let strided = inputs[0].transpose(0, 1);
                let (y, through) = function(&strided, &inputs[1], None, EPS).unwrap();
                vec![y * 2.0 + &through + &strided * &through]
            }
        };
        compare(&inputs, 1e-5, twice(rms_norm), twice(rms_norm_reference));
    }

    #[test]
    fn only_what_is_asked_for_gets_a_gradient() {
        on_every_backend(only_what_is_asked_for_gets_a_gradient_here);
    }

    fn only_what_is_asked_for_gets_a_gradient_here() {
        let (x, weight) = (sample(&[3, 8], 1), sample(&[8], 2));
        let (leaf, fixed) = (as_leaf(&x), as_leaf(&weight));
        let (y, through) = rms_norm(&leaf, &weight, None, EPS).unwrap();
        (y + through).sum(Kind::Float).backward();
        let (y, through) = rms_norm(&x, &fixed, None, EPS).unwrap();
        assert!(y.requires_grad() && !through.requires_grad());
        y.sum(Kind::Float).backward();
        assert!(leaf.grad().defined() && fixed.grad().defined());
        let (y, _) = tch::no_grad(|| rms_norm(&leaf, &fixed, None, EPS)).unwrap();
        assert!(!y.requires_grad());
    }

    #[test]
    fn gradients_of_named_inputs_are_returned() {
        on_every_backend(gradients_of_named_inputs_are_returned_here);
    }

    fn gradients_of_named_inputs_are_returned_here() {
        let (x, weight) = (as_leaf(&sample(&[3, 8], 1)), as_leaf(&sample(&[8], 2)));
        let (y, through) = rms_norm(&x, &weight, None, EPS).unwrap();
        let loss = (y + through).square().sum(Kind::Float);
        let named = Tensor::f_run_backward(&[&loss], &[&weight], true, false).unwrap();
        assert!(!x.grad().defined() && !weight.grad().defined());
        loss.f_backward().unwrap();
        assert_close("weight", &named[0], &weight.grad(), 1e-6);
        let (y, _) = rms_norm(&x, &weight, None, EPS).unwrap();
        let problem = Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&x], true, true).unwrap_err().to_string();
        assert!(problem.contains("second derivative"), "{problem}");
    }

    #[test]
    fn nan_and_infinity_stay_visible() {
        on_every_backend(nan_and_infinity_stay_visible_here);
    }

    fn nan_and_infinity_stay_visible_here() {
        for (kind, _) in KINDS {
            for (poison, columns) in [(f64::NAN, 37), (f64::INFINITY, 16)] {
                let x = sample(&[3, columns], 1).to_kind(kind);
                let _ = x.get(1).narrow(0, 4, 1).fill_(poison);
                let (x, weight) = (as_leaf(&x), as_leaf(&sample(&[columns], 2).to_kind(kind)));
                let (y, _) = rms_norm(&x, &weight, None, EPS).unwrap();
                let lost = y.get(1).isnan().any().int64_value(&[]) == 0;
                assert!(!lost && y.get(0).isfinite().all().int64_value(&[]) == 1);
                y.sum(Kind::Float).backward();
                assert!(x.grad().get(1).isfinite().all().int64_value(&[]) == 0);
                assert!(x.grad().get(2).isfinite().all().int64_value(&[]) == 1);
                assert!(weight.grad().isfinite().all().int64_value(&[]) == 0);
                assert!(!poison.is_nan() || all_nan(&y.get(1)));
            }
        }
    }

    #[test]
    fn other_kinds_take_the_reference() {
        for kind in [Kind::Half, Kind::Double] {
            let (x, weight) = (sample(&[3, 8], 1).to_kind(kind), sample(&[8], 2));
            let (y, through) = rms_norm(&x, &weight, None, EPS).unwrap();
            assert_eq!((y.kind(), through.kind()), (kind, kind));
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let (x, weight) = (sample(&[3, 8], 1), sample(&[8], 2));
        let wrong = |x: &Tensor, weight: &Tensor, means: Option<&Tensor>| {
            rms_norm(x, weight, means, EPS).unwrap_err().to_string()
        };
        assert!(wrong(&x, &sample(&[7], 2), None).contains("[7]"));
        assert!(wrong(&x, &weight.to_kind(Kind::Int64), None).contains("float"));
        assert!(wrong(&x, &weight, Some(&sample(&[9], 2))).contains("mean_weights"));
        assert!(wrong(&x, &weight, Some(&weight.to_kind(Kind::BFloat16))).contains("mean_weights"));
        assert!(wrong(&Tensor::from(1.0f32), &weight, None).contains("columns"));
        assert!(rms_norm(&Tensor::new(), &weight, None, EPS).is_err());
        let empty = Tensor::zeros([0, 8], (Kind::Float, Device::Cpu));
        assert_eq!(rms_norm(&empty, &weight, None, EPS).unwrap().0.size(), [0, 8]);
    }
}
