//! The weights of a linear map with an optional bias, `y = x Wᵀ + b`, and the two ways in which a layer uses them.

use crate::native::ops::projection::{Input, project_gated_with, project_with};
use crate::native::ops::token_maps::{self, Norm};
use tch::{TchError, Tensor};

/// Weight `[out, in]` and bias `[out]` as stored in the checkpoint.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// The same tensors again.
    pub fn shallow_clone(&self) -> Linear {
        Linear { weight: self.weight.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone) }
    }

    /// As operations take it.
    pub(super) fn as_map(&self) -> token_maps::Map<'_> {
        (&self.weight, self.bias.as_ref())
    }

    /// Adds the map of `x [.., in]` to `residual [.., out]`: `residual + row ⊙ (W (column ⊙ x) + b)`.
    pub fn forward_gated(
        &self,
        x: &Tensor,
        row: Option<&Tensor>,
        column: Option<&Tensor>,
        residual: &Tensor,
    ) -> Result<Tensor, TchError> {
        self.forward_gated_with(x, [row, column], residual, Input::Kept)
    }

    /// As [`Linear::forward_gated`], with x in the backward as `input` says.
    pub(super) fn forward_gated_with(
        &self,
        x: &Tensor,
        [row, column]: [Option<&Tensor>; 2],
        residual: &Tensor,
        input: Input,
    ) -> Result<Tensor, TchError> {
        let bias = match (&self.bias, row) {
            (Some(bias), Some(row)) => Some(bias.f_mul(&row.f_to_kind(bias.f_kind()?)?)?),
            (bias, _) => bias.as_ref().map(Tensor::shallow_clone),
        };
        project_gated_with(x, &self.weight, [row, column], bias.as_ref(), residual, input)
    }
}

/// Maps the norm of `x [.., in]` by several maps at once, each to `[.., out]`, without a gradient: for a token that is decoded.
pub(super) fn project_normed<const N: usize>(
    x: &Tensor,
    norm: Norm,
    maps: [&Linear; N],
) -> Result<[Tensor; N], TchError> {
    as_many(token_maps::project_normed(x, norm, &maps.map(Linear::as_map))?)
}

/// Maps `x [.., in]` by several maps at once, each to `[.., out]`, with x in the backward as `input` says.
pub(super) fn project<const N: usize>(x: &Tensor, maps: [&Linear; N], input: Input) -> Result<[Tensor; N], TchError> {
    as_many(project_with(x, &maps.map(Linear::as_map), input)?)
}

fn as_many<const N: usize>(outputs: Vec<Tensor>) -> Result<[Tensor; N], TchError> {
    let found = outputs.len();
    outputs.try_into().map_err(|_| TchError::Shape(format!("{N} maps gave {found} outputs")))
}
