//! One layer, and the one place where its forward begins and ends: plain, or with its input alone kept for a backward that
//! computes it again. Whatever has to happen around a layer (weights that are gathered before and freed after, gradients
//! that are sent while the backward goes on) happens in [`Block::run`], which tells [`AroundLayer`].

use super::ModelConfig;
use super::attention::Attention;
use super::context::LayerContext;
use super::feed_forward::FeedForward;
use super::layer_weights::LayerWeights;
use super::packed_feed_forward::{FeedForwardHalf, PackedFeedForward};
use super::parameters::Role;
use super::probe::Probe;
use crate::native::ops::on_backward::on_backward;
use crate::native::ops::recompute::recompute;
use crate::native::ops::sparse_feed_forward::PackedExperts;
use std::fmt::Debug;
use std::sync::Arc;
use tch::{TchError, Tensor};

/// Attention and feed-forward of a layer.
#[derive(Debug)]
pub struct Block {
    pub(super) attention: Attention,
    pub(super) feed_forward: FeedForwardHalf,
    /// Who is told of its passes.
    pub(super) around: Option<Arc<dyn AroundLayer>>,
}

/// What has to happen around the passes of a layer, where several processes do a run together. A forward without
/// gradients has no backward.
pub trait AroundLayer: Debug + Send + Sync {
    /// The weights are read from here on.
    ///
    /// # Errors
    /// What the forward ends with.
    fn before_forward(&self) -> Result<(), TchError> {
        Ok(())
    }

    /// They are not, until the next pass.
    ///
    /// # Errors
    /// What the forward ends with.
    fn after_forward(&self) -> Result<(), TchError> {
        Ok(())
    }

    /// They are read again, and their gradients written.
    ///
    /// # Errors
    /// What the backward ends with.
    fn before_backward(&self) -> Result<(), TchError> {
        Ok(())
    }

    /// The gradients of this micro-batch are there.
    ///
    /// # Errors
    /// What the backward ends with.
    fn after_backward(&self) -> Result<(), TchError> {
        Ok(())
    }
}

/// What a layer keeps for its backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All that the backward needs.
    All,
    /// Its input; the rest is computed again.
    Input,
}

impl Block {
    /// Takes the weights of `layer` from `weight`, which is asked only for names that the config says exist.
    pub fn build<E>(
        model: &ModelConfig,
        layer: i64,
        weight: &mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<Block, E> {
        Block::build_packed(model, layer, None, weight)
    }

    /// As [`Block::build`], with `packed` in place of the feed-forward's matrices, where it is given.
    pub(super) fn build_packed<E>(
        model: &ModelConfig,
        layer: i64,
        packed: Option<PackedExperts>,
        weight: &mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<Block, E> {
        let mut weights = LayerWeights::new(model, layer, weight);
        let attention = Attention::build(&mut weights)?;
        let feed_forward = match packed {
            None => FeedForwardHalf::Plain(FeedForward::build(&mut weights)?),
            Some(experts) => {
                let norm = weights.get(Role::FeedForwardNorm)?;
                FeedForwardHalf::Packed(PackedFeedForward { norm, experts, eps: model.rms_norm_eps })
            }
        };
        Ok(Block { attention, feed_forward, around: None })
    }

    /// The residual stream `x [B, T, D]` after this layer.
    pub fn forward(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        self.feed_forward.forward(&self.attention.forward(x, context)?, context)
    }

    /// As [`Block::forward`], showing the activations inside the layer to `probe`.
    pub fn forward_probed(&self, x: &Tensor, context: &LayerContext, probe: &mut Probe) -> Result<Tensor, TchError> {
        let x = self.attention.forward_probed(x, context, probe)?;
        self.feed_forward.forward_probed(&x, context, probe)
    }

    /// As [`Block::forward`], as a part of a whole forward.
    pub(super) fn run(&self, x: &Tensor, context: LayerContext, keep: Keep) -> Result<Tensor, TchError> {
        let Some(around) = &self.around else { return self.pass(x, context, keep) };
        around.before_forward()?;
        let (after, before) = (Arc::clone(around), Arc::clone(around));
        let x = on_backward(x, move || after.after_backward())?;
        let out = self.pass(&x, context, keep)?;
        around.after_forward()?;
        on_backward(&out, move || before.before_backward())
    }

    fn pass(&self, x: &Tensor, context: LayerContext, keep: Keep) -> Result<Tensor, TchError> {
        match keep {
            Keep::All => self.forward(x, &context),
            Keep::Input => {
                let block = self.shallow_clone();
                recompute(x, move |x| block.forward(x, &context))
            }
        }
    }

    /// The same tensors again.
    fn shallow_clone(&self) -> Block {
        let (attention, feed_forward) = (self.attention.shallow_clone(), self.feed_forward.shallow_clone());
        Block { attention, feed_forward, around: self.around.clone() }
    }
}
