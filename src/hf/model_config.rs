//! What `config.json` means: one resolved, checked description of the network.
//!
//! Defaults of absent keys are those of the configuration classes of transformers (4.57 and 5.3 agree on them), family by family;
//! where transformers tells an absent key from `null`, so do we. What the model does not implement is refused here, by name,
//! before any weight is read.

use super::rope::Rope;
use super::{Architecture, sliding_window};
use crate::files::json::Fields;
use crate::files::{DType, Result};

/// Which projections of the attention have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionBias {
    /// q_proj, k_proj and v_proj.
    pub qkv: bool,
    /// o_proj.
    pub output: bool,
}

/// A network, resolved from `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// V.
    pub vocab_size: i64,
    /// D.
    pub hidden_size: i64,
    /// F.
    pub intermediate_size: i64,
    /// L.
    pub num_hidden_layers: i64,
    /// H, query heads.
    pub num_attention_heads: i64,
    /// K, key/value heads; H is a multiple of it.
    pub num_key_value_heads: i64,
    /// d, the width of one head; even, and not necessarily D / H.
    pub head_dim: i64,
    /// The longest context the model is meant for, in tokens.
    pub max_position_embeddings: i64,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases of the attention projections.
    pub attention_bias: AttentionBias,
    /// Whether gate, up and down projections have a bias.
    pub mlp_bias: bool,
    /// Whether each query and key head is normalised.
    pub qk_norm: bool,
    /// The attention window of each layer in tokens: a token attends itself and the `window - 1` before it. `[L]`
    pub sliding_window: Vec<Option<i64>>,
    /// The format the weights were saved in, if the file says so.
    pub dtype: Option<DType>,
    /// The token that begins a document.
    pub bos_token_id: Option<i64>,
    /// The tokens that end a document; one, several or none.
    pub eos_token_ids: Vec<i64>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

/// Widths above this are a broken file, not a model; products of two of them stay far from overflow.
const MAX_WIDTH: i64 = 1 << 24;
const MAX_LAYERS: i64 = 1 << 14;
const MAX_POSITIONS: i64 = 1 << 40;
const MAX_TOKEN: i64 = i32::MAX as i64;

impl ModelConfig {
    /// Resolves and checks a configuration.
    pub(crate) fn resolve(fields: &Fields) -> Result<ModelConfig> {
        let architecture = Architecture::read(fields)?;
        refuse_unsupported(fields)?;
        let num_hidden_layers = fields.integer("num_hidden_layers", 1..=MAX_LAYERS)?;
        let hidden_size = fields.integer("hidden_size", 1..=MAX_WIDTH)?;
        let num_attention_heads = fields.integer("num_attention_heads", 1..=MAX_WIDTH)?;
        let max_position_embeddings =
            fields.integer_or("max_position_embeddings", architecture.max_position_embeddings(), 1..=MAX_POSITIONS)?;
        let (bos_token_id, eos_token_ids) = special_tokens(fields, architecture)?;
        Ok(ModelConfig {
            architecture,
            vocab_size: fields.integer("vocab_size", 1..=MAX_WIDTH)?,
            hidden_size,
            intermediate_size: fields.integer("intermediate_size", 1..=MAX_WIDTH)?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: num_key_value_heads(fields, architecture, num_attention_heads)?,
            head_dim: head_dim(fields, architecture, hidden_size, num_attention_heads)?,
            max_position_embeddings,
            rms_norm_eps: rms_norm_eps(fields)?,
            rope: Rope::read(fields, max_position_embeddings)?,
            tie_word_embeddings: fields.boolean_or("tie_word_embeddings", false)?,
            attention_bias: attention_bias(fields, architecture)?,
            mlp_bias: architecture == Architecture::Llama && fields.boolean_or("mlp_bias", false)?,
            qk_norm: architecture == Architecture::Qwen3,
            sliding_window: sliding_window::resolve(fields, architecture, num_hidden_layers)?,
            dtype: dtype(fields)?,
            bos_token_id,
            eos_token_ids,
            initializer_range: fields.positive_or("initializer_range", 0.02)?,
        })
    }
}

fn refuse_unsupported(fields: &Fields) -> Result<()> {
    // transformers knows SiLU under both names.
    if let Some(other) = fields.string("hidden_act")?.filter(|name| !["silu", "swish"].contains(name)) {
        return Err(fields.unsupported("hidden_act", format!("\"{other}\""), "silu"));
    }
    // The second is what MLX writes, the third an older name of llm-compressor.
    for key in ["quantization_config", "quantization", "compression_config"] {
        if let Some(quantization) = fields.object(key)? {
            let method = quantization.string("quant_method")?.unwrap_or("unknown");
            let supported = "unquantized weights; take the original checkpoint or dequantize it";
            return Err(fields.unsupported(key, format!("method \"{method}\""), supported));
        }
    }
    Ok(())
}

fn num_key_value_heads(fields: &Fields, architecture: Architecture, heads: i64) -> Result<i64> {
    const KEY: &str = "num_key_value_heads";
    let given = fields.integer_given(KEY, 1..=MAX_WIDTH)?;
    let kv_heads = given.absent_is(architecture.num_key_value_heads()).unwrap_or(heads);
    match heads % kv_heads {
        0 => Ok(kv_heads),
        _ => Err(fields.problem(KEY, format!("num_attention_heads = {heads} is not a multiple of {kv_heads}"))),
    }
}

fn head_dim(fields: &Fields, architecture: Architecture, hidden: i64, heads: i64) -> Result<i64> {
    const KEY: &str = "head_dim";
    let default = (architecture == Architecture::Qwen3).then_some(128);
    let given = fields.integer_given(KEY, 1..=MAX_WIDTH)?.absent_is(default);
    let dim = match given {
        Some(dim) => dim,
        None if hidden % heads == 0 => hidden / heads,
        None => {
            return Err(fields.problem(
                KEY,
                format!("missing, and hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}"),
            ));
        }
    };
    // Rotary embedding turns pairs (j, j + d/2).
    if dim % 2 == 0 { Ok(dim) } else { Err(fields.problem(KEY, format!("expected an even number, found {dim}"))) }
}

fn rms_norm_eps(fields: &Fields) -> Result<f64> {
    let eps = fields.positive_or("rms_norm_eps", 1e-6)?;
    if eps < 1.0 { Ok(eps) } else { Err(fields.problem("rms_norm_eps", format!("expected less than 1, found {eps}"))) }
}

fn attention_bias(fields: &Fields, architecture: Architecture) -> Result<AttentionBias> {
    Ok(match architecture {
        Architecture::Mistral => AttentionBias { qkv: false, output: false },
        Architecture::Qwen2 => AttentionBias { qkv: true, output: false },
        Architecture::Llama | Architecture::Qwen3 => {
            let all = fields.boolean_or("attention_bias", false)?;
            AttentionBias { qkv: all, output: all }
        }
    })
}

fn dtype(fields: &Fields) -> Result<Option<DType>> {
    // When both dialects are there, transformers believes the new key.
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = fields.string(key)? else { return Ok(None) };
    let supported = "float32, float16, bfloat16";
    DType::from_config_name(name).map(Some).ok_or_else(|| fields.unsupported(key, format!("\"{name}\""), supported))
}

fn special_tokens(fields: &Fields, architecture: Architecture) -> Result<(Option<i64>, Vec<i64>)> {
    let defaults = architecture.special_tokens();
    let bos = fields.integer_given("bos_token_id", 0..=MAX_TOKEN)?.absent_is(defaults.map(|(bos, _)| bos));
    let eos = fields.integers_given("eos_token_id", 0..=MAX_TOKEN)?;
    Ok((bos, eos.absent_is(defaults.map(|(_, eos)| vec![eos])).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf::RopeKind;
    use serde_json::{Value, json};
    use std::path::Path;

    fn resolve(value: &Value) -> Result<ModelConfig, String> {
        let path = Path::new("folder/config.json");
        let map = value.as_object().unwrap();
        ModelConfig::resolve(&Fields::new(path, map)).map_err(|error| error.to_string())
    }

    fn with(mut base: Value, changes: Value) -> Value {
        base.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        base
    }

    fn bare(model_type: &str) -> Value {
        json!({
            "model_type": model_type, "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 30, "num_attention_heads": 32,
        })
    }

    #[test]
    fn llama_defaults() {
        let model = resolve(&bare("llama")).unwrap();
        assert_eq!(model.architecture, Architecture::Llama);
        assert_eq!((model.num_key_value_heads, model.head_dim, model.max_position_embeddings), (32, 2, 2048));
        assert_eq!((model.rms_norm_eps, model.initializer_range), (1e-6, 0.02));
        assert_eq!(model.rope, Rope { theta: 1e4, kind: RopeKind::Default });
        assert_eq!((model.bos_token_id, model.eos_token_ids.as_slice()), (Some(1), [2].as_slice()));
        assert_eq!(model.attention_bias, AttentionBias { qkv: false, output: false });
        assert!(!model.tie_word_embeddings && !model.mlp_bias && !model.qk_norm && model.dtype.is_none());
        assert_eq!(model.sliding_window, vec![None; 30]);
    }

    #[test]
    fn llama_biases_all_four_projections() {
        let model = resolve(&with(bare("llama"), json!({"attention_bias": true, "mlp_bias": true}))).unwrap();
        assert_eq!(model.attention_bias, AttentionBias { qkv: true, output: true });
        assert!(model.mlp_bias);
    }

    #[test]
    fn mistral_defaults() {
        let model = resolve(&bare("mistral")).unwrap();
        assert_eq!((model.num_key_value_heads, model.max_position_embeddings), (8, 131_072));
        assert_eq!(model.sliding_window, vec![Some(4096); 30]);
        let model = resolve(&with(
            bare("mistral"),
            json!({"sliding_window": null, "head_dim": null, "num_key_value_heads": null}),
        ))
        .unwrap();
        assert_eq!((model.sliding_window[29], model.head_dim, model.num_key_value_heads), (None, 2, 32));
        // transformers builds Mistral's projections without bias whatever the key says.
        let model = resolve(&with(bare("mistral"), json!({"attention_bias": true}))).unwrap();
        assert!(!model.attention_bias.qkv);
        assert!(resolve(&with(bare("mistral"), json!({"layer_types": vec!["full_attention"; 30]}))).is_err());
    }

    #[test]
    fn qwen2_defaults() {
        let model = resolve(&bare("qwen2")).unwrap();
        assert_eq!(model.attention_bias, AttentionBias { qkv: true, output: false });
        assert_eq!((model.num_key_value_heads, model.max_position_embeddings), (32, 32_768));
        assert_eq!((model.bos_token_id, model.eos_token_ids.len()), (None, 0));
        // A window that is not in use, as most published files have it.
        let model = resolve(&with(bare("qwen2"), json!({"sliding_window": 32, "use_sliding_window": false}))).unwrap();
        assert_eq!(model.sliding_window, vec![None; 30]);
    }

    #[test]
    fn qwen_windows_begin_at_max_window_layers_or_follow_layer_types() {
        let windows = |changes| {
            resolve(&with(with(bare("qwen2"), json!({"use_sliding_window": true})), changes)).map(|m| m.sliding_window)
        };
        let layers = windows(json!({})).unwrap();
        assert_eq!((layers[27], layers[28], layers[29]), (None, Some(4096), Some(4096)));
        let layers = windows(json!({"sliding_window": 8, "max_window_layers": 1})).unwrap();
        assert_eq!((layers[0], layers[1]), (None, Some(8)));
        assert_eq!(windows(json!({"sliding_window": null})).unwrap(), vec![None; 30]);
        let mut types = vec!["full_attention"; 30];
        types[3] = "sliding_attention";
        let layers = windows(json!({"layer_types": types, "sliding_window": 8})).unwrap();
        assert_eq!(layers.iter().filter(|w| w.is_some()).count(), 1);
        assert_eq!(layers[3], Some(8));
        let error = windows(json!({"layer_types": types, "use_sliding_window": false})).unwrap_err();
        assert!(error.contains("use_sliding_window"), "{error}");
        assert!(windows(json!({"layer_types": ["full_attention"]})).unwrap_err().contains("1 entries for 30 layers"));
        assert!(
            windows(json!({"layer_types": vec!["linear_attention"; 30]})).unwrap_err().contains("linear_attention")
        );
    }

    #[test]
    fn qwen3_defaults() {
        let model = resolve(&bare("qwen3")).unwrap();
        assert!(model.qk_norm);
        assert_eq!(model.head_dim, 128);
        assert_eq!(model.attention_bias, AttentionBias { qkv: false, output: false });
    }

    #[test]
    fn dtype_and_token_dialects() {
        let model = resolve(&with(bare("llama"), json!({"torch_dtype": "bfloat16", "eos_token_id": [2, 5]}))).unwrap();
        assert_eq!((model.dtype, model.eos_token_ids), (Some(DType::BF16), vec![2, 5]));
        let model =
            resolve(&with(bare("llama"), json!({"torch_dtype": "bfloat16", "dtype": "float16", "bos_token_id": null})))
                .unwrap();
        assert_eq!((model.dtype, model.bos_token_id), (Some(DType::F16), None));
    }

    #[test]
    fn the_unsupported_is_refused_by_name() {
        let refused = [
            (json!({"architectures": ["GPT2LMHeadModel"]}), "GPT2LMHeadModel"),
            (json!({"architectures": ["LlamaForSequenceClassification"]}), "LlamaForSequenceClassification"),
            (json!({"model_type": "gemma"}), "gemma"),
            (json!({"architectures": ["MistralForCausalLM"]}), "model_type"),
            (json!({"hidden_act": "gelu"}), "gelu"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "gptq"),
            (json!({"quantization": {"group_size": 64, "bits": 4}}), "quantization"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "dynamic"),
            (json!({"torch_dtype": "float64"}), "float64"),
        ];
        for (change, named) in refused {
            let error = resolve(&with(bare("llama"), change)).unwrap_err();
            assert!(error.contains(named) && error.contains("folder/config.json"), "{error}");
        }
    }

    #[test]
    fn absurd_numbers_and_wrong_types_name_their_key() {
        let wrong = [
            ("hidden_size", json!(-64)),
            ("hidden_size", json!(64.0)),
            ("hidden_size", json!("64")),
            ("hidden_size", json!(null)),
            ("hidden_size", json!(1e300)),
            ("vocab_size", json!(0)),
            ("num_hidden_layers", json!(1_000_000_000_i64)),
            ("num_attention_heads", json!(0)),
            ("num_key_value_heads", json!(5)),
            ("num_key_value_heads", json!(0)),
            ("head_dim", json!(3)),
            ("head_dim", json!(0)),
            ("rms_norm_eps", json!(0)),
            ("rms_norm_eps", json!(7)),
            ("max_position_embeddings", json!(null)),
            ("tie_word_embeddings", json!("no")),
            ("architectures", json!("LlamaForCausalLM")),
            ("eos_token_id", json!([1, -2])),
            ("bos_token_id", json!([1])),
            ("torch_dtype", json!(16)),
            ("hidden_act", json!(1)),
            ("intermediate_size", json!(u64::MAX)),
            ("layer_types", json!([1])),
            ("quantization_config", json!(true)),
        ];
        for (key, value) in wrong {
            // Llama does not look at `layer_types`.
            let family = if key == "layer_types" { "qwen2" } else { "llama" };
            let error = resolve(&with(bare(family), json!({key: value}))).unwrap_err();
            assert!(error.contains(&format!("`{key}`")), "{key} = {value}: {error}");
        }
        for key in ["hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"] {
            let mut config = bare("llama");
            config.as_object_mut().unwrap().remove(key);
            assert!(resolve(&config).unwrap_err().contains(key));
        }
        let error = resolve(&with(bare("llama"), json!({"hidden_size": 65}))).unwrap_err();
        assert!(error.contains("head_dim"), "{error}");
    }
}
