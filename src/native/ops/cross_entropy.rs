//! The output layer and its cross entropy in one, so that the logits `[N, V]` are never all there: `chunk_rows` rows
//! at a time become losses and, when gradients are wanted, the gradients of hidden and weight.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Kind, Reduction, TchError, Tensor};

unsafe extern "C" {
    fn shearling_linear_cross_entropy(
        hidden: CTensor,
        weight: CTensor,
        targets: CTensor,
        scale: f64,
        chunk_rows: i64,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// A target that has no loss.
pub const IGNORED: i64 = -100;

/// What [`linear_cross_entropy`] gives.
#[derive(Debug)]
pub struct LinearCrossEntropy {
    /// `scale · Σ losses`, an fp32 scalar to go back from.
    pub objective: Tensor,
    /// Cross entropy of each row `[N]` in nats, fp32, 0 where ignored. It has no graph.
    pub token_losses: Tensor,
}

/// Cross entropy of the logits `hidden Wᵀ` against `targets`.
///
/// `hidden` is `[N, D]`, `weight` `[V, D]` of the same dtype, `targets` `[N]` int64 in `0..V` or [`IGNORED`]. Logits
/// are held in that dtype, for `chunk_rows` rows; the rest is fp32. The gradient of a leaf weight is added to its
/// buffer ([`super::gradient`]); until backward it takes an fp32 `[V, D]`.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or a target on the CPU is outside the vocabulary (on other devices that
/// would cost a wait, and is undefined).
pub fn linear_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    scale: f64,
    chunk_rows: i64,
) -> Result<LinearCrossEntropy, TchError> {
    let [hidden, weight, targets] = [hidden, weight, targets].map(shim::pointer);
    // SAFETY: live tensors for the time of the call, which gives two.
    let given = shim::tensors(2, |out, error| unsafe {
        shearling_linear_cross_entropy(hidden, weight, targets, scale, chunk_rows, out, error)
    })?;
    match <[Tensor; 2]>::try_from(given) {
        Ok([objective, token_losses]) => Ok(LinearCrossEntropy { objective, token_losses }),
        Err(other) => Err(TchError::Shape(format!("{} tensors in place of 2", other.len()))),
    }
}

/// What [`linear_cross_entropy`] computes, by plain operators on all logits.
pub fn linear_cross_entropy_reference(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    scale: f64,
) -> Result<LinearCrossEntropy, TchError> {
    let logits = hidden.f_linear(weight, None::<&Tensor>)?.f_to_kind(Kind::Float)?;
    let losses = logits.f_cross_entropy_loss(targets, None::<&Tensor>, Reduction::None, IGNORED, 0.0)?;
    let objective = losses.f_sum(Kind::Float)?.f_mul_scalar(scale)?;
    Ok(LinearCrossEntropy { objective, token_losses: losses.f_detach()? })
}

#[cfg(test)]
mod tests {
    use super::super::gradient::set_gradient_buffer;
    use super::super::test_support::{all_nan, as_leaf, assert_close, compare, on_every_backend, sample};
    use super::*;
    use tch::Device;

    /// Targets all over `0..vocabulary`, every fifth ignored if there are five.
    fn targets(rows: i64, vocabulary: i64) -> Tensor {
        let target = |n: i64| if n % 5 == 4 { IGNORED } else { (n * 7 + 3) % vocabulary };
        Tensor::from_slice(&(0..rows).map(target).collect::<Vec<_>>())
    }

    fn check(kind: Kind, tolerance: f64, [rows, width, vocabulary]: [i64; 3], chunk_rows: i64) {
        let inputs = [sample(&[rows, width], 1), sample(&[vocabulary, width], 2) * 0.25].map(|x| x.to_kind(kind));
        let targets = targets(rows, vocabulary);
        // The objective is given in the inputs' dtype, and its upstream gradient is not one.
        let outputs = |result: LinearCrossEntropy, kind| vec![result.objective.to_kind(kind)];
        compare(
            &inputs,
            tolerance,
            |t| outputs(linear_cross_entropy(&t[0], &t[1], &targets, 0.3, chunk_rows).unwrap(), kind),
            |t| outputs(linear_cross_entropy_reference(&t[0], &t[1], &targets, 0.3).unwrap(), Kind::Double),
        );
        let got = linear_cross_entropy(&inputs[0], &inputs[1], &targets, 0.3, chunk_rows).unwrap().token_losses;
        let [hidden, weight] = inputs.map(|x| x.to_kind(Kind::Double));
        let expected = linear_cross_entropy_reference(&hidden, &weight, &targets, 0.3).unwrap().token_losses;
        assert_eq!(got.kind(), Kind::Float);
        assert_close("losses", &got, &expected, tolerance);
    }

    #[test]
    fn it_matches_the_reference() {
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 3e-2), (Kind::Double, 1e-6)] {
            check(kind, tolerance, [1, 5, 3], 1);
            check(kind, tolerance, [3, 33, 17], 2);
            check(kind, tolerance, [7, 16, 101], 100);
            check(kind, tolerance, [20, 24, 64], 8);
        }
    }

    #[test]
    fn views_and_an_fp32_buffer_are_fine_and_gradients_add_up() {
        let leaf = |sizes: &[i64], seed| as_leaf(&sample(sizes, seed).to_kind(Kind::BFloat16));
        let (base, weight) = (leaf(&[8, 6], 1), leaf(&[9, 8], 2));
        let exact = [&base, &weight].map(|x| as_leaf(&x.to_kind(Kind::Float)));
        let buffer = Tensor::zeros([9, 8], (Kind::Float, Device::Cpu));
        set_gradient_buffer(&weight, &buffer).unwrap();
        let targets = Tensor::from_slice(&[0i64, 9, 8, 9, 3, 9, IGNORED, 9, 1, 9, 2, 9]).slice(0, 0, 12, 2);
        for scale in [2.0, 0.5] {
            linear_cross_entropy(&base.tr(), &weight, &targets, scale, 4).unwrap().objective.backward();
            let reference = linear_cross_entropy_reference(&exact[0].tr(), &exact[1], &targets, scale);
            (reference.unwrap().objective).backward();
        }
        assert_close("dhidden", &base.grad(), &exact[0].grad(), 3e-2);
        assert_close("dweight", &buffer, &exact[1].grad(), 3e-2);
        assert_eq!(weight.grad().data_ptr(), buffer.data_ptr());
    }

    #[test]
    fn chunks_do_not_show_in_the_losses() {
        let (hidden, weight) = (sample(&[20, 24], 1), sample(&[65, 24], 2));
        let losses = |rows| linear_cross_entropy(&hidden, &weight, &targets(20, 65), 1.0, rows).unwrap().token_losses;
        assert_close("losses", &losses(7), &losses(20), 1e-6);
    }

    #[test]
    fn only_what_is_trained_gets_a_gradient() {
        let (hidden, weight) = (sample(&[6, 8], 1), sample(&[9, 8], 2));
        let targets = targets(6, 9);
        let run = |hidden: &Tensor, weight: &Tensor| linear_cross_entropy(hidden, weight, &targets, 1.0, 4).unwrap();
        let plain = run(&hidden, &weight);
        assert!(!plain.objective.requires_grad());
        let both = run(&as_leaf(&hidden), &as_leaf(&weight));
        for (x, w) in [(as_leaf(&hidden), weight.copy()), (hidden.copy(), as_leaf(&weight))] {
            let trained = run(&x, &w);
            assert_eq!(trained.token_losses, both.token_losses);
            trained.objective.backward();
            assert_eq!((x.grad().defined(), w.grad().defined()), (x.requires_grad(), w.requires_grad()));
            let free = tch::no_grad(|| run(&x, &w));
            assert!(!free.objective.requires_grad());
            assert_eq!(free.token_losses, trained.token_losses);
        }
    }

    #[test]
    fn far_apart_logits_stay_finite_and_a_broken_row_shows() {
        on_every_backend(far_apart_logits_stay_finite_and_a_broken_row_shows_here);
    }

    fn far_apart_logits_stay_finite_and_a_broken_row_shows_here() {
        let hidden = Tensor::from_slice(&[1.0f32, -1.0, f32::NAN, 0.0]).view([4, 1]).set_requires_grad(true);
        let weight = Tensor::from_slice(&[300.0f32, -300.0, 0.0]).view([3, 1]);
        let result = linear_cross_entropy(&hidden, &weight, &Tensor::from_slice(&[1i64; 4]), 1.0, 3).unwrap();
        let losses = Vec::<f32>::try_from(&result.token_losses).unwrap();
        assert_eq!(losses[..2], [600.0, 0.0]);
        assert!((losses[3] - 3f32.ln()).abs() < 1e-6 && all_nan(&result.token_losses.get(2)), "{losses:?}");
        result.objective.backward();
        let gradient = Vec::<f32>::try_from(hidden.grad().view(-1)).unwrap();
        assert_eq!(gradient[..2], [600.0, 0.0]);
    }

    #[test]
    fn rows_that_are_all_ignored_or_not_there_have_no_loss() {
        on_every_backend(rows_that_are_all_ignored_or_not_there_have_no_loss_here);
    }

    fn rows_that_are_all_ignored_or_not_there_have_no_loss_here() {
        let weight = as_leaf(&sample(&[9, 8], 2));
        for rows in [0, 3] {
            let hidden = as_leaf(&sample(&[rows, 8], 1));
            let targets = Tensor::full([rows], IGNORED, (Kind::Int64, Device::Cpu));
            let result = linear_cross_entropy(&hidden, &weight, &targets, 1.0, 2).unwrap();
            assert_eq!(result.objective.double_value(&[]), 0.0);
            result.objective.backward();
            assert_eq!(hidden.grad().abs().sum(Kind::Float).double_value(&[]), 0.0);
            assert_eq!(weight.grad().abs().sum(Kind::Float).double_value(&[]), 0.0);
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (hidden, weight) = (sample(&[2, 4], 1), sample(&[5, 4], 2));
        let problem = |hidden: &Tensor, targets: &Tensor, chunk_rows| {
            linear_cross_entropy(hidden, &weight, targets, 1.0, chunk_rows).unwrap_err().to_string()
        };
        let targets = |values: &[i64]| Tensor::from_slice(values);
        let outside = problem(&hidden, &targets(&[1, 5]), 1);
        assert!(outside.contains("target 5 at row 1") && outside.contains("vocabulary of 5"), "{outside}");
        assert!(problem(&hidden, &targets(&[-1, 0]), 1).contains("target -1"));
        assert!(problem(&hidden, &targets(&[1]), 1).contains("targets of [1]"));
        assert!(problem(&hidden, &targets(&[1, 0]).to_kind(Kind::Int), 1).contains("int64"));
        assert!(problem(&hidden, &targets(&[1, 0]), 0).contains("chunks of 0"));
        assert!(problem(&hidden.to_kind(Kind::BFloat16), &targets(&[1, 0]), 1).contains("BFloat16"));
        assert!(problem(&sample(&[2, 3], 1), &targets(&[1, 0]), 1).contains("[2, 3]"));
    }
}
