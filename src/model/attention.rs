//! Self-attention of one layer: norm, projections, rope, scaled dot product, head gates, output.
//!
//! ```text
//! c_i ← z^hd_i · softmax(q_i k_{i/G}ᵀ / √E + causal) v_{i/G}      x ← x + z^layer · h ⊙ (concat(c) Woᵀ + b)
//! ```
//!
//! The head gate z^hd is the group gate times the in-group query gate (GQA), each absent when that dimension is
//! not pruned. It is a factor on columns of Wo, z^layer·h one on its rows: no activation is multiplied for a mask.

use super::ModelConfig;
use super::context::LayerContext;
use super::layer_weights::LayerWeights;
use super::linear::{Linear, project, project_normed};
use super::norm::rms_norm;
use super::parameters::Role;
use super::probe::{Probe, Site, unseen};
use crate::native::ops::attention::causal_attention;
use crate::native::ops::token_maps::Norm;
use tch::{TchError, Tensor};

/// Weights of the attention half of a layer.
#[derive(Debug)]
pub struct Attention {
    /// Norm weight before the projections `[D]`.
    pub norm: Tensor,
    /// Query projection `[H*E, D]`.
    pub query: Linear,
    /// Key projection `[K*E, D]`.
    pub key: Linear,
    /// Value projection `[K*E, D]`.
    pub value: Linear,
    /// Norm of each query head `[E]` (Qwen3).
    pub query_norm: Option<Tensor>,
    /// Norm of each key head `[E]` (Qwen3).
    pub key_norm: Option<Tensor>,
    /// Output projection `[D, H*E]`.
    pub output: Linear,
    /// How the projections are cut into heads.
    pub layout: HeadLayout,
    /// ε of the norms.
    pub eps: f64,
}

/// Numbers of heads and their size.
#[derive(Clone, Copy, Debug)]
pub struct HeadLayout {
    /// H.
    pub num_attention_heads: i64,
    /// K.
    pub num_key_value_heads: i64,
    /// E.
    pub head_dim: i64,
}

impl HeadLayout {
    /// Of a model.
    pub fn of(model: &ModelConfig) -> HeadLayout {
        HeadLayout {
            num_attention_heads: model.num_attention_heads,
            num_key_value_heads: model.num_key_value_heads,
            head_dim: model.head_dim,
        }
    }
}

/// What attention reads of some tokens.
pub(super) struct Heads {
    /// `[B, T, H, E]`.
    pub(super) query: Tensor,
    /// `[B, T, K, E]`.
    pub(super) key: Tensor,
    /// `[B, T, K, E]`.
    pub(super) value: Tensor,
    /// The residual stream `[B, T, D]`, as the norm passed it on.
    pub(super) x: Tensor,
}

impl Attention {
    /// Takes its weights by role.
    pub(super) fn build<E>(weights: &mut LayerWeights<E>) -> Result<Attention, E> {
        Ok(Attention {
            norm: weights.get(Role::AttentionNorm)?,
            query: weights.linear(Role::QueryWeight, Role::QueryBias)?,
            key: weights.linear(Role::KeyWeight, Role::KeyBias)?,
            value: weights.linear(Role::ValueWeight, Role::ValueBias)?,
            query_norm: weights.get_if_present(Role::QueryNorm)?,
            key_norm: weights.get_if_present(Role::KeyNorm)?,
            output: weights.linear(Role::OutputWeight, Role::OutputBias)?,
            layout: HeadLayout::of(weights.model),
            eps: weights.model.rms_norm_eps,
        })
    }

    /// The residual stream `x [B, T, D]` after this half.
    pub fn forward(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        self.forward_probed(x, context, &mut unseen)
    }

    /// As [`Attention::forward`], showing its norm and its heads to `probe`.
    pub(super) fn forward_probed(
        &self,
        x: &Tensor,
        context: &LayerContext,
        probe: &mut Probe,
    ) -> Result<Tensor, TchError> {
        let Heads { query, key, value, x } = self.heads(x, context, probe)?;
        let (rows, tokens, _) = x.size3()?;
        let joined = causal_attention(&query, &key, &value, context.window.as_ref())?.f_reshape([rows, tokens, -1])?;
        probe(Site::Heads, &joined)?;
        self.output.forward_gated(&joined, context.gates.residual.as_ref(), context.gates.heads.as_ref(), &x)
    }

    /// Queries, keys and values of `x [B, T, D]`, with their positions.
    pub(super) fn heads(&self, x: &Tensor, context: &LayerContext, probe: &mut Probe) -> Result<Heads, TchError> {
        probe(Site::AttentionInput, x)?;
        let (normed, x) = rms_norm(x, &self.norm, self.eps, context.hidden.as_ref())?;
        probe(Site::AttentionNorm, &normed)?;
        let products = project(&normed, [&self.query, &self.key, &self.value], context.inputs)?;
        let Heads { query, key, value, x } = self.split(products, x)?;
        Ok(Heads { query: context.rope.rotate(&query)?, key: context.rope.rotate(&key)?, value, x })
    }

    /// The heads of one token of each row, `x [B, 1, D]`, without their position or a gradient.
    pub(super) fn token_heads(&self, x: &Tensor) -> Result<Heads, TchError> {
        let norm = Norm { weight: &self.norm, eps: self.eps };
        self.split(project_normed(x, norm, [&self.query, &self.key, &self.value])?, x.shallow_clone())
    }

    /// Products of query, key and value as heads, normed where the family does that.
    fn split(&self, [query, key, value]: [Tensor; 3], x: Tensor) -> Result<Heads, TchError> {
        let (rows, tokens, _) = x.size3()?;
        let split = |x: &Tensor, heads: i64| x.f_view([rows, tokens, heads, self.layout.head_dim]);
        let (heads, kv_heads) = (self.layout.num_attention_heads, self.layout.num_key_value_heads);
        Ok(Heads {
            query: self.normed(split(&query, heads)?, self.query_norm.as_ref())?,
            key: self.normed(split(&key, kv_heads)?, self.key_norm.as_ref())?,
            value: split(&value, kv_heads)?,
            x,
        })
    }

    fn normed(&self, heads: Tensor, norm: Option<&Tensor>) -> Result<Tensor, TchError> {
        norm.map_or(Ok(heads.shallow_clone()), |weight| Ok(rms_norm(&heads, weight, self.eps, None)?.0))
    }

    /// The same tensors again.
    pub fn shallow_clone(&self) -> Attention {
        let clone = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        Attention {
            norm: self.norm.shallow_clone(),
            query: self.query.shallow_clone(),
            key: self.key.shallow_clone(),
            value: self.value.shallow_clone(),
            query_norm: clone(&self.query_norm),
            key_norm: clone(&self.key_norm),
            output: self.output.shallow_clone(),
            layout: self.layout,
            eps: self.eps,
        }
    }
}
