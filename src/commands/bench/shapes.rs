//! The shapes that `bench` knows by name, and the target that a benchmark prunes each of them to.

use crate::config::{RandomModel, Target};

/// Dimensions of a model with the vocabulary of Llama 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedShape {
    /// Name on the command line.
    pub name: &'static str,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: i64,
    /// Rows and tokens per row of a step, unless given.
    pub rows: usize,
    /// Tokens per row, unless given.
    pub tokens: usize,
}

/// Vocabulary of all shapes.
pub const VOCAB_SIZE: i64 = 32_000;

/// Two shapes for a CPU; Llama-2-7B and what Sheared-LLaMA made of it for a GPU.
pub const SHAPES: [NamedShape; 6] = [
    NamedShape::new("tiny", [128, 352, 4, 4, 2], 4, 128),
    NamedShape::new("small", [512, 1376, 8, 8, 8], 4, 2048),
    NamedShape::new("base", [768, 2048, 12, 12, 4], 2, 1024),
    NamedShape::new("1.3b", [2048, 5504, 24, 16, 16], 8, 4096),
    NamedShape::new("2.7b", [2560, 6912, 32, 20, 20], 8, 4096),
    NamedShape::new("7b", [4096, 11008, 32, 32, 32], 32, 4096),
];

impl NamedShape {
    /// `sizes`: hidden, intermediate, layers, heads, key/value heads.
    const fn new(name: &'static str, sizes: [i64; 5], rows: usize, tokens: usize) -> NamedShape {
        let [hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads] = sizes;
        NamedShape {
            name,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            rows,
            tokens,
        }
    }

    /// A narrow model of so many layers: for what does not depend on widths.
    pub fn narrow(layers: i64) -> NamedShape {
        NamedShape::new("narrow", [64, 96, layers, 4, 4], 1, 32)
    }

    /// The shape of that name.
    pub fn named(name: &str) -> Option<NamedShape> {
        SHAPES.into_iter().find(|shape| shape.name == name)
    }

    /// As `[model.random]`.
    pub fn model(&self) -> RandomModel {
        RandomModel {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: Some(self.num_key_value_heads),
            head_dim: None,
            vocab_size: Some(VOCAB_SIZE),
            rope_theta: 10000.0,
            tie_word_embeddings: false,
        }
    }

    /// The shape that [`NamedShape::target`] asks for, as `[model.random]`.
    pub fn pruned_model(&self) -> RandomModel {
        let (whole, target) = (self.model(), self.target());
        RandomModel {
            hidden_size: target.hidden_size.unwrap_or(whole.hidden_size),
            intermediate_size: target.intermediate_size.unwrap_or(whole.intermediate_size),
            num_hidden_layers: target.num_hidden_layers.unwrap_or(whole.num_hidden_layers),
            num_attention_heads: target.num_attention_heads.unwrap_or(whole.num_attention_heads),
            num_key_value_heads: target.num_key_value_heads.or(whole.num_key_value_heads),
            // Pruning removes heads and leaves their size.
            head_dim: Some(whole.hidden_size / whole.num_attention_heads),
            ..whole
        }
    }

    /// As `[target]`: three quarters of every dimension, of the groups where heads are grouped.
    pub fn target(&self) -> Target {
        let kv_heads = self.num_key_value_heads * 3 / 4;
        let group = self.num_attention_heads / self.num_key_value_heads;
        Target {
            hidden_size: Some(self.hidden_size * 3 / 4),
            intermediate_size: Some(self.intermediate_size * 3 / 4),
            num_hidden_layers: Some(self.num_hidden_layers * 3 / 4),
            num_attention_heads: Some(kv_heads.max(1) * group),
            num_key_value_heads: Some(kv_heads.max(1)),
            head_dim: None,
        }
    }
}
