//! One layer, and the one place where its forward begins and ends: plain, or with its input alone kept for a backward that
//! computes it again. Whatever has to happen around a layer (weights that are fetched before and let go after) happens
//! in [`Block::run`].

use super::ModelConfig;
use super::attention::Attention;
use super::context::LayerContext;
use super::feed_forward::FeedForward;
use super::layer_weights::LayerWeights;
use super::packed_feed_forward::{FeedForwardHalf, PackedFeedForward};
use super::parameters::Role;
use super::probe::Probe;
use crate::native::ops::recompute::recompute;
use crate::native::ops::sparse_feed_forward::PackedExperts;
use tch::{TchError, Tensor};

/// Attention and feed-forward of a layer.
#[derive(Debug)]
pub struct Block {
    pub(super) attention: Attention,
    pub(super) feed_forward: FeedForwardHalf,
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
        Ok(Block { attention, feed_forward })
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
        Block { attention: self.attention.shallow_clone(), feed_forward: self.feed_forward.shallow_clone() }
    }
}
