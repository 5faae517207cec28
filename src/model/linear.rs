//! A linear map with an optional bias: `y = x Wᵀ + b`.

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
    /// Maps `x [.., in]` to `[.., out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, self.bias.as_ref())
    }
}
