//! What several tests need: fixtures, tiny models of every family, tiny data, running the binary.

use serde_json::{Value, json};
use shearling::files::DType;
use shearling::hf::{Checkpoint, ModelConfig, RawConfig, ShardWriter, TensorPlan};
use shearling::model::{Decoder, ForwardContext, ModelGates, init};
use shearling_masks::Gates;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tch::{Device, Kind, Tensor};

/// A file or folder under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// max |a − b|.
pub fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The families with what sets each apart, small enough for a test: hidden 32, 3 layers, head_dim 8.
pub fn families() -> Vec<(&'static str, Value)> {
    let base = |class: &str, kind: &str, extra: Value| {
        let mut config = json!({
            "architectures": [class], "model_type": kind, "hidden_act": "silu", "vocab_size": 64,
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "initializer_range": 0.3, "torch_dtype": "float32",
        });
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    };
    vec![
        ("llama", base("LlamaForCausalLM", "llama", json!({}))),
        (
            "llama biased tied gqa",
            base(
                "LlamaForCausalLM",
                "llama",
                json!({ "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true,
                        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4 }),
            ),
        ),
        (
            "mistral",
            base(
                "MistralForCausalLM",
                "mistral",
                json!({ "num_attention_heads": 8, "num_key_value_heads": 4, "sliding_window": 5 }),
            ),
        ),
        (
            "qwen2",
            base(
                "Qwen2ForCausalLM",
                "qwen2",
                json!({ "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4,
                        "use_sliding_window": true, "sliding_window": 6, "max_window_layers": 1 }),
            ),
        ),
        (
            "qwen3",
            base(
                "Qwen3ForCausalLM",
                "qwen3",
                json!({ "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16,
                        "tie_word_embeddings": true, "attention_bias": false }),
            ),
        ),
    ]
}

/// Writes a checkpoint with random weights, biases and norms included, so that nothing is hidden by a zero or a one.
pub fn write_model(folder: &Path, config: &Value, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let model = RawConfig::read(&folder.join("config.json")).unwrap().model().unwrap();
    let weights = init::random_weights(&model, seed).unwrap();
    let plan =
        weights.iter().map(|(name, w)| TensorPlan { name: name.clone(), shape: w.size(), dtype: DType::F32 }).collect();
    let mut writer = ShardWriter::create(folder, plan, 1 << 30).unwrap();
    for (name, weight) in &weights {
        let noise = shearling_noise::weight_normals(seed + 1, name, weight.numel());
        let noise = Tensor::from_slice(&noise).view(&weight.size()[..]) * 0.2;
        let jitter = weight.dim() == 1;
        writer.write(name, &if jitter { weight + noise } else { weight.shallow_clone() }).unwrap();
    }
    writer.finish().unwrap();
}

/// A model with its weights as leaves that take gradients.
pub struct Loaded {
    pub model: ModelConfig,
    pub decoder: Decoder,
    pub leaves: std::collections::HashMap<String, Tensor>,
}

pub fn load(folder: &Path) -> Loaded {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut leaves = std::collections::HashMap::new();
    let decoder = Decoder::build(checkpoint.model(), &mut |name| -> Result<Tensor, shearling::files::Error> {
        let leaf = checkpoint.tensor(name, Kind::Float, Device::Cpu)?.set_requires_grad(true);
        leaves.insert(name.to_string(), leaf.shallow_clone());
        Ok(leaf)
    })
    .unwrap();
    Loaded { model: checkpoint.model().clone(), decoder, leaves }
}

/// Logits under `gates`.
pub fn logits(loaded: &Loaded, input_ids: &Tensor, gates: Gates) -> Tensor {
    let context = ForwardContext::new(&loaded.model, input_ids.size()[1], Device::Cpu).unwrap();
    let gates = ModelGates::new(&loaded.model, &gates).unwrap();
    loaded.decoder.forward(input_ids, &context, &gates).unwrap()
}

/// Mean loss per target token as the training step computes it, after its backward into weights and gates.
pub fn trained_loss(loaded: &Loaded, input_ids: &Tensor, gates: &Gates) -> f64 {
    let (rows, tokens) = (input_ids.size()[0], input_ids.size()[1]);
    let context = ForwardContext::new(&loaded.model, tokens, Device::Cpu).unwrap();
    let (gates, links) = ModelGates::leaves(&loaded.model, gates).unwrap();
    let x = loaded.decoder.residual_stream(input_ids, &context, &gates).unwrap();
    let scale = 1.0 / (rows * (tokens - 1)) as f64;
    let losses = loaded.decoder.losses(&x, input_ids, scale, &gates).unwrap();
    losses.objective.backward();
    links.backward().unwrap();
    let mean = losses.rows().unwrap().sum(Kind::Double).double_value(&[]) * scale;
    assert!((mean - losses.objective.double_value(&[])).abs() < 1e-5 * mean.abs());
    mean
}

/// Tensors of a safetensors file.
pub fn tensors(path: &Path) -> std::collections::BTreeMap<String, Tensor> {
    shearling::files::TensorFile::read(path, Device::Cpu).unwrap().tensors
}

/// Runs the binary.
pub fn shearling(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shearling"))
        .args(arguments)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("the binary starts")
}

/// Runs the binary and insists on exit code 0; stdout.
pub fn succeed(arguments: &[&str]) -> String {
    let output = shearling(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Tiny prepared data of the generated domains, made once per process: vocabulary 300, rows of 32 tokens.
pub fn data() -> &'static Path {
    static DATA: std::sync::OnceLock<(tempfile::TempDir, PathBuf)> = std::sync::OnceLock::new();
    let (_, path) = DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let domains = shearling_domains::synthetic::write_domains(&folder.path().join("text"), 40_000, 1).unwrap();
        let out = folder.path().join("data");
        let tokenizer = shearling_domains::TokenizerSource::Train(300);
        let config = shearling_domains::PrepareConfig::new(domains[..3].to_vec(), &out, tokenizer, 32);
        shearling_domains::prepare(&config, &shearling_domains::Silent).unwrap();
        (folder, out)
    });
    path
}

/// A tiny Llama whose vocabulary is [`data`]'s, written to `folder`.
pub fn write_tiny_source(folder: &Path) {
    let mut config = families().remove(0).1;
    config["vocab_size"] = json!(300);
    config["initializer_range"] = json!(0.05);
    write_model(folder, &config, 5);
    std::fs::copy(data().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
}

/// A file of `configs/`.
pub fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

/// `--set key=value` for each.
pub fn sets<K: AsRef<str>, V: std::fmt::Display>(overrides: impl IntoIterator<Item = (K, V)>) -> Vec<String> {
    overrides.into_iter().flat_map(|(key, value)| ["--set".to_string(), format!("{}={value}", key.as_ref())]).collect()
}

/// Every path below `folder` with the size of the files, hidden ones included: what a command that must write nothing
/// has to leave as it is.
pub fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(listing(&path));
        }
        // A lock names its last holder; process ids have four digits or more.
        let sized = !metadata.is_dir() && path.file_name().is_none_or(|name| name != "run.lock");
        found.push((path, if sized { metadata.len() } else { 0 }));
    }
    found.sort();
    found
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Changes keys of a JSON file.
pub fn edit_json(path: &Path, changes: Value) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    std::fs::write(path, value.to_string()).unwrap();
}

/// The tiny configurations, run one after the other through the binary, once per process: `source/`, `reference.json`,
/// `prune/`, `pretrain/` in one folder. To be read only.
pub fn tiny_runs() -> &'static Path {
    static RUNS: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let folder = RUNS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let reference = at("reference.json");
        let run = |command: &str, name: &str, more: &[(&str, String)]| {
            let common = [("run.directory", at(name)), ("run.device", "cpu".into()), ("data.path", data_path())];
            let file = config(&format!("tiny-{name}.toml")).display().to_string();
            let mut arguments = vec![command.to_string(), "--config".to_string(), file];
            arguments.extend(sets(common.iter().chain(more).map(|(key, value)| (*key, value))));
            succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        };
        run("pretrain", "source", &[]);
        let data = data_path();
        let eval = ["eval", &at("source/model"), "--data", &data, "--rows", "8", "--write-reference", &reference];
        succeed(&eval);
        let mixer = ("mixer.reference_file", reference.clone());
        let keep = ("checkpoint.every_steps", "20".to_string());
        run("prune", "prune", &[("model.source", at("source/model")), mixer.clone(), keep]);
        run("pretrain", "pretrain", &[("model.source", at("prune/pruned")), mixer]);
        folder
    });
    folder.path()
}

/// [`data`] as text for the command line.
pub fn data_path() -> String {
    data().display().to_string()
}
