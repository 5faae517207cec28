//! The linear maps of one token that is decoded, behind their norm: on a GPU with kernels one launch (`cu/matvec.h`), which reads the
//! weights once and nothing else to speak of. Everywhere else, and for several tokens, norm and maps as training has them.

use super::dispatch::device_kernels;
use super::projection::project;
use super::rms_norm::rms_norm;
use super::swiglu::swiglu;
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_project_token(
        x: CTensor,
        norm: CTensor,
        eps: f64,
        weights: *const CTensor,
        biases: *const CTensor,
        count: usize,
        swiglu: c_int,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// An RMSNorm.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// `[I]`.
    pub weight: &'a Tensor,
    /// ε.
    pub eps: f64,
}

/// A linear map: weight `[O, I]` and bias `[O]`.
pub type Map<'a> = (&'a Tensor, Option<&'a Tensor>);

/// `norm(x) Wᵀ + b` `[.., O]` for each map of one input `x [.., I]`. There is no gradient.
///
/// # Errors
/// If shapes, dtypes or devices do not fit.
pub fn project_normed(x: &Tensor, norm: Norm, maps: &[Map]) -> Result<Vec<Tensor>, TchError> {
    if one_row_on_gpu(x, norm)? {
        return launch(x, norm, maps, false);
    }
    project(&rms_norm(x, norm.weight, None, norm.eps)?.0, maps)
}

/// `silu(norm(x) Gᵀ + b_g) ⊙ (norm(x) Uᵀ + b_u)` `[.., O]` of `x [.., I]`. There is no gradient.
///
/// # Errors
/// If shapes, dtypes or devices do not fit.
pub fn swiglu_normed(x: &Tensor, norm: Norm, gate: Map, up: Map) -> Result<Tensor, TchError> {
    if one_row_on_gpu(x, norm)? {
        return Ok(launch(x, norm, &[gate, up], true)?.remove(0));
    }
    let products = project(&rms_norm(x, norm.weight, None, norm.eps)?.0, &[gate, up])?;
    swiglu(&products[0], &products[1], None)
}

fn one_row_on_gpu(x: &Tensor, norm: Norm) -> Result<bool, TchError> {
    let columns = x.size().last().copied().unwrap_or(0);
    Ok(device_kernels(x)? && x.numel() as i64 == columns && norm.weight.f_kind()? == x.f_kind()?)
}

fn launch(x: &Tensor, norm: Norm, maps: &[Map], swiglu: bool) -> Result<Vec<Tensor>, TchError> {
    let weights = shim::pointers(maps.iter().map(|(weight, _)| *weight));
    let biases: Vec<CTensor> = maps.iter().map(|(_, bias)| shim::optional(*bias)).collect();
    let (x, weight, count) = (shim::pointer(x), shim::pointer(norm.weight), maps.len());
    // SAFETY: live tensors (or null, for a bias); as many outputs as there is room for.
    shim::tensors(if swiglu { 1 } else { count }, |out, error| unsafe {
        let (weights, biases) = (weights.as_ptr(), biases.as_ptr());
        shearling_project_token(x, weight, norm.eps, weights, biases, count, swiglu.into(), out, error)
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{assert_close, on_every_backend, sample};
    use super::*;
    use tch::Kind;

    #[test]
    fn one_row_is_norm_and_maps_in_fp64() {
        on_every_backend(one_row_is_norm_and_maps_in_fp64_here);
    }

    fn one_row_is_norm_and_maps_in_fp64_here() {
        // Columns in packs of 16 bytes and not, fewer and more than a warp takes at a time; one to four maps.
        for columns in [5, 64, 300, 1040] {
            for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 3e-2)] {
                let rounded = |tensor: Tensor| tensor.to_kind(kind);
                let x = rounded(sample(&[1, 1, columns], 1) * 3.0);
                let weight = rounded(sample(&[columns], 2) + 1.0);
                let weights = [31, 31, 8, 70].map(|o| rounded(sample(&[o, columns], o + columns)));
                let bias = rounded(sample(&[31], 9));
                let norm = Norm { weight: &weight, eps: 1e-2 };
                let wide = |tensor: &Tensor| tensor.to_kind(Kind::Double);
                let (wide_x, wide_weight) = (wide(&x), wide(&weight));
                let its_norm = Norm { weight: &wide_weight, eps: 1e-2 };
                let (wide_weights, wide_bias) = (weights.each_ref().map(wide), wide(&bias));
                let name = format!("{columns} {kind:?}");
                for count in 1..=4 {
                    let all = |weights: &[Tensor; 4], bias: &Tensor, x: &Tensor, norm: Norm| {
                        let map = |w| (w, (weights[1].data_ptr() == Tensor::data_ptr(w)).then_some(bias));
                        project_normed(x, norm, &weights[..count].iter().map(map).collect::<Vec<_>>()).unwrap()
                    };
                    let found = all(&weights, &bias, &x, norm);
                    let expected = all(&wide_weights, &wide_bias, &wide_x, its_norm);
                    for (found, expected) in found.iter().zip(&expected) {
                        assert_eq!((found.size(), found.kind()), (expected.size(), kind));
                        assert_close(&format!("{name} {count}"), found, expected, tolerance);
                    }
                }
                let found = swiglu_normed(&x, norm, (&weights[0], None), (&weights[1], Some(&bias))).unwrap();
                let (gate, up) = ((&wide_weights[0], None), (&wide_weights[1], Some(&wide_bias)));
                let expected = swiglu_normed(&wide_x, its_norm, gate, up).unwrap();
                assert_close(&format!("swiglu {name}"), &found, &expected, tolerance);
            }
        }
    }

    #[test]
    fn maps_of_other_columns_are_an_error() {
        on_every_backend(|| {
            let (x, weight) = (sample(&[1, 8], 1), sample(&[8], 2));
            let norm = Norm { weight: &weight, eps: 1e-5 };
            assert!(project_normed(&x, norm, &[(&sample(&[4, 9], 3), None)]).is_err());
            let (gate, up) = (sample(&[4, 8], 3), sample(&[5, 8], 4));
            assert!(swiglu_normed(&x, norm, (&gate, None), (&up, None)).is_err());
        });
    }
}
