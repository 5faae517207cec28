//! SwiGLU with the gate of the intermediate dimension: `silu(a) ⊙ u ⊙ z`, one pass forward and one backward.
//!
//! The composed form keeps silu(a), silu(a) ⊙ u and its cast for backward, each `[B, T, F]`; here a, u and z are kept
//! and the sigmoid is made again.

use super::dispatch::{Backend, backend, wide};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_swiglu(gate: CTensor, up: CTensor, mask: CTensor, out: *mut CTensor, error: CError) -> c_int;
}

/// `silu(gate) ⊙ up ⊙ mask` of `gate`, `up [.., F]` and `mask [F]` (fp32, may require a gradient): `[.., F]` in
/// gate's dtype, contiguous. Arithmetic is in fp32 with one rounding at the end.
///
/// # Errors
/// Shapes that do not fit each other, and dtypes or devices other than said.
pub fn swiglu(gate: &Tensor, up: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    match backend(gate)? {
        Backend::Composed => return swiglu_reference(gate, up, mask),
        Backend::Kernel => (),
    }
    let (gate, up, mask) = (shim::pointer(gate), shim::pointer(up), shim::optional(mask));
    // SAFETY: the tensors live for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_swiglu(gate, up, mask, out, error) })
}

/// [`swiglu`] of plain tch operators.
pub fn swiglu_reference(gate: &Tensor, up: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    let kind = gate.f_kind()?;
    let product = gate.f_to_kind(wide(kind))?.f_silu()?.f_mul(&up.f_to_kind(wide(kind))?)?;
    match mask {
        Some(mask) => product.f_mul(&mask.f_to_kind(wide(kind))?)?.f_to_kind(kind),
        None => product.f_to_kind(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{all_nan, as_leaf, assert_close, compare, on_every_backend, sample};
    use super::*;
    use tch::{Device, Kind};

    type Function = fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor, TchError>;

    const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-3)];

    #[test]
    fn equals_the_reference_in_f64() {
        for (kind, tolerance) in KINDS {
            for shape in [&[1, 5][..], &[3, 16], &[7, 33], &[2, 3, 67], &[1100, 19], &[600, 16], &[3, 1408]] {
                let mask = sample(&shape[shape.len() - 1..], 3);
                let inputs = [sample(shape, 1).to_kind(kind) * 3.0, sample(shape, 2).to_kind(kind), mask];
                let masked =
                    |f: Function| move |inputs: &[Tensor]| vec![f(&inputs[0], &inputs[1], Some(&inputs[2])).unwrap()];
                compare(&inputs, tolerance, masked(swiglu), masked(swiglu_reference));
                let plain = |f: Function| move |inputs: &[Tensor]| vec![f(&inputs[0], &inputs[1], None).unwrap()];
                compare(&inputs[..2], tolerance, plain(swiglu), plain(swiglu_reference));
            }
        }
    }

    #[test]
    fn strided_branches_and_strided_gradients() {
        let both = |f: Function| {
            move |inputs: &[Tensor]| {
                let halves = inputs[0].chunk(2, -1);
                vec![f(&halves[0], &halves[1], Some(&inputs[1])).unwrap().transpose(0, 1)]
            }
        };
        compare(&[sample(&[7, 66], 1), sample(&[33], 2)], 1e-5, both(swiglu), both(swiglu_reference));
    }

    #[test]
    fn one_tensor_may_be_both_branches() {
        let square = |f: Function| move |inputs: &[Tensor]| vec![f(&inputs[0], &inputs[0], None).unwrap()];
        compare(&[sample(&[7, 33], 1)], 1e-5, square(swiglu), square(swiglu_reference));
    }

    /// silu over the range of the exponential: e^(−a) from 2^-127 to infinity.
    #[test]
    fn the_exponential_is_accurate_until_it_saturates() {
        on_every_backend(the_exponential_is_accurate_until_it_saturates_here);
    }

    fn the_exponential_is_accurate_until_it_saturates_here() {
        let gate = Tensor::linspace(-87.0, 120.0, 200_003, (Kind::Float, Device::Cpu));
        let silu = swiglu(&gate, &gate.ones_like(), None).unwrap().to_kind(Kind::Double);
        let expected = gate.to_kind(Kind::Double).silu();
        let worst = ((silu - &expected).abs() / expected.abs().clamp_min(1e-37)).max().double_value(&[]);
        assert!(worst < 5e-7, "{worst}");
        for (kind, _) in KINDS {
            let far = as_leaf(&Tensor::from_slice(&[-1e4f32, -200.0, 200.0, 1e4]).to_kind(kind));
            let y = swiglu(&far, &far.ones_like().detach(), None).unwrap();
            y.sum(Kind::Float).backward();
            assert_close("far", &y.detach(), &far.detach().relu(), 0.0);
            assert_close("slope", &far.grad(), &far.detach().gt(0.0).to_kind(kind), 0.0);
        }
    }

    #[test]
    fn nan_and_infinity_stay_visible() {
        on_every_backend(nan_and_infinity_stay_visible_here);
    }

    fn nan_and_infinity_stay_visible_here() {
        for (kind, _) in KINDS {
            for place in [0i64, 1] {
                let inputs = [sample(&[4, 21], 1), sample(&[4, 21], 2)];
                let _ = inputs[place as usize].get(2).fill_(f64::NAN);
                let (gate, up) = (as_leaf(&inputs[0].to_kind(kind)), as_leaf(&inputs[1].to_kind(kind)));
                let mask = as_leaf(&sample(&[21], 3));
                let y = swiglu(&gate, &up, Some(&mask)).unwrap();
                y.sum(Kind::Float).backward();
                assert!(all_nan(&y.get(2)) && all_nan(&mask.grad()) && all_nan(&gate.grad().get(2)));
                assert!(y.get(1).isfinite().all().int64_value(&[]) == 1);
                assert_eq!(all_nan(&up.grad().get(2)), place == 0);
            }
            let gate = Tensor::from_slice(&[f32::INFINITY, 1.0]).to_kind(kind);
            let y = swiglu(&gate, &gate.ones_like(), None).unwrap();
            assert_eq!(y.double_value(&[0]), f64::INFINITY);
        }
    }

    #[test]
    fn only_what_is_asked_for_gets_a_gradient() {
        on_every_backend(only_what_is_asked_for_gets_a_gradient_here);
    }

    fn only_what_is_asked_for_gets_a_gradient_here() {
        let inputs = [sample(&[3, 8], 1), sample(&[3, 8], 2), sample(&[8], 3)];
        for wanted in 0..3 {
            let mut given: Vec<Tensor> = inputs.iter().map(Tensor::shallow_clone).collect();
            given[wanted] = as_leaf(&inputs[wanted]);
            let y = swiglu(&given[0], &given[1], Some(&given[2])).unwrap();
            let named = Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&given[wanted]], true, false).unwrap();
            assert!(!given[wanted].grad().defined());
            y.sum(Kind::Float).f_backward().unwrap();
            assert_close("named", &named[0], &given[wanted].grad(), 0.0);
        }
        let leaf = as_leaf(&inputs[0]);
        assert!(!tch::no_grad(|| swiglu(&leaf, &inputs[1], None)).unwrap().requires_grad());
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let (gate, mask) = (sample(&[3, 8], 1), sample(&[8], 2));
        let wrong = |up: &Tensor, mask: Option<&Tensor>| swiglu(&gate, up, mask).unwrap_err().to_string();
        assert!(wrong(&sample(&[8, 3], 2), None).contains("[8, 3]"));
        assert!(wrong(&gate.to_kind(Kind::BFloat16), None).contains("BFloat16"));
        assert!(wrong(&gate.to_kind(Kind::Double), None).contains("Double"));
        assert!(wrong(&gate, Some(&sample(&[3], 2))).contains("mask"));
        assert!(wrong(&gate, Some(&mask.to_kind(Kind::BFloat16))).contains("mask"));
        assert!(wrong(&Tensor::new(), None).contains("undefined"));
        for kind in [Kind::Half, Kind::Double] {
            let gate = gate.to_kind(kind);
            assert_eq!(swiglu(&gate, &gate, Some(&mask)).unwrap().kind(), kind);
        }
    }
}
