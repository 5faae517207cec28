//! Causal self-attention with grouped heads, `softmax(q kᵀ / √E + causal) v`.
//!
//! libtorch's flash kernel on the CPU runs its products through MKL, in AVX2 on AMD; ours goes through oneDNN's
//! microkernels (`cpp/attention.cpp`) and takes grouped heads as they are. Everywhere else, and under a mask, it is
//! libtorch's `scaled_dot_product_attention`.

use super::dispatch::{Backend, cpu_backend};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{Device, Kind, TchError, Tensor};

unsafe extern "C" {
    fn shearling_attention_is_fast() -> c_int;
    fn shearling_attention(query: CTensor, key: CTensor, value: CTensor, out: *mut CTensor, error: CError) -> c_int;
}

/// Attention of `query [B, T, H, E]` to `key`, `value [B, T, K, E]`: query head k·G+g reads group k. Position i reads
/// positions 0..=i, or what `mask [T, T]` (true: may read) says. The result is `[B, T, H, E]`.
pub fn causal_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let kind = query.f_kind()?;
    if kind == Kind::Double && query.device() != Device::Cpu {
        return group_by_group(query, key, value, mask);
    }
    let own = cpu_backend(query)? == Backend::Kernel;
    // SAFETY: takes nothing, gives a number.
    if mask.is_some() || !own || unsafe { shearling_attention_is_fast() } == 0 {
        return composed(query, key, value, mask);
    }
    let [query, key, value] = [query, key, value].map(shim::pointer);
    // SAFETY: three live tensors; dtypes and sizes are checked on the other side.
    shim::tensor(|out, error| unsafe { shearling_attention(query, key, value, out, error) })
}

/// The same for one group of heads at a time. On a GPU libtorch has no flash kernel in fp64: it makes all scores
/// `[B, H, T, T]`, which for a 7B and 4,096 tokens are 4 GiB, several times over.
fn group_by_group(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    let (_, _, heads, _) = query.size4()?;
    let (_, _, kv_heads, _) = key.size4()?;
    let group = heads / kv_heads.max(1);
    let part = |index: i64| {
        let own = |tensor: &Tensor| tensor.f_narrow(2, index, 1);
        composed(&query.f_narrow(2, index * group, group)?, &own(key)?, &own(value)?, mask)
    };
    Tensor::f_cat(&(0..kv_heads).map(part).collect::<Result<Vec<_>, _>>()?, 2)
}

/// The same in libtorch's operators.
fn composed(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    let (size, kv_size) = (query.size(), key.size());
    let (Some(heads), Some(kv_heads)) = (size.get(2), kv_size.get(2).filter(|heads| **heads > 0)) else {
        return Err(TchError::Shape(format!("queries {size:?} and keys {kv_size:?}, expected [B, T, heads, E]")));
    };
    let group = heads / kv_heads;
    // On a GPU the kernels for bf16 and fp16 read a group's keys and values in place; others would make all scores.
    let kind = query.f_kind()?;
    let in_place = query.device().is_cuda() && mask.is_none() && matches!(kind, Kind::BFloat16 | Kind::Half);
    let spread = |heads: &Tensor| match group {
        _ if in_place => heads.f_transpose(1, 2),
        1 => heads.f_transpose(1, 2),
        _ => heads.f_repeat_interleave_self_int(group, 2, None)?.f_transpose(1, 2),
    };
    let (query, key, value) = (query.f_transpose(1, 2)?, spread(key)?, spread(value)?);
    let out = Tensor::f_scaled_dot_product_attention(
        &query,
        &key,
        &value,
        mask,
        0.0,
        mask.is_none(),
        None,
        in_place && group > 1,
    )?;
    out.f_transpose(1, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest |a − b| over the largest |b|, or 1 if that is less.
    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
        ((a - &b).abs().max() / b.abs().max().clamp_min(1.0)).double_value(&[])
    }

    fn inputs(size: [i64; 5], kind: Kind) -> [Tensor; 4] {
        let [rows, tokens, heads, groups, dim] = size;
        tch::manual_seed(7);
        let random = |heads: i64| Tensor::randn([rows, tokens, heads, dim], (Kind::Float, Device::Cpu)).to_kind(kind);
        [random(heads), random(groups), random(groups), random(heads)]
    }

    /// Output and the gradients of queries, keys and values.
    fn run(function: impl Fn(&[Tensor]) -> Tensor, inputs: &[Tensor; 4], kind: Kind) -> Vec<Tensor> {
        let leaves: Vec<Tensor> = inputs[..3].iter().map(|x| x.to_kind(kind).copy().set_requires_grad(true)).collect();
        let out = function(&leaves);
        super::super::autograd::backward(&[out.shallow_clone()], &[inputs[3].to_kind(kind)]).unwrap();
        std::iter::once(out.detach()).chain(leaves.iter().map(Tensor::grad)).collect()
    }

    #[test]
    fn agrees_with_libtorch_in_value_and_gradient() {
        // Whole and part blocks of 128, one token, grouped heads, odd head sizes.
        let sizes = [[1, 1, 1, 1, 8], [2, 37, 4, 2, 16], [1, 128, 2, 2, 64], [1, 129, 3, 1, 24], [2, 300, 6, 2, 40]];
        for size in sizes {
            for (kind, bound) in [(Kind::Float, 2e-6), (Kind::BFloat16, 1e-2)] {
                let inputs = inputs(size, kind);
                let fast = |x: &[Tensor]| causal_attention(&x[0], &x[1], &x[2], None).unwrap();
                let plain = |x: &[Tensor]| composed(&x[0], &x[1], &x[2], None).unwrap();
                let (found, expected) = (run(fast, &inputs, kind), run(plain, &inputs, Kind::Double));
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.size(), expected.size());
                    assert_eq!(found.kind(), kind);
                    assert!(apart(found, expected) < bound, "{size:?} {kind:?}: {}", apart(found, expected));
                }
            }
        }
    }

    #[test]
    fn group_by_group_is_the_same() {
        for size in [[2, 19, 6, 2, 8], [1, 7, 3, 3, 4], [1, 5, 4, 1, 8]] {
            let [query, key, value, _] = inputs(size, Kind::Double);
            let causal = Tensor::ones([size[1], size[1]], (Kind::Bool, Device::Cpu)).tril(0);
            for mask in [None, Some(&causal)] {
                let found = group_by_group(&query, &key, &value, mask).unwrap();
                assert!(apart(&found, &composed(&query, &key, &value, mask).unwrap()) < 1e-14, "{size:?}");
            }
        }
    }

    #[test]
    fn inputs_need_not_be_contiguous() {
        let [query, key, value, _] = inputs([2, 19, 4, 2, 16], Kind::Float);
        let strided = |x: &Tensor| x.transpose(1, 2).contiguous().transpose(1, 2);
        let found = causal_attention(&strided(&query), &strided(&key), &strided(&value), None).unwrap();
        assert_eq!(found, causal_attention(&query, &key, &value, None).unwrap());
    }

    #[test]
    fn a_mask_replaces_the_causal_rule() {
        let [query, key, value, _] = inputs([1, 9, 2, 2, 8], Kind::Float);
        let causal = Tensor::ones([9, 9], (Kind::Bool, Device::Cpu)).tril(0);
        let masked = causal_attention(&query, &key, &value, Some(&causal)).unwrap();
        assert!(apart(&masked, &causal_attention(&query, &key, &value, None).unwrap()) < 2e-6);
    }

    #[test]
    fn what_is_not_a_number_stays_visible() {
        let [query, key, value, _] = inputs([1, 5, 1, 1, 8], Kind::Float);
        let _ = key.get(0).get(2).fill_(f64::NAN);
        let out = causal_attention(&query, &key, &value, None).unwrap().isnan().any_dim(-1, false).view([-1]);
        assert_eq!(Vec::<bool>::try_from(out).unwrap(), [false, false, true, true, true]);
    }

    #[test]
    fn heads_that_do_not_fit_are_an_error() {
        let [query, key, value, _] = inputs([1, 5, 4, 2, 8], Kind::Float);
        let wrong = Tensor::randn([1, 5, 3, 8], (Kind::Float, Device::Cpu));
        assert!(causal_attention(&query, &wrong, &wrong, None).unwrap_err().to_string().contains("do not go with"));
        assert!(causal_attention(&query, &key, &value.to_kind(Kind::BFloat16), None).is_err());
        assert!(causal_attention(&query.get(0), &key, &value, None).is_err());
    }
}
