//! The feed-forward of the experts that a router chooses (LTE, arXiv 2402.06126, eq. 1 and 2), for decoding: an expert
//! that does not run is not read.
//!
//! ```text
//! W [N, 3m, D]: of each expert m gate rows, m up rows, m rows of downᵀ
//! z = b W_rᵀ + β                                                              [.., N], fp32
//! out = x + Σ_{e: z_e > 0} (silu(b gate_eᵀ) ⊙ (b up_eᵀ)) downᵀ_e              [.., D]
//! ```
//!
//! On the CPU a kernel (`cpp/sparse_feed_forward.cpp`, `cpp/sparse_rows.cpp`), on a GPU one for a single token
//! (`cu/experts.h`). The reference computes every expert and multiplies by the mask; it is what runs elsewhere.

use super::dispatch::{Backend, backend, cpu_backend, wide};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_sparse_feed_forward(
        normed: CTensor,
        residual: CTensor,
        experts: CTensor,
        router: CTensor,
        router_bias: CTensor,
        gate_bias: CTensor,
        up_bias: CTensor,
        down_bias: CTensor,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
    fn shearling_takes_experts(experts: i64, dim: i64) -> c_int;
}

/// The weights of a layer, packed by expert. Biases are fp32.
#[derive(Debug)]
pub struct PackedExperts {
    /// `[N, 3m, D]`, contiguous, in the dtype of the activations.
    pub experts: Tensor,
    /// W_r `[N, D]`, contiguous; `None`: every expert runs.
    pub router: Option<Tensor>,
    /// β `[N]`.
    pub router_bias: Option<Tensor>,
    /// `[N·m]`.
    pub gate_bias: Option<Tensor>,
    /// `[N·m]`.
    pub up_bias: Option<Tensor>,
    /// `[D]`.
    pub down_bias: Option<Tensor>,
}

impl PackedExperts {
    /// The same tensors again.
    pub fn shallow_clone(&self) -> PackedExperts {
        let same = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        PackedExperts {
            experts: self.experts.shallow_clone(),
            router: same(&self.router),
            router_bias: same(&self.router_bias),
            gate_bias: same(&self.gate_bias),
            up_bias: same(&self.up_bias),
            down_bias: same(&self.down_bias),
        }
    }
}

/// The residual stream `residual [.., D]` after the experts that run for `normed [.., D]`, which is what the router, gate
/// and up rows see. Arithmetic is fp32; one token has the same result on any number of threads.
///
/// A logit that is NaN lets its expert run, so that a broken number stays visible.
///
/// # Errors
/// Shapes, dtypes and layouts that do not fit each other. There is no gradient.
pub fn sparse_feed_forward(normed: &Tensor, residual: &Tensor, weights: &PackedExperts) -> Result<Tensor, TchError> {
    if cpu_backend(normed)? == Backend::Composed && !suits_gpu(normed, weights)? {
        return sparse_feed_forward_reference(normed, residual, weights);
    }
    let [normed, residual, experts] = [normed, residual, &weights.experts].map(shim::pointer);
    let optional = [&weights.router, &weights.router_bias, &weights.gate_bias, &weights.up_bias, &weights.down_bias];
    let [router, router_bias, gate_bias, up_bias, down_bias] = optional.map(|tensor| shim::optional(tensor.as_ref()));
    // SAFETY: live tensors, or null where one may be absent; dtypes, sizes and layouts are checked on the other side.
    shim::tensor(|out, error| unsafe {
        shearling_sparse_feed_forward(
            normed,
            residual,
            experts,
            router,
            router_bias,
            gate_bias,
            up_bias,
            down_bias,
            out,
            error,
        )
    })
}

/// Whether a GPU's kernel computes it: one token, in one dtype, over a layer that has room in a block's memory.
fn suits_gpu(normed: &Tensor, weights: &PackedExperts) -> Result<bool, TchError> {
    let one = normed.numel() as i64 == normed.size().last().copied().unwrap_or(0);
    let kind = normed.kind();
    let known = weights.router.as_ref().is_none_or(|router| router.kind() == kind || router.kind() == Kind::Float);
    let (experts, _, dim) = weights.experts.size3()?;
    // SAFETY: numbers go in, a number comes out.
    let fits = || unsafe { shearling_takes_experts(experts, dim) != 0 };
    Ok(one && known && backend(normed)? == Backend::Kernel && fits())
}

/// Which experts run for `normed [.., D]`: 1 or 0 `[.., N]`, in fp32 (fp64 for fp64).
///
/// # Errors
/// Shapes that do not fit each other.
pub fn running_experts(normed: &Tensor, weights: &PackedExperts) -> Result<Tensor, TchError> {
    let kind = wide(normed.f_kind()?);
    let Some(router) = &weights.router else {
        let mut shape = normed.size();
        shape.pop();
        shape.push(weights.experts.size3()?.0);
        return Tensor::f_ones(shape, (kind, normed.device()));
    };
    let bias = weights.router_bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose()?;
    let logits = normed.f_to_kind(kind)?.f_linear(&router.f_to_kind(kind)?, bias.as_ref())?;
    logits.f_le(0.0)?.f_logical_not()?.f_to_kind(kind)
}

/// [`sparse_feed_forward`] of plain tch operators: every expert is computed and multiplied by 1 or 0.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn sparse_feed_forward_reference(
    normed: &Tensor,
    residual: &Tensor,
    weights: &PackedExperts,
) -> Result<Tensor, TchError> {
    let kind = normed.f_kind()?;
    let (experts, rows, dim) = weights.experts.size3()?;
    let (units, size) = (experts * (rows / 3), rows / 3);
    let part = |part: i64| weights.experts.f_narrow(1, part * size, size)?.f_reshape([units, dim])?.f_to_kind(kind);
    let bias = |bias: &Option<Tensor>| bias.as_ref().map(|bias| bias.f_to_kind(kind)).transpose();
    let gate = normed.f_linear(&part(0)?, bias(&weights.gate_bias)?.as_ref())?;
    let up = normed.f_linear(&part(1)?, bias(&weights.up_bias)?.as_ref())?;
    let product = gate.f_to_kind(wide(kind))?.f_silu()?.f_mul(&up.f_to_kind(wide(kind))?)?;
    let mask = running_experts(normed, weights)?.f_repeat_interleave_self_int(size, -1, None::<i64>)?;
    let added = product.f_mul(&mask)?.f_to_kind(kind)?.f_matmul(&part(2)?)?.f_add(residual)?;
    match bias(&weights.down_bias)? {
        Some(bias) => added.f_add(&bias),
        None => Ok(added),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{all_nan, as_leaf, assert_close, on_every_backend, sample};
    use super::*;
    use crate::native::kernels::Path;
    use tch::Device;

    const KINDS: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)];

    /// Weights of N experts of m units over D, with every bias. The router's bias lets the experts of `runs` run for any
    /// input of [`input`], and no others.
    fn weights([experts, size, dim]: [i64; 3], runs: &dyn Fn(i64) -> bool, kind: Kind) -> PackedExperts {
        let bias: Vec<f32> = (0..experts).map(|e| if runs(e) { 1e4 } else { -1e4 }).collect();
        PackedExperts {
            experts: (sample(&[experts, 3 * size, dim], 1) / (dim as f64).sqrt()).to_kind(kind),
            router: Some(sample(&[experts, dim], 2).to_kind(kind)),
            router_bias: Some(Tensor::from_slice(&bias)),
            gate_bias: Some(sample(&[experts * size], 3)),
            up_bias: Some(sample(&[experts * size], 4)),
            down_bias: Some(sample(&[dim], 5)),
        }
    }

    /// Normed input and residual stream.
    fn input(shape: &[i64], kind: Kind) -> [Tensor; 2] {
        [sample(shape, 6).to_kind(kind), sample(shape, 7).to_kind(kind)]
    }

    /// Without biases, and with a router that chooses for each token by itself.
    fn plain(sizes: [i64; 3], kind: Kind) -> PackedExperts {
        let none = || None;
        let router_bias = None;
        PackedExperts {
            router_bias,
            gate_bias: none(),
            up_bias: none(),
            down_bias: none(),
            ..weights(sizes, &|_| true, kind)
        }
    }

    fn check(name: &str, [normed, residual]: &[Tensor; 2], weights: &PackedExperts, tolerance: f64) {
        let double = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.to_kind(Kind::Double));
        let wide = PackedExperts {
            experts: weights.experts.to_kind(Kind::Double),
            router: double(&weights.router),
            router_bias: double(&weights.router_bias),
            gate_bias: double(&weights.gate_bias),
            up_bias: double(&weights.up_bias),
            down_bias: double(&weights.down_bias),
        };
        let [x, stream] = [normed, residual].map(|tensor| tensor.to_kind(Kind::Double));
        let expected = sparse_feed_forward_reference(&x, &stream, &wide).unwrap();
        let found = sparse_feed_forward(normed, residual, weights).unwrap();
        assert_eq!((found.size(), found.kind()), (residual.size(), residual.kind()), "{name}");
        assert_close(name, &found, &expected, tolerance);
    }

    /// One token, a few, so many that experts gather them, and more than a chunk; odd widths, odd sizes of experts, a
    /// router that no four divides.
    /// A name, and which experts run.
    type Selection = (&'static str, fn(i64) -> bool);

    #[test]
    fn any_selection_of_any_shape_matches_the_masked_dense_reference() {
        on_every_backend(any_selection_of_any_shape_matches_the_masked_dense_reference_here);
    }

    fn any_selection_of_any_shape_matches_the_masked_dense_reference_here() {
        let selections: [Selection; 5] = [
            ("none", |_| false),
            ("the first", |e| e == 0),
            ("the last of five", |e| e == 4),
            ("every third", |e| e % 3 == 0),
            ("all", |_| true),
        ];
        // Of several tokens a GPU computes every expert, by the reference.
        let counts = if Path::current() == Path::Own { &[1, 2, 5, 31][..] } else { &[1] };
        for (kind, tolerance) in KINDS {
            for sizes in [[1, 1, 1], [5, 32, 64], [7, 32, 67], [4, 3, 129], [9, 6, 31]] {
                for (name, runs) in selections {
                    let weights = weights(sizes, &runs, kind);
                    for tokens in counts {
                        let name = format!("{name} of {sizes:?}, {tokens} tokens, {kind:?}");
                        check(&name, &input(&[*tokens, sizes[2]], kind), &weights, tolerance);
                    }
                }
            }
            if counts.len() > 1 {
                check("a long prompt", &input(&[2, 300, 40], kind), &plain([6, 8, 40], kind), tolerance);
            }
        }
    }

    #[test]
    fn every_token_has_experts_of_its_own() {
        on_every_backend(every_token_has_experts_of_its_own_here);
    }

    fn every_token_has_experts_of_its_own_here() {
        for (kind, tolerance) in KINDS {
            let weights = plain([11, 32, 96], kind);
            let [normed, residual] = input(&[3, 50, 96], kind);
            let chosen = running_experts(&normed, &weights).unwrap();
            let each = chosen.sum_dim_intlist(-1, false, Kind::Int64);
            assert!(each.min().int64_value(&[]) < each.max().int64_value(&[]), "tokens choose alike");
            check("rows together", &input(&[3, 50, 96], kind), &weights, tolerance);
            let whole = sparse_feed_forward(&normed, &residual, &weights).unwrap();
            for token in [0, 17, 49] {
                let one = |tensor: &Tensor| tensor.narrow(1, token, 1);
                let alone = sparse_feed_forward(&one(&normed), &one(&residual), &weights).unwrap();
                assert_close("a token alone", &alone, &one(&whole), tolerance);
            }
        }
    }

    #[test]
    fn without_experts_the_residual_stream_is_left_as_it_is() {
        on_every_backend(without_experts_the_residual_stream_is_left_as_it_is_here);
    }

    fn without_experts_the_residual_stream_is_left_as_it_is_here() {
        for (kind, _) in KINDS {
            for tokens in [1, 3, 40] {
                let weights = PackedExperts { down_bias: None, ..weights([5, 32, 64], &|_| false, kind) };
                let [normed, residual] = input(&[tokens, 64], kind);
                let found = sparse_feed_forward(&normed, &residual, &weights).unwrap();
                assert_eq!(found, residual, "{tokens} tokens");
            }
        }
    }

    #[test]
    fn without_a_router_every_expert_runs() {
        on_every_backend(without_a_router_every_expert_runs_here);
    }

    fn without_a_router_every_expert_runs_here() {
        for (kind, tolerance) in KINDS {
            for tokens in [1, 6] {
                let all = PackedExperts { router: None, router_bias: None, ..plain([5, 8, 48], kind) };
                check("no router", &input(&[tokens, 48], kind), &all, tolerance);
                let [normed, residual] = input(&[tokens, 48], kind);
                let found = sparse_feed_forward(&normed, &residual, &all).unwrap();
                let chosen = weights([5, 8, 48], &|_| true, kind);
                let chosen = PackedExperts { gate_bias: None, up_bias: None, down_bias: None, ..chosen };
                assert_eq!(found, sparse_feed_forward(&normed, &residual, &chosen).unwrap());
            }
        }
    }

    /// A router in fp32 beside experts in bf16, and the threshold itself, which does not run.
    #[test]
    fn the_router_may_be_wider_and_zero_is_not_above_zero() {
        on_every_backend(the_router_may_be_wider_and_zero_is_not_above_zero_here);
    }

    fn the_router_may_be_wider_and_zero_is_not_above_zero_here() {
        let mut weights = plain([6, 8, 32], Kind::BFloat16);
        weights.router = Some(sample(&[6, 32], 9) / 3.0);
        check("fp32 router", &input(&[1, 32], Kind::BFloat16), &weights, 1e-2);
        for tokens in [1, 4] {
            weights.router = Some(Tensor::zeros([6, 32], (Kind::Float, Device::Cpu)));
            let [normed, residual] = input(&[tokens, 32], Kind::BFloat16);
            assert_eq!(sparse_feed_forward(&normed, &residual, &weights).unwrap(), residual);
        }
    }

    #[test]
    fn one_token_has_the_same_bits_on_any_number_of_threads() {
        let before = tch::get_num_threads();
        for (kind, _) in KINDS {
            let weights = weights([37, 32, 600], &|e| e % 4 != 1, kind);
            let [normed, residual] = input(&[1, 600], kind);
            let on = |threads| {
                tch::set_num_threads(threads);
                sparse_feed_forward(&normed, &residual, &weights).unwrap()
            };
            let one = on(1);
            for threads in [2, 3, 5, 7] {
                assert_eq!(on(threads), one, "{threads} threads");
            }
        }
        tch::set_num_threads(before);
    }

    #[test]
    fn numbers_that_are_none_stay_visible() {
        on_every_backend(numbers_that_are_none_stay_visible_here);
    }

    fn numbers_that_are_none_stay_visible_here() {
        for tokens in [1, 5, 40] {
            let weights = plain([5, 8, 48], Kind::Float);
            let [normed, residual] = input(&[tokens, 48], Kind::Float);
            let _ = normed.get(0).narrow(0, 3, 1).fill_(f64::NAN);
            let found = sparse_feed_forward(&normed, &residual, &weights).unwrap();
            assert!(all_nan(&found.get(0)), "{tokens} tokens");
            assert_eq!(found.narrow(0, 1, tokens - 1).isfinite().all().int64_value(&[]), 1);
        }
    }

    #[test]
    fn strided_inputs_are_read_as_what_they_are() {
        on_every_backend(strided_inputs_are_read_as_what_they_are_here);
    }

    fn strided_inputs_are_read_as_what_they_are_here() {
        let weights = plain([5, 8, 48], Kind::Float);
        let [normed, residual] = input(&[48, 6], Kind::Float);
        check("transposed", &[normed.tr(), residual.tr()], &weights, 1e-5);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let [normed, residual] = input(&[2, 48], Kind::Float);
        let good = || weights([5, 8, 48], &|_| true, Kind::Float);
        let told = |normed: &Tensor, weights: PackedExperts| {
            sparse_feed_forward(normed, &residual, &weights).unwrap_err().to_string()
        };
        let experts = |experts| PackedExperts { experts, ..good() };
        assert!(told(&normed, experts(sample(&[5, 23, 48], 1))).contains("[5, 23, 48]"));
        assert!(told(&normed, experts(sample(&[5, 24, 47], 1))).contains("[N, 3 m, 48]"));
        assert!(told(&normed, experts(sample(&[48, 24, 5], 1).transpose(0, 2))).contains("contiguous"));
        assert!(told(&normed, experts(good().experts.to_kind(Kind::BFloat16))).contains("BFloat16"));
        let router = |router| PackedExperts { router: Some(router), ..good() };
        assert!(told(&normed, router(sample(&[4, 48], 1))).contains("the router is [4, 48]"));
        let bias = |bias| PackedExperts { up_bias: Some(bias), ..good() };
        assert!(told(&normed, bias(sample(&[39], 1))).contains("the up bias is [39]"));
        assert!(told(&normed, bias(sample(&[40], 1).to_kind(Kind::BFloat16))).contains("the up bias is BFloat16"));
        assert!(told(&normed.narrow(0, 0, 1), good()).contains("the residual stream is [2, 48]"));
        assert!(told(&as_leaf(&normed), good()).contains("no gradient"));
    }
}
