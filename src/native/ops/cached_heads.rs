//! The heads of one token that is decoded: query and key are turned by its position, key and value go to their place in a cache. The
//! position comes from the device's memory, so that what is launched is the same for every token and can be recorded
//! (`model/recorded_token.rs`); on a GPU with kernels it is one launch (`cu/cached_heads.h`).

use super::dispatch::device_kernels;
use super::rope::rope_reference;
use crate::native::shim::{self, CError, CTensor};
use std::ffi::c_int;
use tch::{TchError, Tensor};

unsafe extern "C" {
    fn shearling_cached_heads(
        query: CTensor,
        key: CTensor,
        value: CTensor,
        cos: CTensor,
        sin: CTensor,
        position: CTensor,
        keys: CTensor,
        values: CTensor,
        out: *mut CTensor,
        error: CError,
    ) -> c_int;
}

/// Heads of one token of each row, before their position.
#[derive(Clone, Copy, Debug)]
pub struct TokenHeads<'a> {
    /// `[B, 1, H, E]`.
    pub query: &'a Tensor,
    /// `[B, 1, K, E]`.
    pub key: &'a Tensor,
    /// `[B, 1, K, E]`.
    pub value: &'a Tensor,
}

/// Writes key (turned) and value to `position` (`[1]`, int64, on the device) of `keys`, `values [B, K, capacity, E]`, and gives the
/// turned query `[B, 1, H, E]`. `cos` and `sin` are the tables of [`rope`](super::rope::rope) for all positions.
///
/// # Errors
/// Shapes and dtypes that do not fit each other.
pub fn place_token(
    heads: TokenHeads,
    (cos, sin): (&Tensor, &Tensor),
    position: &Tensor,
    (keys, values): (&Tensor, &Tensor),
) -> Result<Tensor, TchError> {
    if !device_kernels(heads.query)? {
        return place_token_reference(heads, (cos, sin), position, (keys, values));
    }
    let TokenHeads { query, key, value } = heads;
    let [query, key, value, cos, sin, position, keys, values] =
        [query, key, value, cos, sin, position, keys, values].map(shim::pointer);
    // SAFETY: live tensors; dtypes, sizes and layout are checked on the other side.
    shim::tensor(|out, error| unsafe {
        shearling_cached_heads(query, key, value, cos, sin, position, keys, values, out, error)
    })
}

/// [`place_token`] of plain tch operators.
pub fn place_token_reference(
    heads: TokenHeads,
    (cos, sin): (&Tensor, &Tensor),
    position: &Tensor,
    (keys, values): (&Tensor, &Tensor),
) -> Result<Tensor, TchError> {
    let (cos, sin) = (cos.f_index_select(0, position)?, sin.f_index_select(0, position)?);
    let turned = rope_reference(heads.key, &cos, &sin)?;
    for (into, from) in [(keys, &turned), (values, heads.value)] {
        let _ = into.shallow_clone().f_index_copy_(2, position, &from.f_transpose(1, 2)?)?;
    }
    rope_reference(heads.query, &cos, &sin)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{assert_close, on_every_backend, sample};
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn one_launch_does_what_the_operators_do() {
        on_every_backend(one_launch_does_what_the_operators_do_here);
    }

    fn one_launch_does_what_the_operators_do_here() {
        // Heads alone, grouped and all in one group; in packs of 16 bytes and not.
        for [rows, heads, groups, dim] in [[1, 4, 4, 64], [2, 6, 2, 16], [1, 3, 1, 6]] {
            for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 4e-3)] {
                let part = |heads, seed| sample(&[rows, 1, heads, dim], seed).to_kind(kind);
                let (query, key, value) = (part(heads, 1), part(groups, 2), part(groups, 3));
                let angles = sample(&[40, dim / 2], 4) * 3.0;
                let angles = Tensor::cat(&[&angles, &angles], 1);
                let (cos, sin) = (angles.cos(), angles.sin());
                let position = Tensor::from_slice(&[17i64]);
                let caches = || [0, 1].map(|_| Tensor::ones([rows, groups, 40, dim], (kind, Device::Cpu)));
                let ([keys, values], [its_keys, its_values]) = (caches(), caches());
                let token = TokenHeads { query: &query, key: &key, value: &value };
                let found = place_token(token, (&cos, &sin), &position, (&keys, &values)).unwrap();
                let expected = place_token_reference(token, (&cos, &sin), &position, (&its_keys, &its_values)).unwrap();
                let name = format!("{rows} {heads} {groups} {dim} {kind:?}");
                assert_eq!((found.size(), found.kind()), (vec![rows, 1, heads, dim], kind));
                assert_close(&format!("query {name}"), &found, &expected, tolerance);
                assert_close(&format!("keys {name}"), &keys, &its_keys, tolerance);
                assert_eq!(values, its_values, "{name}");
            }
        }
    }
}
