//! Every weight of a model by name, shape and role. Loading, initialising, folding and counting all walk this
//! list, so a new family is a new line here and nowhere else.

use super::ModelConfig;

pub use crate::hf::{EMBEDDING, HEAD};

/// What a weight does. The role decides how it is initialised, which masks are folded into it and along which
/// dimensions it is sliced (`crate::prune::fold`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding `[V, D]`.
    Embedding,
    /// RMSNorm weight over the hidden dimension `[D]`.
    HiddenNorm,
    /// Query projection `[H*E, D]`.
    QueryWeight,
    /// Query bias `[H*E]`.
    QueryBias,
    /// Key projection `[K*E, D]`.
    KeyWeight,
    /// Key bias `[K*E]`.
    KeyBias,
    /// Value projection `[K*E, D]`.
    ValueWeight,
    /// Value bias `[K*E]`.
    ValueBias,
    /// RMSNorm weight inside a head `[E]` (Qwen3).
    HeadNorm,
    /// Attention output projection `[D, H*E]`.
    OutputWeight,
    /// Attention output bias `[D]`.
    OutputBias,
    /// Gate projection `[F, D]`.
    GateWeight,
    /// Gate bias `[F]`.
    GateBias,
    /// Up projection `[F, D]`.
    UpWeight,
    /// Up bias `[F]`.
    UpBias,
    /// Down projection `[D, F]`.
    DownWeight,
    /// Down bias `[D]`.
    DownBias,
    /// Output head `[V, D]`, absent when tied to the embedding.
    Head,
}

impl Role {
    /// Whether this is a norm weight, which starts at one.
    pub fn is_norm(self) -> bool {
        matches!(self, Role::HiddenNorm | Role::HeadNorm)
    }

    /// Whether this is a bias, which starts at zero.
    pub fn is_bias(self) -> bool {
        use Role::*;
        matches!(self, QueryBias | KeyBias | ValueBias | OutputBias | GateBias | UpBias | DownBias)
    }
}

/// One weight of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the Hugging Face checkpoint.
    pub name: String,
    /// Shape in that checkpoint.
    pub shape: Vec<i64>,
    /// What it does.
    pub role: Role,
    /// Its layer, `None` for the embedding, the final norm and the head.
    pub layer: Option<i64>,
}

/// Name of the final norm.
pub const FINAL_NORM: &str = "model.norm.weight";

/// All weights of a model in the order of its forward pass.
pub fn parameters(model: &ModelConfig) -> Vec<Parameter> {
    let mut all = vec![outer(EMBEDDING, vec![model.vocab_size, model.hidden_size], Role::Embedding)];
    for layer in 0..model.num_hidden_layers {
        all.extend(layer_parameters(model, layer));
    }
    all.push(outer(FINAL_NORM, vec![model.hidden_size], Role::HiddenNorm));
    if !model.tie_word_embeddings {
        all.push(outer(HEAD, vec![model.vocab_size, model.hidden_size], Role::Head));
    }
    all
}

fn outer(name: &str, shape: Vec<i64>, role: Role) -> Parameter {
    Parameter { name: name.to_string(), shape, role, layer: None }
}

/// The weights of one layer in the order of its forward pass.
pub fn layer_parameters(model: &ModelConfig, layer: i64) -> Vec<Parameter> {
    let (d, f) = (model.hidden_size, model.intermediate_size);
    let (q, kv) = (model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim);
    let bias = model.attention_bias;
    let mut all = Vec::new();
    let mut push = |present: bool, suffix: &str, shape: Vec<i64>, role: Role| {
        if present {
            all.push(Parameter { name: layer_name(layer, suffix), shape, role, layer: Some(layer) });
        }
    };
    push(true, "input_layernorm.weight", vec![d], Role::HiddenNorm);
    push(true, "self_attn.q_proj.weight", vec![q, d], Role::QueryWeight);
    push(bias.qkv, "self_attn.q_proj.bias", vec![q], Role::QueryBias);
    push(true, "self_attn.k_proj.weight", vec![kv, d], Role::KeyWeight);
    push(bias.qkv, "self_attn.k_proj.bias", vec![kv], Role::KeyBias);
    push(true, "self_attn.v_proj.weight", vec![kv, d], Role::ValueWeight);
    push(bias.qkv, "self_attn.v_proj.bias", vec![kv], Role::ValueBias);
    push(model.qk_norm, "self_attn.q_norm.weight", vec![model.head_dim], Role::HeadNorm);
    push(model.qk_norm, "self_attn.k_norm.weight", vec![model.head_dim], Role::HeadNorm);
    push(true, "self_attn.o_proj.weight", vec![d, q], Role::OutputWeight);
    push(bias.output, "self_attn.o_proj.bias", vec![d], Role::OutputBias);
    push(true, "post_attention_layernorm.weight", vec![d], Role::HiddenNorm);
    push(true, "mlp.gate_proj.weight", vec![f, d], Role::GateWeight);
    push(model.mlp_bias, "mlp.gate_proj.bias", vec![f], Role::GateBias);
    push(true, "mlp.up_proj.weight", vec![f, d], Role::UpWeight);
    push(model.mlp_bias, "mlp.up_proj.bias", vec![f], Role::UpBias);
    push(true, "mlp.down_proj.weight", vec![d, f], Role::DownWeight);
    push(model.mlp_bias, "mlp.down_proj.bias", vec![d], Role::DownBias);
    all
}

/// Full name of a layer's weight.
pub fn layer_name(layer: i64, suffix: &str) -> String {
    format!("model.layers.{layer}.{suffix}")
}
