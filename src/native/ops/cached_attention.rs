//! Attention of new tokens to a key/value cache, `softmax(q Kᵀ / √E) V`, with grouped heads and no copy of the cache.
//!
//! One token goes through a kernel that reads keys and values once (`cpp/cached_attention.cpp`, on a GPU
//! `cu/cached_attention.h`): libtorch's attention is made for many queries and reaches a third of that speed on a CPU.
//! Everything else is libtorch's
//! `scaled_dot_product_attention`, with the G queries of a group laid out as rows of one matrix, so that grouped keys
//! are not repeated in memory there either.

use super::dispatch::{Backend, cpu_backend, device_kernels};
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_cached_attention(
        query: CTensor,
        key: CTensor,
        value: CTensor,
        last: CTensor,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
    fn shearling_takes_cached_attention(each: i64, dim: i64) -> c_int;
}

/// Attention of `query [B, T, H, E]` to `key`, `value [B, K, S, E]` (views into a cache, rows of E together): query head
/// k·G+g reads group k. All may be read, or what `mask [T, S]` (true: may read) says. The result is `[B, T, H, E]`.
///
/// # Errors
/// Shapes and dtypes that do not fit each other. There is no gradient.
pub fn cached_attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let (_, tokens, _, _) = query.size4()?;
    let one = tokens == 1 && mask.is_none();
    if !one || (cpu_backend(query)? == Backend::Composed && !on_gpu(query, key)?) {
        return cached_attention_reference(query, key, value, mask);
    }
    let [query, key, value] = [query, key, value].map(shim::pointer);
    let all = shim::optional(None);
    // SAFETY: three live tensors; dtypes, sizes and layout are checked on the other side.
    shim::tensor(|out, error| unsafe { shearling_cached_attention(query, key, value, all, out, error) })
}

/// [`cached_attention`] of one token, `query [B, 1, H, E]`, to the first keys and values of a cache with room for more,
/// `key`, `value [B, K, capacity, E]`: up to and with the one whose index is in `last` (`[1]`, int64, on the device). Where a
/// GPU has kernels, the host need not know the index: the launch is the same for every token.
///
/// # Errors
/// Those of [`cached_attention`].
pub fn cached_attention_up_to(query: &Tensor, key: &Tensor, value: &Tensor, last: &Tensor) -> Result<Tensor, TchError> {
    if !on_gpu(query, key)? {
        let count = last.f_int64_value(&[0])? + 1;
        return cached_attention(query, &key.f_narrow(2, 0, count)?, &value.f_narrow(2, 0, count)?, None);
    }
    let [query, key, value, last] = [query, key, value, last].map(shim::pointer);
    // SAFETY: four live tensors; dtypes, sizes and layout are checked on the other side.
    shim::tensor(|out, error| unsafe { shearling_cached_attention(query, key, value, last, out, error) })
}

/// Whether a GPU's kernel computes, and takes heads and groups like these.
fn on_gpu(query: &Tensor, key: &Tensor) -> Result<bool, TchError> {
    let ((_, _, heads, dim), (_, groups, _, _)) = (query.size4()?, key.size4()?);
    // SAFETY: numbers go in, a number comes out.
    let fits = || unsafe { shearling_takes_cached_attention(heads / groups.max(1), dim) != 0 };
    Ok(device_kernels(query)? && fits())
}

/// The same in libtorch's operators.
pub fn cached_attention_reference(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let (rows, tokens, heads, dim) = query.size4()?;
    let (_, groups, _, _) = key.size4()?;
    let each = heads / groups.max(1);
    let grouped = query.f_view([rows, tokens, groups, each, dim])?.f_permute([0, 2, 3, 1, 4])?;
    let grouped = grouped.f_reshape([rows, groups, each * tokens, dim])?;
    let mask = mask.map(|mask| mask.f_repeat([each, 1])).transpose()?;
    let mixed = Tensor::f_scaled_dot_product_attention(&grouped, key, value, mask, 0.0, false, None, false)?;
    let mixed = mixed.f_reshape([rows, groups, each, tokens, dim])?.f_permute([0, 3, 1, 2, 4])?;
    mixed.f_reshape([rows, tokens, heads, dim])
}

#[cfg(test)]
mod tests {
    use super::super::attention::causal_attention;
    use super::super::test_support::{assert_close, on_every_backend, sample};
    use super::*;
    use tch::{Device, Kind};

    /// Queries, and keys and values as the middle of a larger cache.
    fn inputs([rows, tokens, heads, groups, dim]: [i64; 5], kept: i64, kind: Kind) -> [Tensor; 3] {
        let cache = |seed| sample(&[rows, groups, kept + 9, dim], seed).to_kind(kind).narrow(2, 4, kept);
        [sample(&[rows, tokens, heads, dim], 1).to_kind(kind) * 2.0, cache(2), cache(3)]
    }

    #[test]
    fn one_token_matches_the_reference() {
        on_every_backend(one_token_matches_the_reference_here);
    }

    fn one_token_matches_the_reference_here() {
        // Blocks of 32 keys and quads of values, whole and in part; heads alone, grouped and all in one group.
        for size in [[1, 1, 1, 1, 8], [2, 1, 4, 2, 16], [1, 1, 6, 2, 64], [3, 1, 8, 1, 24], [1, 1, 4, 4, 128]] {
            for kept in [1, 3, 31, 32, 33, 128, 129, 300] {
                for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 1e-2)] {
                    let [query, key, value] = inputs(size, kept, kind);
                    let wide = [&query, &key, &value].map(|tensor| tensor.to_kind(Kind::Double));
                    let expected = cached_attention_reference(&wide[0], &wide[1], &wide[2], None).unwrap();
                    let found = cached_attention(&query, &key, &value, None).unwrap();
                    assert_eq!((found.size(), found.kind()), (query.size(), kind));
                    assert_close(&format!("{size:?} {kept} {kind:?}"), &found, &expected, tolerance);
                }
            }
        }
    }

    #[test]
    fn the_first_keys_of_a_cache_with_room_are_those_alone() {
        on_every_backend(the_first_keys_of_a_cache_with_room_are_those_alone_here);
    }

    fn the_first_keys_of_a_cache_with_room_are_those_alone_here() {
        // Parts of 128 keys, whole, in part and empty; what lies behind the last key must not be read.
        for size in [[1, 1, 1, 1, 8], [2, 1, 4, 2, 16], [1, 1, 6, 2, 64]] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let [query, key, value] = inputs(size, 400, kind);
                for count in [1, 127, 128, 129, 256, 399, 400] {
                    let [key, value] = [&key, &value].map(|cache| {
                        let cache = cache.copy();
                        let _ = cache.narrow(2, count, 400 - count).fill_(f64::NAN);
                        cache
                    });
                    let [first, its] = [&key, &value].map(|cache| cache.narrow(2, 0, count));
                    let expected = cached_attention(&query, &first, &its, None).unwrap();
                    let last = Tensor::from_slice(&[count - 1]);
                    let found = cached_attention_up_to(&query, &key, &value, &last).unwrap();
                    assert_eq!(found, expected, "{size:?} {kind:?} {count}");
                }
            }
        }
    }

    #[test]
    fn several_tokens_under_a_causal_mask_are_plain_attention() {
        let [query, key, value] = inputs([2, 7, 6, 3, 8], 7, Kind::Float);
        let mask = Tensor::ones([7, 7], (Kind::Bool, Device::Cpu)).tril(0);
        let found = cached_attention(&query, &key, &value, Some(&mask)).unwrap();
        let rows = |cached: &Tensor| cached.transpose(1, 2);
        let expected = causal_attention(&query, &rows(&key), &rows(&value), None).unwrap();
        assert_close("causal", &found, &expected, 1e-6);
    }

    #[test]
    fn numbers_that_are_none_come_out_as_such() {
        on_every_backend(numbers_that_are_none_come_out_as_such_here);
    }

    fn numbers_that_are_none_come_out_as_such_here() {
        let [query, key, value] = inputs([1, 1, 2, 1, 8], 40, Kind::Float);
        let _ = key.narrow(2, 17, 1).fill_(f64::NAN);
        let found = cached_attention(&query, &key, &value, None).unwrap();
        assert_eq!(found.isnan().all().int64_value(&[]), 1);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let [query, key, value] = inputs([1, 1, 4, 2, 8], 5, Kind::Float);
        let problem = |query: &Tensor, key: &Tensor, value: &Tensor| {
            cached_attention(query, key, value, None).unwrap_err().to_string()
        };
        assert!(problem(&query, &key, &value.narrow(2, 0, 4)).contains("values of [1, 2, 4, 8]"));
        assert!(problem(&query.narrow(2, 0, 3), &key, &value).contains("[1, 1, 3, 8]"));
        assert!(problem(&query, &key.to_kind(Kind::BFloat16), &value).contains("BFloat16"));
        assert!(problem(&query, &key.transpose(2, 3).contiguous().transpose(2, 3), &value).contains("lie together"));
        assert!(problem(&query.set_requires_grad(true), &key, &value).contains("no gradient"));
    }
}
