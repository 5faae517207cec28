//! Models that the tests of this folder propose shapes for: with and without groups, tied and untied, large and tiny.

use crate::hf::{ModelConfig, RawConfig};
use serde_json::{Value, json};
use std::path::Path;

fn read(config: Value) -> ModelConfig {
    let Value::Object(raw) = config else { panic!("an object") };
    RawConfig::from_raw(raw, Path::new("config.json")).model().unwrap()
}

pub(super) fn llama2_7b() -> ModelConfig {
    read(serde_json::from_str(include_str!("../../../tests/fixtures/configs/llama2-7b.json")).unwrap())
}

pub(super) fn llama3_8b() -> ModelConfig {
    read(serde_json::from_str(include_str!("../../../tests/fixtures/configs/llama3.1-8b.json")).unwrap())
}

/// SmolLM2-135M: groups, tied embeddings.
pub(super) fn smollm2() -> ModelConfig {
    read(json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "head_dim": 64, "tie_word_embeddings": true,
    }))
}

/// Qwen2.5-0.5B: biases, tied, hidden size = heads × head_dim.
pub(super) fn qwen2() -> ModelConfig {
    read(json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "max_position_embeddings": 32768, "tie_word_embeddings": true,
    }))
}

/// Qwen3-0.6B: norms of heads, heads wider than the hidden size.
pub(super) fn qwen3() -> ModelConfig {
    read(json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "max_position_embeddings": 40960, "tie_word_embeddings": true,
    }))
}

/// Mistral-7B: a sliding window.
pub(super) fn mistral() -> ModelConfig {
    read(json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "sliding_window": 4096, "max_position_embeddings": 32768,
    }))
}

/// As small as the models of tests.
pub(super) fn tiny() -> ModelConfig {
    read(json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
        "head_dim": 8, "max_position_embeddings": 64,
    }))
}

pub(super) fn all() -> Vec<(&'static str, ModelConfig)> {
    vec![
        ("Llama-2-7B", llama2_7b()),
        ("Llama-3.1-8B", llama3_8b()),
        ("SmolLM2-135M", smollm2()),
        ("Qwen2.5-0.5B", qwen2()),
        ("Qwen3-0.6B", qwen3()),
        ("Mistral-7B", mistral()),
        ("tiny", tiny()),
    ]
}
