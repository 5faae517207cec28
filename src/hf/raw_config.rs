//! `config.json` as it stands on disk: every key kept, in order, also those we do not know.
//!
//! A pruned checkpoint gets a patched copy of its source's file, so that whatever a user's tools put there survives. What is
//! patched is written in the dialects of transformers 4 and 5 at once.

use super::not_a_model::{CONFIG_NAME, not_a_model};
use super::{Architecture, ModelConfig, Rope, RopeKind, sliding_window};
use crate::files::json::{self, Fields};
use crate::files::{DType, Error, Result, publish};
use serde_json::{Map, Value, json};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The raw configuration and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct RawConfig {
    path: PathBuf,
    raw: Map<String, Value>,
}

/// The shape of a pruned model. `vocab_size` never changes.
#[derive(Debug, Clone, Copy)]
pub struct NewShape<'a> {
    /// D.
    pub hidden_size: i64,
    /// F.
    pub intermediate_size: i64,
    /// H, query heads.
    pub num_attention_heads: i64,
    /// K, key/value heads.
    pub num_key_value_heads: i64,
    /// Width of one head: the source's, since pruning never changes it. It no longer follows from D and H.
    pub head_dim: i64,
    /// Indices of the source's layers that stay, ascending.
    pub kept_layers: &'a [i64],
}

/// What a fresh Llama needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct NewLlama {
    /// V.
    pub vocab_size: i64,
    /// D.
    pub hidden_size: i64,
    /// F.
    pub intermediate_size: i64,
    /// L.
    pub num_hidden_layers: i64,
    /// H.
    pub num_attention_heads: i64,
    /// K.
    pub num_key_value_heads: i64,
    /// Width of one head.
    pub head_dim: i64,
    /// Longest context in tokens.
    pub max_position_embeddings: i64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Epsilon of the norms.
    pub rms_norm_eps: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// The token that begins a document.
    pub bos_token_id: Option<i64>,
    /// The token that ends a document.
    pub eos_token_id: Option<i64>,
    /// The format the weights will be saved in.
    pub dtype: DType,
}

impl RawConfig {
    /// Its name in a Hugging Face folder.
    pub const FILE_NAME: &'static str = CONFIG_NAME;

    /// Reads a `config.json`. Only that it is one JSON object is checked here; [`RawConfig::model`] checks what it says.
    ///
    /// # Errors
    /// There is no such file (with what the folder is instead, where that can be told), or it is no JSON object.
    pub fn read(path: &Path) -> Result<RawConfig> {
        // An absent file, or a file where the folder should be; what cannot be looked at for another reason says so below.
        let absent = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        if path.metadata().is_err_and(|error| absent(&error)) {
            let hint = not_a_model(path.parent().unwrap_or(Path::new("")));
            return Err(Error::NotAModel { path: path.to_owned(), hint });
        }
        let raw = json::parse_object(&json::read_bounded(path)?, path)?;
        Ok(RawConfig { path: path.to_owned(), raw })
    }

    /// A configuration that is already in memory; `path` is for messages.
    pub fn from_raw(raw: Map<String, Value>, path: &Path) -> RawConfig {
        RawConfig { path: path.to_owned(), raw }
    }

    /// A fresh Llama configuration, to be trained from random weights.
    ///
    /// # Errors
    /// A shape that cannot be (heads not a multiple of KV heads, an odd head, a number out of range).
    pub fn new_llama(new: &NewLlama) -> Result<RawConfig> {
        // JSON has no NaN; it would be written as null and read as the default.
        if !new.rope_theta.is_finite() {
            return Err(Error::Shape { problem: format!("rope_theta = {}", new.rope_theta) });
        }
        let mut raw = Map::new();
        let entries = [
            ("architectures", json!([Architecture::Llama.class_name()])),
            ("model_type", json!(Architecture::Llama.model_type())),
            ("vocab_size", json!(new.vocab_size)),
            ("hidden_size", json!(new.hidden_size)),
            ("intermediate_size", json!(new.intermediate_size)),
            ("num_hidden_layers", json!(new.num_hidden_layers)),
            ("num_attention_heads", json!(new.num_attention_heads)),
            ("num_key_value_heads", json!(new.num_key_value_heads)),
            ("head_dim", json!(new.head_dim)),
            ("hidden_act", json!("silu")),
            ("max_position_embeddings", json!(new.max_position_embeddings)),
            ("rms_norm_eps", json!(new.rms_norm_eps)),
            ("initializer_range", json!(new.initializer_range)),
            ("tie_word_embeddings", json!(new.tie_word_embeddings)),
            ("attention_bias", json!(false)),
            ("mlp_bias", json!(false)),
            ("bos_token_id", json!(new.bos_token_id)),
            ("eos_token_id", json!(new.eos_token_id)),
        ];
        raw.extend(entries.map(|(key, value)| (key.to_owned(), value)));
        Rope { theta: new.rope_theta, kind: RopeKind::Default }.write(&mut raw);
        write_dtype(&mut raw, new.dtype);
        let config = RawConfig { path: PathBuf::from(Self::FILE_NAME), raw };
        config.model()?;
        Ok(config)
    }

    /// The raw object.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// The file it came from (or, for a fresh one, will be called).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it means.
    ///
    /// # Errors
    /// A key that is missing, wrong, or asks for something that is not supported; named.
    pub fn model(&self) -> Result<ModelConfig> {
        ModelConfig::resolve(&self.fields())
    }

    /// A copy for a pruned model, loadable by transformers 4 and 5.
    ///
    /// # Errors
    /// Layers that the source does not have, another `head_dim`, a shape that cannot be, or a source that is itself not supported.
    pub fn with_shape(&self, new: &NewShape, dtype: DType) -> Result<RawConfig> {
        let source = self.model()?;
        check_kept(new.kept_layers, source.num_hidden_layers)?;
        if new.head_dim != source.head_dim {
            let problem = format!(
                "head_dim = {} where the source has {}; pruning never changes it",
                new.head_dim, source.head_dim
            );
            return Err(Error::Shape { problem });
        }
        let mut raw = self.raw.clone();
        let sizes = [
            ("hidden_size", new.hidden_size),
            ("intermediate_size", new.intermediate_size),
            ("num_attention_heads", new.num_attention_heads),
            ("num_key_value_heads", new.num_key_value_heads),
            ("head_dim", new.head_dim),
            ("num_hidden_layers", new.kept_layers.len() as i64),
        ];
        raw.extend(sizes.map(|(key, size)| (key.to_owned(), json!(size))));
        keep_layer_types(&mut raw, new.kept_layers);
        if source.architecture.has_window_layers() {
            let first = sliding_window::max_window_layers(&self.fields())?;
            let before = new.kept_layers.iter().filter(|layer| **layer < first).count();
            raw.insert("max_window_layers".into(), json!(before));
        }
        source.rope.write(&mut raw);
        write_dtype(&mut raw, dtype);
        // It names where the source was loaded from, often a path on somebody's machine.
        raw.shift_remove("_name_or_path");
        // Not the source's path: what is wrong from here on is wrong with the new file.
        let config = RawConfig { path: PathBuf::from(Self::FILE_NAME), raw };
        config.model()?;
        Ok(config)
    }

    /// A copy that announces another format of the weights, in both dialects of all that differs between them.
    ///
    /// # Errors
    /// The configuration is not supported.
    pub fn with_dtype(&self, dtype: DType) -> Result<RawConfig> {
        let mut config = self.clone();
        self.model()?.rope.write(&mut config.raw);
        write_dtype(&mut config.raw, dtype);
        Ok(config)
    }

    /// The file's content: indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.raw.clone()))
    }

    /// Writes it as `config.json` into a folder, atomically.
    pub fn write(&self, dir: &Path) -> Result<()> {
        publish::write_atomic(&dir.join(Self::FILE_NAME), self.to_json().as_bytes())
    }

    fn fields(&self) -> Fields<'_> {
        Fields::new(&self.path, &self.raw)
    }
}

fn write_dtype(raw: &mut Map<String, Value>, dtype: DType) {
    raw.insert("dtype".into(), json!(dtype.config_name()));
    raw.insert("torch_dtype".into(), json!(dtype.config_name()));
}

fn keep_layer_types(raw: &mut Map<String, Value>, kept: &[i64]) {
    if let Some(Value::Array(types)) = raw.get_mut("layer_types") {
        *types = kept.iter().filter_map(|layer| types.get(*layer as usize).cloned()).collect();
    }
}

fn check_kept(kept: &[i64], layers: i64) -> Result<()> {
    let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
    let within = kept.iter().all(|layer| (0..layers).contains(layer));
    if ascending && within && !kept.is_empty() {
        return Ok(());
    }
    Err(Error::Shape {
        problem: format!("kept layers {kept:?} are not an ascending, non-empty choice from 0..{layers}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::{FIXTURES, fixture};

    fn config(name: &str) -> RawConfig {
        RawConfig::read(&fixture(name).join(RawConfig::FILE_NAME)).unwrap()
    }

    fn qwen(changes: Value) -> RawConfig {
        let mut raw = config("qwen3-qknorm").raw;
        raw.extend(changes.as_object().unwrap().clone());
        RawConfig::from_raw(raw, Path::new("config.json"))
    }

    const SMALL: NewShape<'static> = NewShape {
        hidden_size: 16,
        intermediate_size: 24,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        kept_layers: &[0, 2],
    };

    #[test]
    fn every_fixture_resolves() {
        for name in FIXTURES {
            let model = config(name).model().unwrap();
            assert_eq!((model.vocab_size, model.hidden_size, model.num_hidden_layers), (64, 32, 3), "{name}");
            assert_eq!(model.dtype, Some(DType::F32));
        }
        assert!(config("qwen3-qknorm").model().unwrap().qk_norm);
    }

    #[test]
    fn both_dialects_mean_the_same() {
        let model = config("llama3-gqa-tied").model().unwrap();
        assert_eq!(model, config("llama3-gqa-tied-v4config").model().unwrap());
        let kind = RopeKind::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 16,
        };
        assert_eq!(model.rope, Rope { theta: 5e5, kind });
        assert!(model.tie_word_embeddings);
        assert_eq!((model.num_attention_heads, model.num_key_value_heads, model.head_dim), (4, 2, 16));
    }

    #[test]
    fn unknown_keys_and_order_survive_a_change_of_shape() {
        let source = config("llama3-gqa-tied-v4config");
        let mut raw = source.raw.clone();
        raw.insert("my_own_key".into(), json!({"a": [1, 2]}));
        let source = RawConfig::from_raw(raw, Path::new("config.json"));
        let pruned = source.with_shape(&SMALL, DType::BF16).unwrap();
        assert_eq!(pruned.raw["my_own_key"], json!({"a": [1, 2]}));
        let keys = |config: &RawConfig| config.raw.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&pruned)[..keys(&source).len()], keys(&source)[..]);
    }

    #[test]
    fn a_pruned_config_speaks_both_dialects() {
        for name in ["llama3-gqa-tied", "llama3-gqa-tied-v4config", "qwen3-qknorm"] {
            let source = config(name);
            let pruned = source.with_shape(&SMALL, DType::BF16).unwrap();
            let model = pruned.model().unwrap();
            assert_eq!((model.hidden_size, model.intermediate_size, model.num_hidden_layers), (16, 24, 2));
            assert_eq!((model.num_attention_heads, model.num_key_value_heads, model.head_dim), (2, 1, 16));
            assert_eq!((model.rope, model.dtype), (source.model().unwrap().rope, Some(DType::BF16)));
            assert_eq!(pruned.raw["dtype"], "bfloat16");
            assert_eq!(pruned.raw["torch_dtype"], "bfloat16");
            assert_eq!(pruned.raw["architectures"], source.raw["architectures"]);
            // Either dialect alone must mean the same.
            for gone in [vec!["rope_parameters", "dtype"], vec!["rope_theta", "rope_scaling", "torch_dtype"]] {
                let mut raw = pruned.raw.clone();
                gone.iter().for_each(|key| drop(raw.shift_remove(*key)));
                assert_eq!(RawConfig::from_raw(raw, Path::new("one")).model().unwrap(), model, "{name}: {gone:?}");
            }
        }
    }

    #[test]
    fn layer_types_follow_the_kept_layers() {
        let types = json!(["full_attention", "sliding_attention", "sliding_attention"]);
        let source = qwen(
            json!({"layer_types": types, "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}),
        );
        let pruned = source.with_shape(&SMALL, DType::F32).unwrap();
        assert_eq!(pruned.raw["layer_types"], json!(["full_attention", "sliding_attention"]));
        assert_eq!(pruned.raw["max_window_layers"], 1);
        assert_eq!(pruned.model().unwrap().sliding_window, [None, Some(8)]);
    }

    #[test]
    fn max_window_layers_follows_the_kept_layers() {
        let base =
            json!({"layer_types": null, "use_sliding_window": true, "sliding_window": 8, "num_hidden_layers": 32});
        for (first, kept, expected) in [
            (json!(2), vec![0, 2, 3], vec![None, Some(8), Some(8)]),
            (json!(2), vec![2, 3], vec![Some(8), Some(8)]),
            (json!(2), vec![0, 1], vec![None, None]),
            // Absent means 28; the default must not stay when layers before it are gone.
            (Value::Null, vec![1, 27, 28], vec![None, None, Some(8)]),
        ] {
            let mut source = qwen(base.clone());
            match first {
                Value::Null => drop(source.raw.shift_remove("max_window_layers")),
                first => drop(source.raw.insert("max_window_layers".into(), first)),
            }
            let pruned = source.with_shape(&NewShape { kept_layers: &kept, ..SMALL }, DType::F32).unwrap();
            assert_eq!(pruned.model().unwrap().sliding_window, expected, "{kept:?}");
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let source = config("llama3-gqa-tied");
        source.with_shape(&SMALL, DType::F32).unwrap();
        let kept: [&[i64]; 5] = [&[], &[0, 3], &[1, 0], &[1, 1], &[-1]];
        for kept_layers in kept {
            assert!(source.with_shape(&NewShape { kept_layers, ..SMALL }, DType::F32).is_err(), "{kept_layers:?}");
        }
        assert!(
            source
                .with_shape(&NewShape { num_attention_heads: 3, num_key_value_heads: 2, ..SMALL }, DType::F32)
                .is_err()
        );
        assert!(source.with_shape(&NewShape { head_dim: 8, ..SMALL }, DType::F32).is_err());
        assert!(source.with_shape(&NewShape { hidden_size: 0, ..SMALL }, DType::F32).is_err());
    }

    #[test]
    fn a_fresh_llama_reads_back() {
        let new = NewLlama {
            vocab_size: 512,
            hidden_size: 96,
            intermediate_size: 256,
            num_hidden_layers: 4,
            num_attention_heads: 6,
            num_key_value_heads: 3,
            head_dim: 16,
            max_position_embeddings: 256,
            rope_theta: 5e4,
            rms_norm_eps: 1e-5,
            initializer_range: 0.03,
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: Some(0),
            dtype: DType::F32,
        };
        let dir = tempfile::tempdir().unwrap();
        RawConfig::new_llama(&new).unwrap().write(dir.path()).unwrap();
        let model = RawConfig::read(&dir.path().join("config.json")).unwrap().model().unwrap();
        assert_eq!((model.vocab_size, model.num_hidden_layers, model.num_key_value_heads), (512, 4, 3));
        assert_eq!((model.rope.theta, model.initializer_range, model.rms_norm_eps), (5e4, 0.03, 1e-5));
        assert_eq!((model.bos_token_id, model.eos_token_ids), (None, vec![0]));
        assert!(RawConfig::new_llama(&NewLlama { num_key_value_heads: 4, ..new.clone() }).is_err());
        assert!(RawConfig::new_llama(&NewLlama { rope_theta: f64::NAN, ..new }).is_err());
    }

    #[test]
    fn a_truncated_file_is_an_error_that_names_it() {
        let whole = std::fs::read(fixture("qwen3-qknorm").join("config.json")).unwrap();
        let path = Path::new("folder/config.json");
        let end = whole.iter().rposition(|byte| *byte == b'}').unwrap();
        for length in 0..=end {
            let error = json::parse_object(&whole[..length], path).unwrap_err();
            assert!(error.to_string().contains("folder/config.json"));
        }
        for wrong in ["[]", "3", "\"x\"", "null", "{\"a\":1}{", "\u{0}"] {
            assert!(json::parse_object(wrong.as_bytes(), path).is_err(), "{wrong}");
        }
        let deep = "[".repeat(100_000);
        assert!(json::parse_object(format!("{{\"a\":{deep}").as_bytes(), path).is_err());
    }
}
