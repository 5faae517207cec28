//! Rotary position embedding in one pass over `[B, T, H, E]`, the layout that the projections leave.
//!
//! ```text
//! y = x⊙cos + rotate_half(x)⊙sin        rotate_half([a, b]) = [−b, a]
//! ```
//!
//! The backward is the rotation by the opposite angle: nothing but the tables is kept.

use super::dispatch::{Backend, backend, wide};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_rope(x: CTensor, cos: CTensor, sin: CTensor, out: *mut CTensor, error: CError) -> c_int;
}

/// Rotates `x [B, T, H, E]` by the angles of its tokens: `[B, T, H, E]` in x's dtype, contiguous.
///
/// `cos` and `sin [>=T, E]` are fp32 tables without gradient whose two halves along E are equal; only the first is
/// read. Arithmetic is in fp32 with one rounding at the end.
///
/// # Errors
/// Shapes that do not fit each other, and dtypes or devices other than said.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, TchError> {
    match backend(x)? {
        Backend::Composed => return rope_reference(x, cos, sin),
        Backend::Kernel => (),
    }
    let (x, cos, sin) = (shim::pointer(x), shim::pointer(cos), shim::pointer(sin));
    // SAFETY: the tensors live for the time of the call.
    shim::tensor(|out, error| unsafe { shearling_rope(x, cos, sin, out, error) })
}

/// [`rope`] of plain tch operators.
pub fn rope_reference(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, TchError> {
    let kind = x.f_kind()?;
    let (_, tokens, _, _) = x.size4()?;
    let table = |table: &Tensor| table.f_narrow(0, 0, tokens)?.f_unsqueeze(1)?.f_to_kind(wide(kind));
    let values = x.f_to_kind(wide(kind))?;
    let halves = values.f_chunk(2, -1)?;
    let turned = Tensor::f_cat(&[&halves[1].f_neg()?, &halves[0]], -1)?;
    let rotated = values.f_mul(&table(cos)?)?.f_add(&turned.f_mul(&table(sin)?)?)?;
    rotated.f_to_kind(kind)?.f_contiguous()
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{all_nan, as_leaf, assert_close, compare, on_every_backend, sample};
    use super::*;
    use tch::{Device, Kind};

    const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-3)];

    fn tables(tokens: i64, dim: i64) -> (Tensor, Tensor) {
        let frequencies = Tensor::linspace(1.0, 0.05, dim / 2, (Kind::Float, Device::Cpu));
        let half = Tensor::arange(tokens, (Kind::Float, Device::Cpu)).outer(&frequencies);
        let angles = Tensor::cat(&[&half, &half], -1);
        (angles.cos(), angles.sin())
    }

    #[test]
    fn equals_the_reference_in_f64() {
        for (kind, tolerance) in KINDS {
            for shape in [[1, 1, 1, 2], [1, 3, 2, 6], [3, 7, 1, 38], [2, 5, 3, 64], [1, 2, 40, 128]] {
                let (cos, sin) = tables(9, shape[3]);
                compare(
                    &[sample(&shape, 1).to_kind(kind)],
                    tolerance,
                    |inputs| vec![rope(&inputs[0], &cos, &sin).unwrap()],
                    |inputs| vec![rope_reference(&inputs[0], &cos, &sin).unwrap()],
                );
            }
        }
    }

    /// As in attention: heads are transposed behind the rotation, so that its gradient comes in transposed; x may be
    /// a part of a joint projection, or strided in E.
    #[test]
    fn any_strides_in_and_back() {
        let (cos, sin) = tables(7, 10);
        for (shape, view) in [
            ([2, 7, 5, 10], (|x: &Tensor| x.narrow(2, 1, 3)) as fn(&Tensor) -> Tensor),
            ([2, 3, 7, 10], |x| x.transpose(1, 2)),
            ([2, 7, 10, 3], |x| x.transpose(2, 3)),
        ] {
            compare(
                &[sample(&shape, 1)],
                1e-5,
                |inputs| vec![rope(&view(&inputs[0]), &cos, &sin).unwrap().transpose(1, 2)],
                |inputs| vec![rope_reference(&view(&inputs[0]), &cos, &sin).unwrap().transpose(1, 2)],
            );
        }
        let x = as_leaf(&sample(&[2, 7, 3, 10], 1));
        let y = rope(&x, &cos, &sin).unwrap();
        assert!(y.is_contiguous());
        // The gradient of a sum has stride 0 everywhere.
        y.sum(Kind::Float).backward();
        let back = rope(&x.ones_like().detach(), &cos, &sin.neg()).unwrap();
        assert_close("ones", &x.grad(), &back, 1e-6);
    }

    #[test]
    fn gradients_where_they_are_asked_for() {
        let (cos, sin) = tables(5, 4);
        let x = as_leaf(&sample(&[1, 5, 2, 4], 1));
        let y = rope(&x, &cos, &sin).unwrap();
        let named = Tensor::f_run_backward(&[y.square().sum(Kind::Float)], &[&x], false, false).unwrap();
        // A rotation keeps norms, so the gradient of the squared norm is that of the input's.
        assert_close("named", &named[0], &(x.detach() * 2.0), 1e-5);
        assert!(!tch::no_grad(|| rope(&x, &cos, &sin)).unwrap().requires_grad());
        assert!(!rope(&x.detach(), &cos, &sin).unwrap().requires_grad());
    }

    #[test]
    fn nan_stays_visible() {
        on_every_backend(nan_stays_visible_here);
    }

    fn nan_stays_visible_here() {
        let (cos, sin) = tables(5, 38);
        for (kind, _) in KINDS {
            let x = sample(&[1, 5, 2, 38], 1).to_kind(kind);
            let _ = x.select(1, 3).fill_(f64::NAN);
            let y = rope(&x, &cos, &sin).unwrap();
            assert!(all_nan(&y.select(1, 3)));
            assert_eq!(y.isnan().sum(Kind::Int64).int64_value(&[]), 2 * 38);
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let (cos, sin) = tables(5, 4);
        let wrong = |x: &Tensor, cos: &Tensor, sin: &Tensor| rope(x, cos, sin).unwrap_err().to_string();
        let x = sample(&[1, 5, 2, 4], 1);
        assert!(wrong(&sample(&[5, 2, 4], 1), &cos, &sin).contains("[B, T, H, even E]"));
        assert!(wrong(&sample(&[1, 5, 2, 5], 1), &cos, &sin).contains("even E"));
        assert!(wrong(&sample(&[1, 6, 2, 4], 1), &cos, &sin).contains("cos"));
        assert!(wrong(&x, &cos, &sin.narrow(1, 0, 2)).contains("sin"));
        assert!(wrong(&x, &cos.to_kind(Kind::Double), &sin).contains("cos"));
        assert!(wrong(&x, &as_leaf(&cos), &sin).contains("cos"));
        for kind in [Kind::Half, Kind::Double] {
            assert_eq!(rope(&x.to_kind(kind), &cos, &sin).unwrap().kind(), kind);
        }
        assert_eq!(rope(&x.narrow(0, 0, 0), &cos, &sin).unwrap().size(), [0, 5, 2, 4]);
    }
}
