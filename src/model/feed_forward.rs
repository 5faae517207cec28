//! The gated feed-forward half of a layer: `x + z^layer · h ⊙ ((silu(b Wgᵀ) ⊙ (b Wuᵀ) ⊙ z^int) Wdᵀ)`.
//!
//! The intermediate mask multiplies the up branch only; the gate branch is untouched, so folding it into the
//! up projection is exact.

use super::context::LayerContext;
use super::layer_weights::LayerWeights;
use super::linear::{Linear, project};
use super::norm::rms_norm;
use super::parameters::Role;
use super::probe::{Probe, Site, unseen};
use super::router::Routed;
use crate::native::ops::swiglu::swiglu;
use crate::native::ops::token_maps::{Norm, swiglu_normed};
use tch::{TchError, Tensor};

/// Weights of the feed-forward half of a layer.
#[derive(Debug)]
pub struct FeedForward {
    /// Norm weight before the projections `[D]`.
    pub norm: Tensor,
    /// Gate projection `[F, D]`.
    pub gate: Linear,
    /// Up projection `[F, D]`.
    pub up: Linear,
    /// Down projection `[D, F]`.
    pub down: Linear,
    /// ε of the norm.
    pub eps: f64,
    /// Which experts run, where not all do.
    pub routed: Option<Routed>,
}

impl FeedForward {
    /// Takes its weights by role.
    pub(super) fn build<E>(weights: &mut LayerWeights<E>) -> Result<FeedForward, E> {
        Ok(FeedForward {
            norm: weights.get(Role::FeedForwardNorm)?,
            gate: weights.linear(Role::GateWeight, Role::GateBias)?,
            up: weights.linear(Role::UpWeight, Role::UpBias)?,
            down: weights.linear(Role::DownWeight, Role::DownBias)?,
            eps: weights.model.rms_norm_eps,
            routed: None,
        })
    }

    /// The residual stream `x [B, T, D]` after this half.
    pub fn forward(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        self.forward_probed(x, context, &mut unseen)
    }

    /// As [`FeedForward::forward`], showing its norm and its intermediate units to `probe`.
    pub(super) fn forward_probed(
        &self,
        x: &Tensor,
        context: &LayerContext,
        probe: &mut Probe,
    ) -> Result<Tensor, TchError> {
        probe(Site::FeedForwardInput, x)?;
        let (normed, x) = rms_norm(x, &self.norm, self.eps, context.hidden.as_ref())?;
        probe(Site::FeedForwardNorm, &normed)?;
        let [gate, up] = project(&normed, [&self.gate, &self.up], context.inputs)?;
        let inner = swiglu(&gate, &up, context.gates.intermediate.as_ref())?;
        probe(Site::Intermediate, &inner)?;
        let inner = match &self.routed {
            Some(routed) => routed.apply(&normed, &inner)?,
            None => inner,
        };
        self.down.forward_gated_with(&inner, [context.gates.residual.as_ref(), None], &x, context.inputs)
    }

    /// As [`FeedForward::forward`] of one token of each row, `x [B, 1, D]`, without gates or a gradient.
    pub(super) fn forward_token(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        if self.routed.is_some() {
            return self.forward(x, context);
        }
        let norm = Norm { weight: &self.norm, eps: self.eps };
        let inner = swiglu_normed(x, norm, self.gate.as_map(), self.up.as_map())?;
        self.down.forward_gated(&inner, None, None, x)
    }

    /// The same tensors again.
    pub fn shallow_clone(&self) -> FeedForward {
        FeedForward {
            norm: self.norm.shallow_clone(),
            gate: self.gate.shallow_clone(),
            up: self.up.shallow_clone(),
            down: self.down.shallow_clone(),
            eps: self.eps,
            routed: self.routed.as_ref().map(Routed::shallow_clone),
        }
    }
}
