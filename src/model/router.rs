//! The router of a feed-forward layer: which of its experts (groups of intermediate units) run for a token.
//!
//! ```text
//! z = b W_rᵀ + β                 [B, T, N]   b: the normed input that gate and up projection see        (LTE, eq. 1)
//! soft:              every unit of expert e is multiplied by σ(z_e)                                   (LTE, eq. 3)
//! hard:              by 1 where z_e > 0, which is σ(z_e) > ½, else by 0                               (LTE, eq. 2)
//! straight-through:  by the hard mask; the gradient is that of σ(z_e)
//! ```
//!
//! Weights, logits and scores are fp32 whatever the model computes in: near the threshold bf16 has steps of 2⁻⁸.

use tch::{Kind, TchError, Tensor};

/// The router of one layer.
#[derive(Debug)]
pub struct Router {
    /// W_r `[N, D]`, fp32.
    pub weight: Tensor,
    /// β `[N]`, fp32; the paper has none.
    pub bias: Option<Tensor>,
}

impl Router {
    /// N.
    pub fn experts(&self) -> i64 {
        self.weight.size()[0]
    }

    /// The same tensors again.
    pub fn shallow_clone(&self) -> Router {
        Router { weight: self.weight.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone) }
    }

    /// z `[.., N]` of the normed input `[.., D]`, fp32.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor, TchError> {
        normed.f_to_kind(Kind::Float)?.f_linear(&self.weight, self.bias.as_ref())
    }
}
