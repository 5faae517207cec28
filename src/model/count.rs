//! Parameters and FLOPs by part, and what decoding holds and reads, computed from the config alone: what `plan` prints
//! before anything is loaded.

use super::ModelConfig;
use super::parameters::{Role, parameters};
use serde::Serialize;

/// Parameter counts of a model by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// Token embedding.
    pub embedding: i64,
    /// All attention projections and their norms inside heads.
    pub attention: i64,
    /// All feed-forward projections.
    pub mlp: i64,
    /// All norms over the hidden dimension.
    pub norms: i64,
    /// Output head; 0 when tied to the embedding.
    pub head: i64,
}

impl ParameterCount {
    /// Counts by walking the parameter list.
    pub fn of(model: &ModelConfig) -> ParameterCount {
        use Role::*;
        let mut count = ParameterCount::default();
        for parameter in parameters(model) {
            let numel: i64 = parameter.shape.iter().product();
            match parameter.role {
                Embedding => count.embedding += numel,
                AttentionNorm | FeedForwardNorm | FinalNorm => count.norms += numel,
                QueryWeight | QueryBias | KeyWeight | KeyBias | ValueWeight | ValueBias | QueryNorm | KeyNorm
                | OutputWeight | OutputBias => count.attention += numel,
                GateWeight | GateBias | UpWeight | UpBias | DownWeight | DownBias => count.mlp += numel,
                Head => count.head += numel,
            }
        }
        count
    }

    /// All parameters.
    pub fn total(&self) -> i64 {
        self.embedding + self.attention + self.mlp + self.norms + self.head
    }

    /// Parameters that take part in a matrix product for each token: all but the embedding look-up and the norms.
    /// A tied embedding is the head and counts once.
    pub fn matmul(&self) -> i64 {
        let head = if self.head == 0 { self.embedding } else { self.head };
        self.attention + self.mlp + head
    }
}

/// FLOPs of a forward alone: a third of a training step's.
pub fn forward_flops_per_token(model: &ModelConfig, tokens_per_row: i64) -> f64 {
    training_flops_per_token(model, tokens_per_row) / 3.0
}

/// Model FLOPs of one training token (forward and backward): 6 per matmul parameter plus causal attention,
/// 6 · L · H · E · T (scores and values, half of them masked, backward twice the forward). Recomputation is not
/// counted.
pub fn training_flops_per_token(model: &ModelConfig, tokens_per_row: i64) -> f64 {
    let attention = 6 * model.num_hidden_layers * model.num_attention_heads * model.head_dim * tokens_per_row;
    6.0 * ParameterCount::of(model).matmul() as f64 + attention as f64
}

/// Bytes of the keys and values of one row of `tokens` tokens: 2 · K · E numbers per layer and token. A layer with a sliding
/// window holds and reads no more tokens than that.
pub fn cache_bytes(model: &ModelConfig, tokens: f64, element_bytes: i64) -> f64 {
    let held = |window: &Option<i64>| window.map_or(tokens, |window| tokens.min(window as f64));
    let tokens: f64 = model.sliding_window.iter().map(held).sum();
    tokens * (2 * model.num_key_value_heads * model.head_dim * element_bytes) as f64
}

/// Bytes of weights that a step of decoding cannot but read: all, except the rows of an embedding that is not also the
/// head, of which a token reads one.
pub fn decoding_weight_bytes(model: &ModelConfig, element_bytes: i64) -> f64 {
    let count = ParameterCount::of(model);
    let passed_over = if model.tie_word_embeddings { 0 } else { count.embedding - model.hidden_size };
    ((count.total() - passed_over) * element_bytes) as f64
}
