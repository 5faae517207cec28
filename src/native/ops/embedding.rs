//! Token embedding with the gates of the residual stream: `y_t = w[id_t] ⊙ h`.
//!
//! Its backward adds only the rows that occur in the batch, and adds them straight into the gradient buffer of the
//! weight where the weight is a leaf: no gradient `[V, D]` of zeros is made and added, and a bf16 weight whose buffer
//! is fp32 loses nothing on the way.

use super::dispatch::{Backend, backend, wide};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_embedding(ids: CTensor, weight: CTensor, gate: CTensor, out: *mut CTensor, error: CError) -> c_int;
}

/// Rows `input_ids [B, T]` (int64) of `weight [V, D]`, times `gate [D]` (fp32, may require a gradient): `[B, T, D]`
/// in weight's dtype.
///
/// Backward adds to the `grad` of a leaf `weight` in place, in the dtype of that buffer, and makes a buffer of the
/// weight's dtype where there is none. A weight that is not a leaf, and a backward for named inputs
/// (`Tensor::f_run_backward`), get an ordinary gradient.
///
/// # Errors
/// An id outside `0..V` (named; on the CPU), and shapes, dtypes or devices other than said.
pub fn embedding(input_ids: &Tensor, weight: &Tensor, gate: Option<&Tensor>) -> Result<Tensor, TchError> {
    match backend(weight)? {
        Backend::Composed => return embedding_reference(input_ids, weight, gate),
        Backend::Kernel => (),
    }
    let (ids, weight, gate) = (shim::pointer(input_ids), shim::pointer(weight), shim::optional(gate));
    // SAFETY: the tensors live for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_embedding(ids, weight, gate, out, error) })
}

/// [`embedding`] of plain tch operators; its gradient of the weight is an ordinary one.
pub fn embedding_reference(input_ids: &Tensor, weight: &Tensor, gate: Option<&Tensor>) -> Result<Tensor, TchError> {
    let kind = weight.f_kind()?;
    let rows = Tensor::f_embedding(weight, input_ids, -1, false, false)?;
    match gate {
        Some(gate) => rows.f_to_kind(wide(kind))?.f_mul(&gate.f_to_kind(wide(kind))?)?.f_to_kind(kind),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{all_nan, as_leaf, assert_close, compare, on_every_backend, sample};
    use super::*;
    use tch::{Device, Kind};

    type Function = fn(&Tensor, &Tensor, Option<&Tensor>) -> Result<Tensor, TchError>;

    const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-3)];

    /// Ids `[rows, tokens]` below 11, most of them more than once.
    fn ids(rows: i64, tokens: i64) -> Tensor {
        (Tensor::arange(rows * tokens, (Kind::Int64, Device::Cpu)).square() * 7).remainder(11).view([rows, tokens])
    }

    #[test]
    fn equals_the_reference_in_f64() {
        for (kind, tolerance) in KINDS {
            for (rows, tokens, columns) in [(1, 1, 5), (3, 5, 16), (7, 3, 33), (2, 31, 131), (2, 17, 1056)] {
                let ids = ids(rows, tokens);
                let inputs = [sample(&[11, columns], 1).to_kind(kind), sample(&[columns], 2)];
                compare(
                    &inputs,
                    tolerance,
                    |inputs| vec![embedding(&ids, &inputs[0], Some(&inputs[1])).unwrap()],
                    |inputs| vec![embedding_reference(&ids, &inputs[0], Some(&inputs[1])).unwrap()],
                );
                compare(
                    &inputs[..1],
                    tolerance,
                    |inputs| vec![embedding(&ids, &inputs[0], None).unwrap()],
                    |inputs| vec![embedding_reference(&ids, &inputs[0], None).unwrap()],
                );
            }
        }
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        on_every_backend(bf16_is_rounded_to_nearest_even_here);
    }

    fn bf16_is_rounded_to_nearest_even_here() {
        let weight = sample(&[11, 67], 1).to_kind(Kind::BFloat16);
        let gate = sample(&[67], 2) * 1.001;
        let y = embedding(&ids(3, 9), &weight, Some(&gate)).unwrap();
        let expected = embedding_reference(&ids(3, 9), &weight, Some(&gate)).unwrap();
        assert_eq!(y, expected);
        // Halfway between two bf16 numbers, above and below an even one, and at the edge of infinity.
        let gate = Tensor::from_slice(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 3.4e38, -1.5e-41f32]);
        let y = embedding(&ids(1, 1), &Tensor::ones([11, 4], (Kind::BFloat16, Device::Cpu)), Some(&gate)).unwrap();
        assert_eq!(y.view([4]), gate.to_kind(Kind::BFloat16));
    }

    /// A bf16 leaf whose gradient buffer is `buffer`, which tch lets one make only in two steps.
    fn leaf_with_buffer(values: &Tensor, buffer: &Tensor) -> Tensor {
        let mut leaf = as_leaf(&values.to_kind(buffer.kind()));
        (&leaf * buffer).sum(Kind::Float).backward();
        leaf.set_data(values);
        leaf
    }

    #[test]
    fn a_leaf_collects_in_its_buffer() {
        on_every_backend(a_leaf_collects_in_its_buffer_here);
    }

    fn a_leaf_collects_in_its_buffer_here() {
        let ids = ids(2, 31);
        for (kind, buffer_kind) in
            [(Kind::Float, Kind::Float), (Kind::BFloat16, Kind::Float), (Kind::BFloat16, Kind::BFloat16)]
        {
            let values = sample(&[13, 20], 1).to_kind(kind);
            let before = sample(&[13, 20], 5).to_kind(buffer_kind);
            let leaf = leaf_with_buffer(&values, &before);
            let buffer = leaf.grad();
            assert_eq!((leaf.kind(), buffer.kind()), (kind, buffer_kind));
            for _ in 0..2 {
                embedding(&ids, &leaf, None).unwrap().sum(Kind::Float).backward();
            }
            assert_eq!(buffer.data_ptr(), leaf.grad().data_ptr());
            let counts = ids.view([-1]).bincount::<Tensor>(None, 13).to_kind(Kind::Float).unsqueeze(-1);
            let expected = before.to_kind(Kind::Float) + counts * 2.0;
            let tolerance = if buffer_kind == Kind::Float { 1e-6 } else { 8e-3 };
            assert_close("buffer", &buffer.to_kind(Kind::Float), &expected, tolerance);
            // What does not occur is not touched.
            assert_eq!(buffer.narrow(0, 11, 2), before.narrow(0, 11, 2));
        }
    }

    #[test]
    fn a_bf16_row_that_occurs_often_is_summed_in_fp32() {
        on_every_backend(a_bf16_row_that_occurs_often_is_summed_in_fp32_here);
    }

    fn a_bf16_row_that_occurs_often_is_summed_in_fp32_here() {
        let leaf = as_leaf(&Tensor::zeros([2, 3], (Kind::BFloat16, Device::Cpu)));
        let ids = Tensor::zeros([1, 4096], (Kind::Int64, Device::Cpu));
        embedding(&ids, &leaf, None).unwrap().sum(Kind::Float).backward();
        assert_eq!(leaf.grad().get(0), Tensor::full([3], 4096.0, (Kind::BFloat16, Device::Cpu)));
    }

    #[test]
    fn a_weight_used_elsewhere_too_gets_both_gradients() {
        let tied = |f: Function| {
            move |inputs: &[Tensor]| {
                let x = f(&ids(2, 5), &inputs[0], None).unwrap();
                vec![x.matmul(&inputs[0].tr()), f(&ids(1, 3), &inputs[0], None).unwrap()]
            }
        };
        compare(&[sample(&[11, 7], 1)], 1e-5, tied(embedding), tied(embedding_reference));
    }

    #[test]
    fn not_a_leaf_or_named_gets_an_ordinary_gradient() {
        on_every_backend(not_a_leaf_or_named_gets_an_ordinary_gradient_here);
    }

    fn not_a_leaf_or_named_gets_an_ordinary_gradient_here() {
        let derived = |f: Function| {
            move |inputs: &[Tensor]| vec![f(&ids(2, 9), &inputs[0].square().transpose(0, 1), Some(&inputs[1])).unwrap()]
        };
        compare(&[sample(&[7, 11], 1), sample(&[7], 2)], 1e-5, derived(embedding), derived(embedding_reference));
        let (leaf, gate) = (as_leaf(&sample(&[11, 7], 1)), as_leaf(&sample(&[7], 2)));
        let loss = embedding(&ids(2, 9), &leaf, Some(&gate)).unwrap().square().sum(Kind::Float);
        let named = Tensor::f_run_backward(&[&loss], &[&leaf], true, false).unwrap();
        let only_gate = Tensor::f_run_backward(&[&loss], &[&gate], true, false).unwrap();
        assert!(!leaf.grad().defined() && !gate.grad().defined());
        loss.backward();
        assert_close("weight", &named[0], &leaf.grad(), 0.0);
        assert_close("gate", &only_gate[0], &gate.grad(), 0.0);
    }

    #[test]
    fn what_needs_no_gradient_gets_none() {
        on_every_backend(what_needs_no_gradient_gets_none_here);
    }

    fn what_needs_no_gradient_gets_none_here() {
        let (weight, gate) = (sample(&[11, 7], 1), sample(&[7], 2));
        let leaf = as_leaf(&weight);
        assert!(!embedding(&ids(2, 3), &weight, Some(&gate)).unwrap().requires_grad());
        assert!(!tch::no_grad(|| embedding(&ids(2, 3), &leaf, Some(&gate))).unwrap().requires_grad());
        let open = as_leaf(&gate);
        embedding(&ids(2, 3), &weight, Some(&open)).unwrap().sum(Kind::Float).backward();
        assert!(open.grad().defined() && !weight.grad().defined());
    }

    #[test]
    fn nan_stays_visible() {
        on_every_backend(nan_stays_visible_here);
    }

    fn nan_stays_visible_here() {
        for (kind, _) in KINDS {
            let weight = sample(&[11, 21], 1).to_kind(kind);
            let _ = weight.get(7).fill_(f64::NAN);
            let (weight, gate) = (as_leaf(&weight), as_leaf(&sample(&[21], 2)));
            let y = embedding(&Tensor::from_slice(&[3i64, 7, 3]).view([1, 3]), &weight, Some(&gate)).unwrap();
            y.sum(Kind::Float).backward();
            assert!(all_nan(&y.select(1, 1)) && all_nan(&gate.grad()));
            assert!(weight.grad().isfinite().all().int64_value(&[]) == 1);
            let poison = Tensor::full([1, 3, 21], f64::NAN, (kind, Device::Cpu));
            let y = embedding(&Tensor::from_slice(&[3i64, 5, 3]).view([1, 3]), &weight, None).unwrap();
            (y * poison).sum(Kind::Float).backward();
            assert!(all_nan(&weight.grad().get(3)) && all_nan(&weight.grad().get(5)));
            assert!(weight.grad().get(7).isfinite().all().int64_value(&[]) == 1);
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let weight = sample(&[11, 7], 1);
        let wrong = |ids: &Tensor, gate: Option<&Tensor>| embedding(ids, &weight, gate).unwrap_err().to_string();
        let problem = wrong(&Tensor::from_slice(&[3i64, 11]), None);
        assert!(problem.contains("token id 11") && problem.contains("position 1") && problem.contains("of 11"));
        assert!(wrong(&Tensor::from_slice(&[-1i64]), None).contains("token id -1"));
        assert!(wrong(&Tensor::from_slice(&[1i32]), None).contains("int64"));
        assert!(wrong(&ids(1, 2), Some(&sample(&[6], 2))).contains("gate"));
        assert!(wrong(&ids(1, 2), Some(&sample(&[7], 2).to_kind(Kind::BFloat16))).contains("gate"));
        assert!(embedding(&ids(1, 2), &sample(&[7], 1), None).unwrap_err().to_string().contains("[V, D]"));
        assert!(embedding(&Tensor::new(), &weight, None).is_err());
        let none = embedding(&ids(1, 1).narrow(1, 0, 0), &as_leaf(&weight), None).unwrap();
        none.sum(Kind::Float).backward();
        assert_eq!(none.size(), [1, 0, 7]);
        for kind in [Kind::Half, Kind::Double] {
            assert_eq!(embedding(&ids(1, 2), &weight.to_kind(kind), Some(&sample(&[7], 2))).unwrap().kind(), kind);
        }
    }
}
