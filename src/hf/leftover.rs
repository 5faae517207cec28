//! What a tensor is that the network of `config.json` does not use: harmless, or a sign that another network was trained.
//!
//! A checkpoint is never used as another network than it was, so whatever is not listed as harmless here is refused, by name and
//! with the key of `config.json` that rules it.

use super::{Architecture, ModelConfig};

/// Name of the output head.
pub const HEAD: &str = "lm_head.weight";
/// Name of the token embedding.
pub const EMBEDDING: &str = "model.embed_tokens.weight";

/// Tensors that older exports carry and that say nothing new: the tables of the rotary embedding, which `config.json`
/// determines. transformers leaves them unread too.
const HARMLESS: [&str; 3] = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"];

/// What quantisers leave beside or instead of a weight.
const QUANTISED: [&str; 18] = [
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_packed",
    "weight_shape",
    "input_scale",
    "output_scale",
    "scales",
    "qweight",
    "qzeros",
    "g_idx",
    "absmax",
    "nested_absmax",
    "quant_map",
    "quant_state",
    "SCB",
    "k_scale",
    "v_scale",
];

/// Whether a tensor that is not used changes nothing.
pub(crate) fn is_harmless(name: &str) -> bool {
    HARMLESS.iter().any(|end| name.ends_with(end))
}

/// Why the network of `model` does not use a tensor, as a clause that names the key of `config.json`.
pub(crate) fn cause(name: &str, model: &ModelConfig) -> String {
    let parts = || name.split('.');
    let has = |part: &str| parts().any(|found| found == part);
    let layers = model.num_hidden_layers;
    if layer_of(name).is_some_and(|layer| layer >= layers) {
        return format!("`num_hidden_layers` is {layers} in config.json, the layers are numbered from 0");
    }
    if parts().any(|part| part.starts_with("lora_") || part == "base_layer" || part == "modules_to_save") {
        return "an adapter (LoRA) was saved without being merged: merge it with merge_and_unload of peft".to_string();
    }
    if parts().any(|part| QUANTISED.contains(&part)) {
        return "left by a quantisation, and config.json has no `quantization_config`: take the original checkpoint or \
                dequantize it"
            .to_string();
    }
    if let Some(key) = key_of(name, model) {
        return key;
    }
    match has("experts") || has("block_sparse_moe") {
        true => "part of a mixture of experts, which `architectures` in config.json does not name".to_string(),
        false => "no key of config.json asks for it".to_string(),
    }
}

/// The key of `config.json`, with its present value, by which a bias, a norm of the heads or a head of its own is there
/// or not.
pub(crate) fn key_of(name: &str, model: &ModelConfig) -> Option<String> {
    let class = model.architecture.class_name();
    let by_class = |what: &str| Some(format!("`architectures` is {class} in config.json, which has no {what}"));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if name.ends_with("_proj.bias") && name.contains(".self_attn.") {
        return match model.architecture {
            Architecture::Llama | Architecture::Qwen3 => {
                Some(format!("`attention_bias` is {} in config.json", model.attention_bias.qkv))
            }
            // Qwen2 always has those of q, k and v: nothing to decide.
            Architecture::Qwen2 if !name.ends_with(".o_proj.bias") => None,
            Architecture::Mistral | Architecture::Qwen2 => by_class("such biases"),
        };
    }
    if name.ends_with("_proj.bias") && name.contains(".mlp.") {
        return match model.architecture {
            Architecture::Llama => Some(format!("`mlp_bias` is {} in config.json", model.mlp_bias)),
            _ => by_class("such biases"),
        };
    }
    if ends(&[".q_norm.weight", ".k_norm.weight"]) {
        return by_class("norms of queries and keys").filter(|_| !model.qk_norm);
    }
    let untied = name == HEAD && !model.tie_word_embeddings;
    untied.then(|| "`tie_word_embeddings` is false in config.json".to_string())
}

/// The number of the layer that a tensor belongs to.
fn layer_of(name: &str) -> Option<i64> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::fixture;
    use crate::hf::RawConfig;

    #[test]
    fn every_leftover_names_the_key_that_rules_it() {
        let model = |name: &str| RawConfig::read(&fixture(name).join("config.json")).unwrap().model().unwrap();
        let (llama, qwen) = (model("llama2-mha"), model("qwen3-qknorm"));
        let mistral = ModelConfig { architecture: Architecture::Mistral, ..llama.clone() };
        let cases = [
            (&llama, "model.layers.0.self_attn.q_proj.bias", "`attention_bias` is false"),
            (&llama, "model.layers.0.mlp.up_proj.bias", "`mlp_bias` is false"),
            (&llama, "model.layers.1.self_attn.q_norm.weight", "`architectures` is LlamaForCausalLM"),
            (&llama, "model.layers.3.mlp.up_proj.weight", "`num_hidden_layers` is 3"),
            (&mistral, "model.layers.0.self_attn.o_proj.bias", "`architectures` is MistralForCausalLM"),
            (&qwen, "model.layers.0.mlp.up_proj.bias", "`architectures` is Qwen3ForCausalLM"),
            (&llama, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "merge_and_unload"),
            (&llama, "model.layers.0.mlp.up_proj.base_layer.weight", "merge_and_unload"),
            (&llama, "model.layers.0.mlp.up_proj.weight_scale_inv", "quantization_config"),
            (&llama, "model.layers.0.mlp.up_proj.weight.absmax", "quantization_config"),
            (&llama, "model.layers.0.block_sparse_moe.experts.0.w1.weight", "mixture of experts"),
            (&llama, "v_head.summary.weight", "no key"),
        ];
        for (model, name, part) in cases {
            let found = cause(name, model);
            assert!(found.contains(part), "{name}: {found}");
            assert!(!is_harmless(name), "{name}");
        }
        // What the class has is not explained by the class.
        let qwen2 = ModelConfig { architecture: Architecture::Qwen2, ..llama.clone() };
        assert_eq!(key_of("model.layers.0.self_attn.q_norm.weight", &qwen), None);
        assert_eq!(key_of("model.layers.0.self_attn.q_proj.bias", &qwen2), None);
        assert!(key_of("model.layers.0.self_attn.o_proj.bias", &qwen2).unwrap().contains("Qwen2ForCausalLM"));
        for name in ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"] {
            assert!(is_harmless(name));
        }
    }
}
