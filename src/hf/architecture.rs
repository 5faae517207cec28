//! Which decoder family a checkpoint is of, and the defaults that differ by family.
//!
//! The numbers are those of the configuration classes of transformers; they hold for keys that `config.json` leaves out.

use crate::files::Result;
use crate::files::json::Fields;

/// The decoder families we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2, 3 and what shares their class.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and 2.5: biases on q, k, v.
    Qwen2,
    /// Qwen3: RMSNorm on each query and key head.
    Qwen3,
}

impl Architecture {
    const ALL: [Architecture; 4] =
        [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

    /// Its class in transformers, as in `architectures`.
    pub fn class_name(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// Its `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// Whether layers differ by `use_sliding_window`, `max_window_layers` and `layer_types`.
    pub(crate) fn has_window_layers(self) -> bool {
        matches!(self, Architecture::Qwen2 | Architecture::Qwen3)
    }

    /// The longest context, in tokens, when the key is absent.
    pub(crate) fn max_position_embeddings(self) -> i64 {
        match self {
            Architecture::Llama => 2048,
            Architecture::Mistral => 131_072,
            Architecture::Qwen2 | Architecture::Qwen3 => 32_768,
        }
    }

    /// The number of KV heads when the key is absent; `None` means as many as query heads.
    pub(crate) fn num_key_value_heads(self) -> Option<i64> {
        match self {
            Architecture::Llama => None,
            Architecture::Mistral => Some(8),
            Architecture::Qwen2 | Architecture::Qwen3 => Some(32),
        }
    }

    /// The ids of BOS and EOS when the keys are absent.
    pub(crate) fn special_tokens(self) -> Option<(i64, i64)> {
        match self {
            Architecture::Llama | Architecture::Mistral => Some((1, 2)),
            Architecture::Qwen2 | Architecture::Qwen3 => None,
        }
    }

    /// Reads it from `architectures` (first entry) and `model_type`, which must agree where both are there.
    pub(crate) fn read(fields: &Fields) -> Result<Architecture> {
        let by_class = match fields.strings("architectures")?.unwrap_or_default().first() {
            Some(name) => Some(named(fields, "architectures", name, Architecture::class_name)?),
            None => None,
        };
        let by_type = match fields.string("model_type")? {
            Some(name) => Some(named(fields, "model_type", name, Architecture::model_type)?),
            None => None,
        };
        match (by_class, by_type) {
            (Some(class), Some(kind)) if class != kind => {
                let problem =
                    format!("\"{}\" does not belong to `architectures` = {}", kind.model_type(), class.class_name());
                Err(fields.problem("model_type", problem))
            }
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => {
                Err(fields.problem("architectures", format!("missing; one of {}", list(Architecture::class_name))))
            }
        }
    }
}

fn named(fields: &Fields, key: &str, name: &str, spelled: fn(Architecture) -> &'static str) -> Result<Architecture> {
    let found = Architecture::ALL.into_iter().find(|architecture| spelled(*architecture) == name);
    found.ok_or_else(|| fields.unsupported(key, format!("\"{name}\""), list(spelled)))
}

fn list(spelled: fn(Architecture) -> &'static str) -> String {
    Architecture::ALL.map(spelled).join(", ")
}
