//! The feed-forward half of a layer for decoding only: weights packed by expert, of which a token reads those that its
//! router chooses (LTE, arXiv 2402.06126). It has no gradient and takes no gates.

use super::context::LayerContext;
use super::feed_forward::FeedForward;
use super::norm::rms_norm;
use super::probe::Probe;
use crate::native::ops::sparse_feed_forward::{PackedExperts, sparse_feed_forward};
use tch::{TchError, Tensor};

/// A packed feed-forward half.
#[derive(Debug)]
pub struct PackedFeedForward {
    /// Norm weight before router and experts `[D]`.
    pub norm: Tensor,
    /// Router and experts.
    pub experts: PackedExperts,
    /// ε of the norm.
    pub eps: f64,
}

impl PackedFeedForward {
    /// The residual stream `x [B, T, D]` after this half: each token has experts of its own.
    fn forward(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        if context.hidden.is_some() || context.gates.intermediate.is_some() || context.gates.residual.is_some() {
            return Err(TchError::Shape("a packed feed-forward takes no gates".to_string()));
        }
        let (normed, x) = rms_norm(x, &self.norm, self.eps, None)?;
        sparse_feed_forward(&normed, &x, &self.experts)
    }
}

/// The feed-forward half of a layer in one of its two forms.
#[derive(Debug)]
pub(super) enum FeedForwardHalf {
    /// Weights as a checkpoint has them.
    Plain(FeedForward),
    /// Packed, to decode with.
    Packed(PackedFeedForward),
}

impl FeedForwardHalf {
    /// The residual stream `x [B, T, D]` after this half.
    pub(super) fn forward(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        match self {
            FeedForwardHalf::Plain(half) => half.forward(x, context),
            FeedForwardHalf::Packed(half) => half.forward(x, context),
        }
    }

    /// As [`FeedForwardHalf::forward`] of one token of each row, `x [B, 1, D]`, without gates or a gradient.
    pub(super) fn forward_token(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        match self {
            FeedForwardHalf::Plain(half) => half.forward_token(x, context),
            FeedForwardHalf::Packed(half) => half.forward(x, context),
        }
    }

    /// As [`FeedForwardHalf::forward`], showing what is inside to `probe`.
    pub(super) fn forward_probed(
        &self,
        x: &Tensor,
        context: &LayerContext,
        probe: &mut Probe,
    ) -> Result<Tensor, TchError> {
        match self {
            FeedForwardHalf::Plain(half) => half.forward_probed(x, context, probe),
            FeedForwardHalf::Packed(_) => {
                Err(TchError::Shape("a packed feed-forward shows nothing of its inside".to_string()))
            }
        }
    }

    /// The weights as a checkpoint has them.
    pub(super) fn plain(&self) -> Option<&FeedForward> {
        match self {
            FeedForwardHalf::Plain(half) => Some(half),
            FeedForwardHalf::Packed(_) => None,
        }
    }

    /// The same, to be changed.
    pub(super) fn plain_mut(&mut self) -> Option<&mut FeedForward> {
        match self {
            FeedForwardHalf::Plain(half) => Some(half),
            FeedForwardHalf::Packed(_) => None,
        }
    }

    /// The same tensors again.
    pub(super) fn shallow_clone(&self) -> FeedForwardHalf {
        match self {
            FeedForwardHalf::Plain(half) => FeedForwardHalf::Plain(half.shallow_clone()),
            FeedForwardHalf::Packed(half) => FeedForwardHalf::Packed(PackedFeedForward {
                norm: half.norm.shallow_clone(),
                experts: half.experts.shallow_clone(),
                eps: half.eps,
            }),
        }
    }
}
