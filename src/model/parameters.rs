//! Every weight of a model by role: its name, its shape, and whether a model has it. Loading, initialising, folding and
//! counting all walk this list.

use super::ModelConfig;

use crate::hf::{EMBEDDING, HEAD};

/// What a weight does. The role decides how it is initialised, which masks are folded into it and along which
/// dimensions it is sliced (`crate::prune::fold`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding `[V, D]`.
    Embedding,
    /// RMSNorm weight before the attention `[D]`.
    AttentionNorm,
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
    /// RMSNorm weight of a query head `[E]` (Qwen3).
    QueryNorm,
    /// RMSNorm weight of a key head `[E]` (Qwen3).
    KeyNorm,
    /// Attention output projection `[D, H*E]`.
    OutputWeight,
    /// Attention output bias `[D]`.
    OutputBias,
    /// RMSNorm weight before the feed-forward `[D]`.
    FeedForwardNorm,
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
    /// RMSNorm weight before the output head `[D]`.
    FinalNorm,
    /// Output head `[V, D]`, absent when tied to the embedding.
    Head,
}

/// Roles of a layer in the order of its forward pass.
const OF_A_LAYER: [Role; 18] = [
    Role::AttentionNorm,
    Role::QueryWeight,
    Role::QueryBias,
    Role::KeyWeight,
    Role::KeyBias,
    Role::ValueWeight,
    Role::ValueBias,
    Role::QueryNorm,
    Role::KeyNorm,
    Role::OutputWeight,
    Role::OutputBias,
    Role::FeedForwardNorm,
    Role::GateWeight,
    Role::GateBias,
    Role::UpWeight,
    Role::UpBias,
    Role::DownWeight,
    Role::DownBias,
];

impl Role {
    /// Whether this is a norm weight, which starts at one.
    pub fn is_norm(self) -> bool {
        matches!(self, Role::QueryNorm | Role::KeyNorm) || self.is_hidden_norm()
    }

    /// Whether this is a norm over the hidden dimension.
    pub fn is_hidden_norm(self) -> bool {
        matches!(self, Role::AttentionNorm | Role::FeedForwardNorm | Role::FinalNorm)
    }

    /// Whether this is a bias, which starts at zero.
    pub fn is_bias(self) -> bool {
        use Role::*;
        matches!(self, QueryBias | KeyBias | ValueBias | OutputBias | GateBias | UpBias | DownBias)
    }

    /// Whether a model has it.
    pub fn is_present(self, model: &ModelConfig) -> bool {
        use Role::*;
        match self {
            QueryBias | KeyBias | ValueBias => model.attention_bias.qkv,
            OutputBias => model.attention_bias.output,
            QueryNorm | KeyNorm => model.qk_norm,
            GateBias | UpBias | DownBias => model.mlp_bias,
            Head => !model.tie_word_embeddings,
            _ => true,
        }
    }

    /// Its shape in the checkpoint of a model.
    pub fn shape(self, model: &ModelConfig) -> Vec<i64> {
        use Role::*;
        let (d, f, e) = (model.hidden_size, model.intermediate_size, model.head_dim);
        let (q, kv) = (model.num_attention_heads * e, model.num_key_value_heads * e);
        match self {
            Embedding | Head => vec![model.vocab_size, d],
            AttentionNorm | FeedForwardNorm | FinalNorm | OutputBias | DownBias => vec![d],
            QueryWeight => vec![q, d],
            QueryBias => vec![q],
            KeyWeight | ValueWeight => vec![kv, d],
            KeyBias | ValueBias => vec![kv],
            QueryNorm | KeyNorm => vec![e],
            OutputWeight => vec![d, q],
            GateWeight | UpWeight => vec![f, d],
            GateBias | UpBias => vec![f],
            DownWeight => vec![d, f],
        }
    }

    /// Its name in the Hugging Face checkpoint, in `layer` for the weights of a layer.
    pub fn name(self, layer: Option<i64>) -> String {
        match layer {
            Some(layer) => layer_name(layer, self.suffix()),
            None => self.suffix().to_string(),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Role::Embedding => EMBEDDING,
            Role::AttentionNorm => "input_layernorm.weight",
            Role::QueryWeight => "self_attn.q_proj.weight",
            Role::QueryBias => "self_attn.q_proj.bias",
            Role::KeyWeight => "self_attn.k_proj.weight",
            Role::KeyBias => "self_attn.k_proj.bias",
            Role::ValueWeight => "self_attn.v_proj.weight",
            Role::ValueBias => "self_attn.v_proj.bias",
            Role::QueryNorm => "self_attn.q_norm.weight",
            Role::KeyNorm => "self_attn.k_norm.weight",
            Role::OutputWeight => "self_attn.o_proj.weight",
            Role::OutputBias => "self_attn.o_proj.bias",
            Role::FeedForwardNorm => "post_attention_layernorm.weight",
            Role::GateWeight => "mlp.gate_proj.weight",
            Role::GateBias => "mlp.gate_proj.bias",
            Role::UpWeight => "mlp.up_proj.weight",
            Role::UpBias => "mlp.up_proj.bias",
            Role::DownWeight => "mlp.down_proj.weight",
            Role::DownBias => "mlp.down_proj.bias",
            Role::FinalNorm => "model.norm.weight",
            Role::Head => HEAD,
        }
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

/// All weights of a model in the order of its forward pass.
pub fn parameters(model: &ModelConfig) -> Vec<Parameter> {
    let mut all = present(model, [Role::Embedding], None);
    for layer in 0..model.num_hidden_layers {
        all.extend(layer_parameters(model, layer));
    }
    all.extend(present(model, [Role::FinalNorm, Role::Head], None));
    all
}

/// The weights of one layer in the order of its forward pass.
pub fn layer_parameters(model: &ModelConfig, layer: i64) -> Vec<Parameter> {
    present(model, OF_A_LAYER, Some(layer))
}

fn present(model: &ModelConfig, roles: impl IntoIterator<Item = Role>, layer: Option<i64>) -> Vec<Parameter> {
    let roles = roles.into_iter().filter(|role| role.is_present(model));
    roles.map(|role| Parameter { name: role.name(layer), shape: role.shape(model), role, layer }).collect()
}

/// Full name of a layer's weight.
pub fn layer_name(layer: i64, suffix: &str) -> String {
    format!("model.layers.{layer}.{suffix}")
}
