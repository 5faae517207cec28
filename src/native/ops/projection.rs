//! Linear maps whose gradients add up in place: several maps of one input (q, k, v; gate, up) as one autograd node,
//! and a map onto the residual stream with its masks folded into the weight.
//!
//! The gradient of a weight that is a leaf goes straight into its buffer ([`super::gradient`]), added there by the
//! matrix product itself; hooks on the leaf do not see it. Gradients are of first order. The input of a map is kept
//! for backward, its output is not; an input that a norm or SwiGLU gave may be [made again](Input::MadeAgain) instead.

use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_project(
        x: CTensor,
        weights: *const CTensor,
        biases: *const CTensor,
        count: usize,
        make_again: c_int,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
    fn shearling_project_gated(
        x: CTensor,
        weight: CTensor,
        row_gate: CTensor,
        column_gate: CTensor,
        bias: CTensor,
        residual: CTensor,
        make_again: c_int,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// What a map has of its input in the backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// The tensor.
    #[default]
    Kept,
    /// Made again where our norm or SwiGLU gave it, which keep what they made it of; the tensor where anything else did. The same
    /// bits for less memory and one more pass of an elementwise kernel.
    MadeAgain,
}

/// `x Wᵀ + b` `[.., O]` for each map `(W [O, I], b [O])` of one input `x` `[.., I]`.
///
/// # Errors
/// If shapes, dtypes or devices do not fit.
pub fn project(x: &Tensor, maps: &[(&Tensor, Option<&Tensor>)]) -> Result<Vec<Tensor>, TchError> {
    project_with(x, maps, Input::Kept)
}

/// As [`project`], with x in the backward as `input` says.
///
/// # Errors
/// As [`project`].
pub fn project_with(x: &Tensor, maps: &[(&Tensor, Option<&Tensor>)], input: Input) -> Result<Vec<Tensor>, TchError> {
    let weights = shim::pointers(maps.iter().map(|(weight, _)| *weight));
    let biases: Vec<CTensor> = maps.iter().map(|(_, bias)| shim::optional(*bias)).collect();
    let count = maps.len();
    // SAFETY: both arrays hold `count` live tensors (or null, for a bias) for the time of the call.
    shim::tensors(count, |out, error| unsafe {
        let make_again = c_int::from(input == Input::MadeAgain);
        shearling_project(shim::pointer(x), weights.as_ptr(), biases.as_ptr(), count, make_again, out, error)
    })
}

/// What [`project`] computes, by plain operators.
pub fn project_reference(x: &Tensor, maps: &[(&Tensor, Option<&Tensor>)]) -> Result<Vec<Tensor>, TchError> {
    maps.iter().map(|(weight, bias)| x.f_linear(weight, *bias)).collect()
}

/// `residual + x (diag(row_gate) W diag(column_gate))ᵀ + bias` `[.., O]`, of `x` `[.., I]`, `weight` `[O, I]`, gates
/// `[O]` and `[I]` in fp32 (or fp64 beside an fp64 weight), `bias` `[O]` (already gated) and `residual` `[.., O]`.
///
/// Masks are folded into the weight, in fp32 arithmetic, so no activation is multiplied or kept for them.
///
/// # Errors
/// If shapes, dtypes or devices do not fit.
pub fn project_gated(
    x: &Tensor,
    weight: &Tensor,
    row_gate: Option<&Tensor>,
    column_gate: Option<&Tensor>,
    bias: Option<&Tensor>,
    residual: &Tensor,
) -> Result<Tensor, TchError> {
    project_gated_with(x, weight, [row_gate, column_gate], bias, residual, Input::Kept)
}

/// As [`project_gated`], with row and column gate together and x in the backward as `input` says.
///
/// # Errors
/// As [`project_gated`].
pub fn project_gated_with(
    x: &Tensor,
    weight: &Tensor,
    [row_gate, column_gate]: [Option<&Tensor>; 2],
    bias: Option<&Tensor>,
    residual: &Tensor,
    input: Input,
) -> Result<Tensor, TchError> {
    // SAFETY: live tensors, or null where one may be absent, for the time of the call.
    shim::tensor(|out, error| unsafe {
        shearling_project_gated(
            shim::pointer(x),
            shim::pointer(weight),
            shim::optional(row_gate),
            shim::optional(column_gate),
            shim::optional(bias),
            shim::pointer(residual),
            c_int::from(input == Input::MadeAgain),
            out,
            error,
        )
    })
}

/// What [`project_gated`] computes, by plain operators.
pub fn project_gated_reference(
    x: &Tensor,
    weight: &Tensor,
    row_gate: Option<&Tensor>,
    column_gate: Option<&Tensor>,
    bias: Option<&Tensor>,
    residual: &Tensor,
) -> Result<Tensor, TchError> {
    let mut folded = weight.shallow_clone();
    if let Some(gate) = row_gate {
        folded = folded.f_mul(&gate.f_unsqueeze(1)?)?;
    }
    if let Some(gate) = column_gate {
        folded = folded.f_mul(gate)?;
    }
    x.f_linear(&folded.f_to_kind(weight.kind())?, bias)?.f_add(residual)
}

#[cfg(test)]
mod tests {
    use super::super::gradient::set_gradient_buffer;
    use super::super::rms_norm::rms_norm;
    use super::super::swiglu::swiglu;
    use super::super::test_support::{as_leaf, assert_close, compare, on_every_backend, sample};
    use super::*;
    use crate::native::runtime::operator_count::kept_bytes;
    use tch::{Device, Kind};

    const KINDS: [(Kind, f64); 3] = [(Kind::Float, 1e-5), (Kind::BFloat16, 3e-2), (Kind::Double, 1e-6)];

    fn leaf(sizes: &[i64], kind: Kind, seed: i64) -> Tensor {
        as_leaf(&sample(sizes, seed).to_kind(kind))
    }

    fn check_project(sizes: &[i64], outputs: [i64; 2], biased: bool) {
        let inner = *sizes.last().unwrap();
        let mut inputs = vec![sample(sizes, 1), sample(&[outputs[0], inner], 2), sample(&[outputs[1], inner], 3)];
        inputs.extend(biased.then(|| sample(&[outputs[0]], 4)));
        for (kind, tolerance) in KINDS {
            let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_kind(kind)).collect();
            let maps = |t: &[Tensor], f: Project| f(&t[0], &[(&t[1], t.get(3)), (&t[2], None)]).unwrap();
            compare(&inputs, tolerance, |t| maps(t, project), |t| maps(t, project_reference));
        }
    }

    type Project = fn(&Tensor, &[(&Tensor, Option<&Tensor>)]) -> Result<Vec<Tensor>, TchError>;

    #[test]
    fn several_maps_match_the_reference() {
        check_project(&[1, 5], [3, 1], false);
        check_project(&[3, 7, 33], [17, 50], true);
        check_project(&[7, 64], [48, 16], true);
        check_project(&[40], [9, 31], false);
    }

    #[test]
    fn one_row_matches_the_reference() {
        on_every_backend(one_row_matches_the_reference_here);
    }

    fn one_row_matches_the_reference_here() {
        // Columns in packs of 16 bytes and not, many and few; one to four maps; a weight that is a transposed view.
        for columns in [5, 64, 300, 1040] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let tolerance = if kind == Kind::Float { 1e-5 } else { 3e-2 };
                let x = sample(&[1, 1, columns], 1).to_kind(kind);
                let weights: Vec<Tensor> = [9, 31, 8, 70].map(|o| sample(&[columns, o], o).to_kind(kind).tr()).into();
                let bias = sample(&[31], 9).to_kind(kind);
                for count in 1..=4 {
                    let maps: Vec<_> =
                        weights[..count].iter().map(|w| (w, (w.size()[0] == 31).then_some(&bias))).collect();
                    let (found, expected) = (project(&x, &maps).unwrap(), project_reference(&x, &maps).unwrap());
                    for (found, expected) in found.iter().zip(&expected) {
                        assert_eq!((found.size(), found.kind()), (expected.size(), kind));
                        assert_close(&format!("{columns} {kind:?} {count}"), found, expected, tolerance);
                    }
                }
                let (residual, bias) = (sample(&[1, 1, 31], 3).to_kind(kind), Some(&bias));
                let found = project_gated(&x, &weights[1], None, None, bias, &residual).unwrap();
                let expected = project_gated_reference(&x, &weights[1], None, None, bias, &residual).unwrap();
                assert_close(&format!("onto a residual {columns} {kind:?}"), &found, &expected, tolerance);
            }
        }
    }

    #[test]
    fn a_transposed_input_and_transposed_gradients_are_fine() {
        for (kind, tolerance) in KINDS {
            let inputs = [sample(&[4, 3, 9], 1).to_kind(kind), sample(&[9, 5], 2).to_kind(kind)];
            let map = |t: &[Tensor], f: Project| {
                let out = f(&t[0].transpose(0, 1), &[(&t[1].tr(), None)]).unwrap().remove(0);
                vec![out.transpose(0, 2)]
            };
            compare(&inputs, tolerance, |t| map(t, project), |t| map(t, project_reference));
        }
    }

    /// A feed-forward half with both kinds of inputs that are made again, through every gradient: not a bit differs, and less is
    /// kept.
    #[test]
    fn inputs_that_are_made_again_change_no_bit() {
        on_every_backend(inputs_that_are_made_again_change_no_bit_here);
    }

    fn inputs_that_are_made_again_change_no_bit_here() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let half = |input: Input| {
                let leaves = [
                    leaf(&[2, 40, 16], kind, 1),
                    leaf(&[16], kind, 2),
                    leaf(&[48, 16], kind, 3),
                    leaf(&[48, 16], kind, 4),
                    leaf(&[16, 48], kind, 5),
                    leaf(&[48], Kind::Float, 6),
                    leaf(&[16], Kind::Float, 7),
                ];
                let [x, norm, gate, up, down, inner_gate, row_gate] = &leaves;
                let (bytes, out) = kept_bytes(|| {
                    let (normed, x) = rms_norm(x, norm, None, 1e-5).unwrap();
                    let both = project_with(&normed, &[(gate, None), (up, None)], input).unwrap();
                    let inner = swiglu(&both[0], &both[1], Some(inner_gate)).unwrap();
                    project_gated_with(&inner, down, [Some(row_gate), None], None, &x, input).unwrap()
                });
                out.square().sum(Kind::Float).backward();
                let mut all = vec![out.detach()];
                all.extend(leaves.iter().map(Tensor::grad));
                (bytes, all)
            };
            let ((kept, expected), (less, found)) = (half(Input::Kept), half(Input::MadeAgain));
            assert!(found.iter().zip(&expected).all(|(a, b)| a.equal(b)), "{kind:?}");
            let element = if kind == Kind::Float { 4 } else { 2 };
            assert_eq!(kept - less, 2 * 40 * (16 + 48) * element, "{kind:?}");
        }
    }

    /// What our norm did not make is kept as ever.
    #[test]
    fn other_inputs_are_kept() {
        let (x, weight) = (leaf(&[3, 4], Kind::Float, 1), leaf(&[2, 4], Kind::Float, 2));
        for input in [x.shallow_clone(), &x * 2.0, x.view([3, 4])] {
            let out = project_with(&input, &[(&weight, None)], Input::MadeAgain).unwrap().remove(0);
            out.sum(Kind::Float).backward();
        }
        // Twice x, and once: of the sums over rows.
        assert_close(
            "weight",
            &weight.grad(),
            &(x.detach().sum_dim_intlist(0i64, false, Kind::Float) * 4.0).expand([2, 4], false),
            1e-6,
        );
    }

    #[test]
    fn an_unused_output_and_a_frozen_weight_get_no_gradient() {
        let x = leaf(&[3, 4], Kind::Float, 1);
        let (used, unused) = (sample(&[2, 4], 2), leaf(&[5, 4], Kind::Float, 3));
        let out = project(&x, &[(&used, None), (&unused, None)]).unwrap();
        out[0].sum(Kind::Float).backward();
        assert!(!used.grad().defined() && !unused.grad().defined());
        let expected = used.sum_dim_intlist(0, false, Kind::Float).expand([3, 4], false);
        assert_close("dx", &x.grad(), &expected, 1e-6);
    }

    #[test]
    fn gradients_that_are_asked_for_are_returned_and_not_collected() {
        let (x, weight) = (sample(&[6, 4], 1), leaf(&[5, 4], Kind::Float, 2));
        let out = project(&x, &[(&weight, None)]).unwrap().remove(0);
        let asked = Tensor::run_backward(&[out.sum(Kind::Float)], &[&weight], false, false);
        let expected = x.sum_dim_intlist(0, false, Kind::Float).expand([5, 4], false);
        assert_close("dweight", &asked[0], &expected, 1e-6);
        assert!(!weight.grad().defined());
    }

    #[test]
    fn gradients_add_up_in_an_fp32_buffer_of_a_bf16_leaf() {
        let full = |sizes: &[i64], value: f64, kind| Tensor::full(sizes, value, (kind, Device::Cpu));
        let (x, weight) = (full(&[1, 2], 1.0, Kind::BFloat16), leaf(&[3, 2], Kind::BFloat16, 0));
        let buffer = full(&[3, 2], 256.0, Kind::Float);
        set_gradient_buffer(&weight, &buffer).unwrap();
        for _ in 0..2 {
            (&project(&x, &[(&weight, None)]).unwrap()[0] * 0.5).sum(Kind::Float).backward();
            let (gate, residual) = (full(&[2], 0.25, Kind::Float), full(&[1, 3], 0.0, Kind::BFloat16));
            project_gated(&x, &weight, None, Some(&gate), None, &residual).unwrap().sum(Kind::Float).backward();
        }
        // Neither 256.5 nor 256.75 has a bf16.
        assert_eq!(Vec::<f32>::try_from(buffer.view(-1)).unwrap(), [257.5; 6]);
        assert_eq!(weight.grad().data_ptr(), buffer.data_ptr());
    }

    #[test]
    fn without_gradients_there_is_no_graph_and_a_changed_weight_is_noticed() {
        let (x, weight) = (leaf(&[3, 4], Kind::Float, 1), leaf(&[2, 4], Kind::Float, 2));
        let out = tch::no_grad(|| project(&x, &[(&weight, None)]).unwrap().remove(0));
        assert!(!out.requires_grad());
        let out = project(&x, &[(&weight, None)]).unwrap().remove(0).sum(Kind::Float);
        let _ = tch::no_grad(|| weight.shallow_clone().fill_(0.0));
        assert!(out.f_backward().unwrap_err().to_string().contains("modified by an inplace operation"));
    }

    type Gated =
        fn(&Tensor, &Tensor, Option<&Tensor>, Option<&Tensor>, Option<&Tensor>, &Tensor) -> Result<Tensor, TchError>;

    /// Which of the row gate, the column gate and the bias are there.
    type Parts = [bool; 3];

    /// Inputs: x, weight, row gate, column gate, bias, residual.
    fn gated_inputs(rows: &[i64], [outer, inner]: [i64; 2], kind: Kind) -> [Tensor; 6] {
        let sized = |last: i64, seed| sample(&[rows, &[last]].concat(), seed).to_kind(kind);
        let weight = sample(&[outer, inner], 2).to_kind(kind);
        let (row, column) = (sample(&[outer], 3), sample(&[inner], 4));
        [sized(inner, 1), weight, row, column, sample(&[outer], 5).to_kind(kind), sized(outer, 6)]
    }

    fn gated(t: &[Tensor], f: Gated, parts: Parts) -> Tensor {
        let part = |index: usize| parts[index].then_some(&t[2 + index]);
        f(&t[0], &t[1], part(0), part(1), part(2), &t[5]).unwrap()
    }

    /// Absent parts still get a gradient in both, of zero.
    fn with_all(out: Tensor, t: &[Tensor]) -> Vec<Tensor> {
        let nothing = t[2].sum(Kind::Float) + t[3].sum(Kind::Float) + t[4].sum(Kind::Float);
        vec![&out + (nothing * 0.0).to_kind(out.kind())]
    }

    #[test]
    fn a_gated_map_matches_the_reference() {
        for (kind, tolerance) in KINDS {
            for bits in 0..8 {
                let parts = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
                for (rows, sizes) in [(&[7][..], [70, 33]), (&[1], [3, 5]), (&[2, 3], [16, 100])] {
                    compare(
                        &gated_inputs(rows, sizes, kind),
                        tolerance,
                        |t| with_all(gated(t, project_gated, parts), t),
                        |t| with_all(gated(t, project_gated_reference, parts), t),
                    );
                }
            }
        }
    }

    /// A weight that is not a leaf, or not contiguous, or has a buffer of its own dtype or of fp32.
    #[test]
    fn every_way_to_the_weights_gradient_is_the_same() {
        for (kind, tolerance) in KINDS {
            for (made, transposed, buffer) in [
                (true, false, None),
                (true, true, None),
                (false, true, None),
                (false, false, Some(kind)),
                (false, false, Some(Kind::Float)),
                (false, true, Some(Kind::Float)),
            ] {
                let inputs = gated_inputs(&[7], [20, 33], kind);
                let run = |inputs: &[Tensor; 6], f: Gated, buffer: Option<Kind>| {
                    let mut t = inputs.each_ref().map(as_leaf);
                    let base = if transposed { t[1].tr().contiguous().tr() } else { t[1].copy() };
                    let base = base.detach().set_requires_grad(true);
                    if let Some(kind) = buffer {
                        set_gradient_buffer(&base, &Tensor::ones([20, 33], (kind, Device::Cpu))).unwrap();
                    }
                    t[1] = if made { &base * 2.0 } else { base.shallow_clone() };
                    (gated(&t, f, [true; 3]) * sample(&[7, 20], 7)).sum(Kind::Float).backward();
                    base.grad()
                };
                let got = run(&inputs, project_gated, buffer);
                let wide = inputs.map(|input| input.to_kind(Kind::Double));
                let expected = run(&wide, project_gated_reference, buffer.map(|_| Kind::Double));
                assert_eq!(got.kind(), buffer.unwrap_or(kind));
                let name = format!("{kind:?}, made {made}, transposed {transposed}, buffer {buffer:?}");
                assert_close(&name, &got, &expected, tolerance);
            }
        }
    }

    #[test]
    fn gates_learn_though_the_weight_does_not_and_the_other_way_round() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let inputs = gated_inputs(&[7], [20, 33], kind);
            let run = |trained: &[usize]| {
                let t = inputs.each_ref().map(|input| input.copy());
                let t: Vec<_> =
                    t.into_iter().zip(0..).map(|(t, i)| t.set_requires_grad(trained.contains(&i))).collect();
                gated(&t, project_gated, [true; 3]).square().sum(Kind::Float).backward();
                t.iter().map(Tensor::grad).collect::<Vec<_>>()
            };
            let all = run(&[0, 1, 2, 3, 4, 5]);
            for trained in [&[1][..], &[2], &[3], &[2, 3], &[0, 2, 5], &[4]] {
                for (index, gradient) in run(trained).iter().enumerate() {
                    assert_eq!(gradient.defined(), trained.contains(&index));
                    assert!(!gradient.defined() || *gradient == all[index], "{index} of {trained:?}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let one = |sizes: &[i64]| sample(sizes, 0);
        let (x, weight) = (one(&[3, 4]), one(&[5, 4]));
        let problem = |weight: &Tensor, bias: Option<&Tensor>| {
            project(&x, &[(&one(&[2, 4]), None), (weight, bias)]).unwrap_err().to_string()
        };
        assert!(problem(&one(&[5, 3]), None).contains("[5, 3]"));
        assert!(problem(&weight.to_kind(Kind::BFloat16), None).contains("BFloat16"));
        assert!(problem(&weight, Some(&one(&[4]))).contains("bias"));
        let gated = |row: &Tensor, column: &Tensor, residual: &Tensor| {
            project_gated(&x, &weight, Some(row), Some(column), None, residual).unwrap_err().to_string()
        };
        let (row, column, residual) = (one(&[5]), one(&[4]), one(&[3, 5]));
        assert!(gated(&column, &column, &residual).contains("row gate"));
        assert!(gated(&row, &row, &residual).contains("column gate"));
        assert!(gated(&row.to_kind(Kind::BFloat16), &column, &residual).contains("fp32"));
        assert!(gated(&row, &column, &one(&[5])).contains("residual"));
        assert!(gated(&row, &column, &residual.to_kind(Kind::BFloat16)).contains("residual"));
    }
}
