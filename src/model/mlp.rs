//! The gated feed-forward half of a layer: `z^layer · h ⊙ ((silu(b Wgᵀ) ⊙ (b Wuᵀ) ⊙ z^int) Wdᵀ)`.
//!
//! The intermediate mask multiplies the up branch only; the gate branch is untouched, so folding it into the
//! up projection is exact.

use super::linear::Linear;
use super::norm::rms_norm;
use super::{ForwardContext, HfModel};
use tch::{TchError, Tensor};

/// Weights of the feed-forward half of a layer.
#[derive(Debug)]
pub struct Mlp {
    /// Norm weight before the projections `[D]`.
    pub norm: Tensor,
    /// Gate projection `[F, D]`.
    pub gate: Linear,
    /// Up projection `[F, D]`.
    pub up: Linear,
    /// Down projection `[D, F]`.
    pub down: Linear,
}

impl Mlp {
    /// What the layer adds to the residual stream `x [B, T, D]`.
    pub fn forward(
        &self,
        model: &HfModel,
        layer: i64,
        x: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor, TchError> {
        let normed = rms_norm(x, &self.norm, model.rms_norm_eps, context.hidden.as_ref())?;
        let up = self.up.forward(&normed)?;
        let up = match &context.gates.intermediate {
            Some(gates) => up.f_mul(&gates.f_select(0, layer)?.f_to_kind(up.f_kind()?)?)?,
            None => up,
        };
        let inner = self.gate.forward(&normed)?.f_silu()?.f_mul(&up)?;
        context.gate_residual(layer, self.down.forward(&inner)?)
    }
}
