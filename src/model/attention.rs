//! Self-attention of one layer: norm, projections, rope, scaled dot product, head gates, output.
//!
//! ```text
//! c_i ← z^hd_i · softmax(q_i k_{i/G}ᵀ / √E + causal) v_{i/G}      att ← z^layer · h ⊙ (concat(c) Woᵀ + b)
//! ```
//!
//! The head gate z^hd is the group gate times the in-group query gate (GQA), each absent when that dimension is
//! not pruned.

use super::linear::Linear;
use super::norm::rms_norm;
use super::{ForwardContext, HfModel};
use tch::{Device, Kind, TchError, Tensor};

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
}

impl Attention {
    /// What the layer adds to the residual stream `x [B, T, D]`.
    pub fn forward(
        &self,
        model: &HfModel,
        layer: i64,
        x: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor, TchError> {
        let (rows, tokens) = (x.size()[0], x.size()[1]);
        let normed = rms_norm(x, &self.norm, model.rms_norm_eps, context.hidden.as_ref())?;
        let split = |linear: &Linear, heads: i64| {
            linear.forward(&normed)?.f_view([rows, tokens, heads, model.head_dim])?.f_transpose(1, 2)
        };
        let query = split(&self.query, model.num_attention_heads)?;
        let key = split(&self.key, model.num_key_value_heads)?;
        let value = split(&self.value, model.num_key_value_heads)?;
        let query = context.rope.rotate(&head_norm(query, self.query_norm.as_ref(), model)?)?;
        let key = context.rope.rotate(&head_norm(key, self.key_norm.as_ref(), model)?)?;
        let window = context.window_mask(model, layer, tokens)?;
        let heads = attend(&query, &key, &value, window.as_ref())?;
        let heads = match context.gates.heads(layer, model.num_attention_heads, model.num_key_value_heads) {
            Some(gate) => heads.f_mul(&gate.f_to_kind(heads.f_kind()?)?.f_view([1, -1, 1, 1])?)?,
            None => heads,
        };
        let joined = heads.f_transpose(1, 2)?.f_reshape([rows, tokens, -1])?;
        context.gate_residual(layer, self.output.forward(&joined)?)
    }
}

fn head_norm(heads: Tensor, weight: Option<&Tensor>, model: &HfModel) -> Result<Tensor, TchError> {
    match weight {
        Some(weight) => rms_norm(&heads, weight, model.rms_norm_eps, None),
        None => Ok(heads),
    }
}

/// Scaled dot product of `query [B, H, T, E]` with `key`, `value [B, K, T, E]` under `mask [T, T]`, else causal:
/// `[B, H, T, E]`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, TchError> {
    let group = query.size()[1] / key.size()[1];
    let (key, value) = (repeat_groups(key, group)?, repeat_groups(value, group)?);
    Tensor::f_scaled_dot_product_attention(query, &key, &value, mask, 0.0, mask.is_none(), None, false)
}

/// `[B, K, T, E]` to `[B, K*G, T, E]`: head k·G+g reads group k.
fn repeat_groups(heads: &Tensor, group: i64) -> Result<Tensor, TchError> {
    if group == 1 {
        return Ok(heads.shallow_clone());
    }
    let size = heads.size();
    let (rows, groups, tokens, dim) = (size[0], size[1], size[2], size[3]);
    let wide = heads.f_unsqueeze(2)?.f_expand([rows, groups, group, tokens, dim], false)?;
    wide.f_reshape([rows, groups * group, tokens, dim])
}

/// `[T, T]`, true where position i may read position j: `0 ≤ i − j < window`.
pub(super) fn window_mask(tokens: i64, window: i64, device: Device) -> Result<Tensor, TchError> {
    let ones = Tensor::f_ones([tokens, tokens], (Kind::Bool, device))?;
    ones.f_tril(0)?.f_logical_and(&ones.f_triu(1 - window)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_mask_counts_the_token_itself() {
        let mask = window_mask(5, 2, Device::Cpu).unwrap();
        let rows: Vec<i64> = (0..5).map(|i| mask.get(i).sum(Kind::Int64).int64_value(&[])).collect();
        assert_eq!(rows, [1, 2, 2, 2, 2]);
        assert_eq!(mask.int64_value(&[4, 3]), 1);
        assert_eq!(mask.int64_value(&[4, 2]), 0);
    }

    #[test]
    fn repeated_groups_stay_together() {
        let heads = Tensor::arange(2, (Kind::Float, Device::Cpu)).view([1, 2, 1, 1]);
        let wide = repeat_groups(&heads, 3).unwrap().view([-1]);
        assert_eq!(Vec::<f32>::try_from(wide).unwrap(), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }
}
