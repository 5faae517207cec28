//! Wrong input is refused: exit code 2, one error that names the file, key or value and says what to do, and nothing
//! is written, not even a temporary sibling.

use super::support::{
    config, copy_folder, data, data_path, edit_json, families, fixture, listing, sets, shearling, succeed, tiny_runs,
    write_model, write_tiny_source,
};
use serde_json::{Value, json};
use shearling::run_dir::RunLock;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An empty folder to run in; what is put there before the command is all that may be there after it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn at(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// A source model in this folder, with keys of its `config.json` changed.
    fn source(&self, changes: Value) -> PathBuf {
        let folder = self.path().join("source");
        write_tiny_source(&folder);
        edit_json(&folder.join("config.json"), changes);
        folder
    }

    /// Runs a command that must be refused with all of `named` in its message; all that it said.
    fn refuses(&self, arguments: &[impl AsRef<str>], named: &[&str]) -> String {
        let before = listing(self.path());
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let output = shearling(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let said = format!("{arguments:?}\n{stderr}");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
        assert!(!stderr.contains("panicked") && !stderr.contains("warning"), "{said}");
        assert!(output.stdout.is_empty(), "an error is no data: {said}");
        let error = &stderr[stderr.find("error: ").unwrap()..];
        for name in named {
            assert!(error.contains(name), "{name:?} is not in: {said}");
        }
        assert_eq!(listing(self.path()), before, "something was written: {said}");
        said
    }

    /// `prune` of `source` with the tiny configuration, adapted to the source of [`write_tiny_source`].
    fn prune(&self, source: &Path, overrides: &[(&str, &str)]) -> Vec<String> {
        let common = [
            ("run.directory", self.at("run")),
            ("run.device", "cpu".to_string()),
            ("model.source", source.display().to_string()),
            ("data.path", data_path()),
            ("mixer.kind", "static".to_string()),
            ("target.hidden_size", "24".to_string()),
            ("target.intermediate_size", "32".to_string()),
            ("target.num_hidden_layers", "2".to_string()),
            ("target.num_attention_heads", "3".to_string()),
        ];
        let own = overrides.iter().map(|(key, value)| (*key, value.to_string()));
        // The static mixer reads no references, so the file that the configuration names is never asked for.
        let mut text = std::fs::read_to_string(config("tiny-prune.toml")).unwrap();
        text = text.lines().filter(|line| !line.starts_with("reference_file")).collect::<Vec<_>>().join("\n");
        let file = self.path().join("prune.toml");
        std::fs::write(&file, text).unwrap();
        let mut arguments = vec!["prune".to_string(), "--config".to_string(), file.display().to_string()];
        arguments.extend(sets(common.into_iter().chain(own)));
        arguments
    }

    fn refuses_prune(&self, source: &Path, overrides: &[(&str, &str)], named: &[&str]) -> String {
        self.refuses(&self.prune(source, overrides), named)
    }
}

/// The same command without a fault: what the others are refused for is their fault alone.
#[test]
fn the_command_that_the_others_spoil_is_fine() {
    let place = Place::new();
    let source = place.source(json!({}));
    let arguments =
        place.prune(&source, &[("train.steps", "1"), ("train.warmup_steps", "0"), ("masks.warmup_steps", "1")]);
    let output = shearling(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.path().join("run/pruned/model.safetensors").is_file());
}

#[test]
fn a_missing_or_truncated_shard_names_the_file() {
    let place = Place::new();
    let source = place.path().join("source");
    copy_folder(&fixture("hf/llama2-mha-sharded"), &source);
    let shard = source.join("model-00002-of-00003.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    place.refuses_prune(&source, &[], &["model-00002-of-00003.safetensors", "not a whole safetensors file"]);
    std::fs::write(&shard, &bytes[..5]).unwrap();
    let model = source.display().to_string();
    place.refuses(&["eval", &model, "--data", &data_path()], &["model-00002-of-00003.safetensors"]);
    std::fs::remove_file(&shard).unwrap();
    place.refuses_prune(&source, &[], &["model-00002-of-00003.safetensors"]);
    place.refuses(&["inspect", "model", &model], &["model-00002-of-00003.safetensors"]);
}

#[test]
fn weights_that_the_config_does_not_describe_are_named() {
    let place = Place::new();
    let source = place.source(json!({ "num_hidden_layers": 4, "intermediate_size": 40 }));
    let named = ["model.layers.3.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight", "48"];
    place.refuses_prune(&source, &[], &named);
}

#[test]
fn a_config_that_cannot_be_read_as_meant_names_key_and_line() {
    let place = Place::new();
    let text = std::fs::read_to_string(config("tiny-prune.toml")).unwrap();
    let file = place.at("config.toml");
    let line = 1 + text.lines().position(|line| line.starts_with("learning_rate = 1e-3")).unwrap();
    let cases = [
        (text.replace("learning_rate = 1e-3", "learning_rat = 1e-3"), "did you mean `train.learning_rate`?"),
        (
            text.replace("learning_rate = 1e-3", "learning_rate = 'fast'"),
            "`train.learning_rate` expects a number, found the text \"fast\"",
        ),
        (text.replace("learning_rate = 1e-3", "learning_rate 1e-3"), "key with no value"),
    ];
    for (text, reason) in cases {
        std::fs::write(&file, text).unwrap();
        place.refuses(&["prune", "--config", &file], &["config.toml", &format!("line {line}"), "learning_rat", reason]);
        place.refuses(&["plan", "--config", &file], &["config.toml", reason]);
    }
    std::fs::write(&file, text.replace("[train]", "[trian]")).unwrap();
    place.refuses(&["prune", "--config", &file], &["config.toml", "trian", "did you mean `train`?"]);
    place.refuses(&["prune", "--config", &place.at("none.toml")], &["none.toml", "No such file"]);
    place.refuses(&["prune"], &["--config"]);
}

#[test]
fn a_bad_override_is_quoted() {
    let place = Place::new();
    let source = place.source(json!({}));
    let cases: [(&str, &[&str]); 6] = [
        ("train.steps", &["no '='", "--set table.key=value"]),
        ("=3", &["the key", "--set table.key=value"]),
        ("train.steps.more=3", &["steps is a value"]),
        ("train.stepz=3", &["no key `train.stepz`", "did you mean `train.steps`?"]),
        ("train.steps=many", &["`train.steps` expects a whole number", "the text \"many\""]),
        ("mixer.kind=dynamik", &["`mixer.kind` does not know \"dynamik\"", "did you mean \"dynamic\"?"]),
    ];
    for (set, reasons) in cases {
        let mut arguments = place.prune(&source, &[]);
        arguments.extend(["--set".to_string(), set.to_string()]);
        let quoted = format!("--set {set}");
        place.refuses(&arguments, &[&[quoted.as_str()], reasons].concat());
    }
}

#[test]
fn a_target_that_cannot_be_reached_names_key_and_both_values() {
    let place = Place::new();
    let source = place.source(json!({}));
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case; 8] = [
        // It could be trained, but transformers 5 would not load it.
        (&[("target.hidden_size", "25")], &["hidden_size = 25", "num_attention_heads = 3", "transformers"]),
        (&[("target.hidden_size", "40")], &["hidden_size = 40", "source's 32"]),
        (&[("target.num_hidden_layers", "5")], &["num_hidden_layers = 5", "source's 3"]),
        (
            &[("target.num_attention_heads", "3"), ("target.num_key_value_heads", "2")],
            &["num_attention_heads = 3", "num_key_value_heads = 2"],
        ),
        (
            &[("target.num_attention_heads", "4"), ("target.num_key_value_heads", "2")],
            &["4 / 2 = 2", "num_attention_heads"],
        ),
        (&[("target.head_dim", "4")], &["head_dim = 4", "source's 8"]),
        (&[("target.intermediate_size", "0")], &["intermediate_size = 0"]),
        (&[("target.hidden_size", "-8")], &["hidden_size = -8"]),
    ];
    for (overrides, named) in cases {
        place.refuses_prune(&source, overrides, named);
    }
}

#[test]
fn token_ids_the_model_does_not_have_are_refused() {
    let place = Place::new();
    let source = place.path().join("source");
    write_model(&source, &families().remove(0).1, 1);
    let named = ["token id 299", "below 64 (vocab_size)", "tokenizer.json"];
    place.refuses_prune(&source, &[], &named);
    place.refuses(&["eval", &source.display().to_string(), "--data", &data_path()], &named);

    let place = Place::new();
    let source = place.source(json!({}));
    let damaged = place.path().join("data");
    copy_folder(data(), &damaged);
    edit_json(&damaged.join("manifest.json"), json!({ "vocab_size": 100 }));
    let path = damaged.display().to_string();
    let named = [path.as_str(), "manifest.json", "max_token_id 299 is not below vocab_size 100"];
    place.refuses_prune(&source, &[("data.path", &path)], &named);
    place.refuses(&["eval", &source.display().to_string(), "--data", &path], &named);
}

#[test]
fn damaged_data_names_the_file() {
    let place = Place::new();
    let source = place.source(json!({}));
    let damaged = place.path().join("data");
    copy_folder(data(), &damaged);
    let path = damaged.display().to_string();
    let shard = validation_file(&damaged);
    let name = shard.file_name().unwrap().to_str().unwrap();
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() - 7]).unwrap();
    place.refuses_prune(&source, &[("data.path", &path)], &[name, "damaged", "prepare the dataset again"]);
    std::fs::remove_file(&shard).unwrap();
    place.refuses_prune(&source, &[("data.path", &path)], &[name]);
    place.refuses(&["data", "inspect", &path], &[name]);
    std::fs::write(damaged.join("manifest.json"), "{\"format_version\": 1, ").unwrap();
    place.refuses_prune(&source, &[("data.path", &path)], &["manifest.json"]);
    std::fs::remove_file(damaged.join("manifest.json")).unwrap();
    place.refuses_prune(&source, &[("data.path", &path)], &["manifest.json"]);
}

/// A file of validation rows of a prepared folder.
fn validation_file(data: &Path) -> PathBuf {
    let manifest: Value = serde_json::from_slice(&std::fs::read(data.join("manifest.json")).unwrap()).unwrap();
    data.join(manifest["domains"][0]["validation"]["files"][0]["name"].as_str().unwrap())
}

#[test]
fn an_empty_domain_is_named() {
    let place = Place::new();
    for name in ["good", "none", "blank"] {
        std::fs::create_dir(place.path().join(name)).unwrap();
    }
    let document =
        |index: i32| format!("{}\n", json!({ "text": format!("{index} words that are said again. ").repeat(40) }));
    std::fs::write(place.path().join("good/a.jsonl"), (0..30).map(document).collect::<String>()).unwrap();
    std::fs::write(place.path().join("blank/a.jsonl"), "{\"text\": \"\"}\n{\"text\": \"\"}\n").unwrap();
    let out = place.at("out");
    for empty in ["none", "blank"] {
        let domains = ["good", empty].map(|name| format!("{name}={}", place.at(name)));
        let common = ["--train-tokenizer", "270", "--sequence-length", "16", "--out", &out];
        let arguments = [&["data", "prepare", "--domain", &domains[0], "--domain", &domains[1]], &common[..]].concat();
        place.refuses(&arguments, &[&format!("domain `{empty}` is empty")]);
    }
    let arguments = ["data", "prepare", "--domain", "good", "--train-tokenizer", "270", "--out", &out];
    place.refuses(&arguments, &["--domain good", "name=path"]);
    let arguments = ["data", "prepare", "--train-tokenizer", "270", "--out", &out];
    place.refuses(&arguments, &["no domain given", "--domain", "--from"]);
}

#[test]
fn proportions_must_be_those_of_the_domains() {
    let place = Place::new();
    let source = place.source(json!({}));
    let names = domain_names();
    let share = |index: usize| format!("mixer.proportions.{}", names[index]);
    let (first, second, third) = (share(0), share(1), share(2));
    let short: &[(&str, &str)] = &[(&first, "0.5"), (&second, "0.2"), (&third, "0.2")];
    place.refuses_prune(&source, short, &["mixer.proportions sum to 0.9", "expected 1"]);
    let negative: &[(&str, &str)] = &[(&first, "1.5"), (&second, "-0.5"), (&third, "0.0")];
    place.refuses_prune(&source, negative, &[&second, "-0.5"]);
    let unknown: &[(&str, &str)] = &[(&first, "0.5"), (&second, "0.3"), ("mixer.proportions.poems", "0.2")];
    place.refuses_prune(&source, unknown, &["mixer.proportions", "\"poems\"", &names.join(", ")]);
    let missing: &[(&str, &str)] = &[(&first, "0.5"), (&second, "0.5")];
    place.refuses_prune(&source, missing, &["mixer.proportions", &format!("{:?}", names[2])]);
    let much: &[(&str, &str)] = &[(&first, "0.9"), (&second, "0.2")];
    place.refuses_prune(&source, much, &["mixer.proportions sum to 1.1", "expected 1"]);
}

fn domain_names() -> Vec<String> {
    let manifest: Value = serde_json::from_slice(&std::fs::read(data().join("manifest.json")).unwrap()).unwrap();
    manifest["domains"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_mixer_without_its_references_says_how_to_measure_them() {
    let place = Place::new();
    let source = place.source(json!({}));
    place.refuses_prune(&source, &[("mixer.kind", "dynamic")], &["mixer.reference_loss", "--write-reference"]);
    let absent = place.at("absent.json");
    let dynamic = |file| [("mixer.kind", "dynamic"), ("mixer.reference_file", file)];
    place.refuses_prune(&source, &dynamic(&absent), &["absent.json", "No such file"]);
    let file = place.at("reference.json");
    std::fs::write(&file, json!({ "reference_loss": { "poems": 2.0 } }).to_string()).unwrap();
    place.refuses_prune(&source, &dynamic(&file), &["mixer.reference_file", &file, "\"poems\""]);
    std::fs::write(&file, "2.0").unwrap();
    place.refuses_prune(&source, &dynamic(&file), &["reference.json", "reference_loss", "--write-reference"]);
}

#[test]
fn nothing_that_exists_is_written_over() {
    let place = Place::new();
    let source = place.source(json!({}));
    std::fs::create_dir(place.path().join("run")).unwrap();
    std::fs::write(place.path().join("run/thesis.txt"), "mine").unwrap();
    let refused = place.refuses_prune(&source, &[], &[&place.at("run"), "exists already", "run.directory"]);
    assert!(!refused.contains("--resume"), "no run is there: {refused}");
    std::fs::copy(tiny_runs().join("prune/resolved.toml"), place.path().join("run/resolved.toml")).unwrap();
    place.refuses_prune(&source, &[], &["exists already", &format!("--resume {}", place.at("run"))]);
    // Who holds a lock is not told everywhere.
    if Path::new("/proc/locks").exists() {
        std::fs::create_dir(place.path().join("held")).unwrap();
        let _lock = RunLock::acquire(&place.path().join("held")).unwrap();
        let held = [("run.directory", place.at("held")), ("prune.method", "activations".to_string())];
        let held: Vec<(&str, &str)> = held.iter().map(|(key, value)| (*key, value.as_str())).collect();
        place.refuses_prune(&source, &held, &["run.lock", "is in use by process", &std::process::id().to_string()]);
    }
    let refused = place.refuses(&["demo", "--out", &place.at("run")], &["exists already; choose another --out"]);
    assert!(!refused.contains("--resume") && !refused.contains("run.directory"), "{refused}");

    copy_folder(data(), &place.path().join("data"));
    std::fs::create_dir(place.path().join("text")).unwrap();
    std::fs::write(place.path().join("text/a.txt"), "some words\n".repeat(500)).unwrap();
    let (domain, out) = (format!("text={}", place.at("text")), place.at("data"));
    let prepare = ["data", "prepare", "--domain", &domain, "--out", &out, "--train-tokenizer", "270"];
    place.refuses(&prepare, &[&out, "already exists"]);

    for run in ["prune", "pretrain"] {
        let run = tiny_runs().join(run).display().to_string();
        place.refuses(&["export", &run, "--out", &out], &[&out, "already exists"]);
    }
}

#[test]
fn a_grouped_model_is_neither_pruned_nor_pretrained() {
    let place = Place::new();
    let source = place.source(json!({}));
    let grouped = place.at("grouped");
    succeed(&["lte", "group", &source.display().to_string(), "--out", &grouped, "--expert-size", "16"]);
    let said = [&grouped[..], "model.source", "lte.safetensors", "shearling lte train"];
    place.refuses_prune(Path::new(&grouped), &[], &[&said[..], &["Prune and pretrain the model"]].concat());
    let mut pretrain = place.prune(Path::new(&grouped), &[]);
    pretrain[0] = "pretrain".to_string();
    pretrain[2] = config("tiny-pretrain.toml").display().to_string();
    place.refuses(&pretrain, &said);
}

#[test]
fn only_a_run_that_can_go_on_is_resumed() {
    let place = Place::new();
    let folder = place.at("folder");
    std::fs::create_dir(&folder).unwrap();
    place.refuses(&["prune", "--resume", &folder], &[&folder, "not a run folder", "resolved.toml"]);
    let absent = place.at("absent");
    place.refuses(&["pretrain", "--resume", &absent], &[&absent, "does not exist"]);

    let run = place.path().join("run");
    copy_folder(&tiny_runs().join("pretrain"), &run);
    let path = run.display().to_string();
    let other = format!("{path} is a pretrain run; resume with: shearling pretrain --resume {path}");
    place.refuses(&["prune", "--resume", &path], &[&other]);
    let pruning = tiny_runs().join("prune").display().to_string();
    let other = format!("{pruning} is a prune run; resume with: shearling prune --resume {pruning}");
    place.refuses(&["pretrain", "--resume", &pruning], &[&other]);
    let other = ["pretrain", "--resume", &path, "--set", "train.learning_rate=0.5"];
    place.refuses(&other, &["train.learning_rate: was 0.002, now 0.5", "new run"]);
    let manifest = run.join("checkpoints/step-00000020/manifest.json");
    let state = run.join("checkpoints/step-00000020/state.json");
    std::fs::write(&state, "{").unwrap();
    place.refuses(&["export", &format!("{path}@20"), "--out", &place.at("out")], &["step-00000020", "state.json"]);
    std::fs::remove_file(manifest).unwrap();
    place.refuses(&["export", &path, "--out", &place.at("out")], &[&path, "no good checkpoint"]);
    std::fs::remove_dir_all(run.join("checkpoints")).unwrap();
    place.refuses(&["pretrain", "--resume", &path], &[&path, "no good checkpoint to resume from"]);
}

#[test]
fn a_step_that_is_not_there_is_refused_with_those_that_are() {
    let place = Place::new();
    let (run, out) = (tiny_runs().join("prune").display().to_string(), place.at("out"));
    place.refuses(&["export", &format!("{run}@7"), "--out", &out], &[&run, "no checkpoint of step 7", "40]"]);
    place.refuses(&["export", &format!("{run}@last"), "--out", &out], &["@last", "step number"]);
    place.refuses(&["inspect", "masks", &format!("{run}@7")], &["no checkpoint or mask snapshot of step 7", "40]"]);
    let run = tiny_runs().join("pretrain").display().to_string();
    place.refuses(&["inspect", "masks", &run], &["has no masks", "only a run of `prune` has"]);
}

#[test]
fn a_model_folder_without_usable_weights_says_what_to_do() {
    let place = Place::new();
    let absent = place.path().join("absent");
    place.refuses_prune(&absent, &[], &["absent/config.json", "does not exist"]);
    let source = place.source(json!({}));
    std::fs::rename(source.join("model.safetensors"), source.join("pytorch_model.bin")).unwrap();
    place.refuses_prune(&source, &[], &["pytorch_model.bin", "safetensors", "save_pretrained"]);
    std::fs::remove_file(source.join("pytorch_model.bin")).unwrap();
    place.refuses_prune(&source, &[], &["model.safetensors", "model.safetensors.index.json"]);
    std::fs::write(source.join("config.json"), "{\"architectures\": [").unwrap();
    place.refuses_prune(&source, &[], &["config.json", "not valid JSON"]);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases = [
        (json!({ "architectures": ["GPT2LMHeadModel"] }), ["architectures", "GPT2LMHeadModel", "LlamaForCausalLM"]),
        (json!({ "hidden_act": "gelu_new" }), ["hidden_act", "gelu_new", "silu"]),
        (json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }), ["rope_type", "yarn", "llama3"]),
    ];
    for (changes, named) in cases {
        let place = Place::new();
        let source = place.source(changes);
        place.refuses_prune(&source, &[], &[&["config.json"], &named[..]].concat());
        place.refuses(&["inspect", "model", &source.display().to_string()], &named);
    }
}

#[test]
fn rows_longer_than_the_model_takes_are_refused() {
    let place = Place::new();
    let source = place.source(json!({ "max_position_embeddings": 16 }));
    let named = ["rows of 32 tokens", "at most 16 (max_position_embeddings)", "--sequence-length"];
    place.refuses_prune(&source, &[], &named);
    place.refuses(&["eval", &source.display().to_string(), "--data", &data_path()], &named);
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let place = Place::new();
    let source = place.source(json!({}));
    let mut arguments = place.prune(&source, &[]);
    arguments.extend(["--device".to_string(), "gpu".to_string()]);
    place.refuses(&arguments, &["\"gpu\"", "auto, cpu, cuda or cuda:N"]);
    let (device, reason) = match tch::Cuda::is_available() {
        false => ("cuda".to_string(), "doctor"),
        true => (format!("cuda:{}", tch::Cuda::device_count()), "CUDA devices"),
    };
    *arguments.last_mut().unwrap() = device.clone();
    place.refuses(&arguments, &[&format!("{device:?}"), reason]);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_work() {
    let place = Place::new();
    let source = place.source(json!({})).display().to_string();
    let (data, run) = (data_path(), tiny_runs().join("prune").display().to_string());
    // A file stands where a folder is needed.
    std::fs::write(place.path().join("file"), "mine").unwrap();
    let path = place.at("file/e.json");
    let eval = ["eval", &source, "--data", &data, "--rows", "2"];
    let task = fixture("lm-eval/piqa.jsonl").display().to_string();
    let commands: [(&[&str], &str); 8] = [
        (&eval, "--out"),
        (&eval, "--csv"),
        (&eval, "--write-reference"),
        (&["eval", &source, "--task", &task], "--answers"),
        (&["bench", "latency", &source, "--prompt-tokens", "4", "--new-tokens", "4"], "--out"),
        (&["report", &run], "--out"),
        (&["inspect", "run", &run], "--csv"),
        (&["inspect", "masks", &run], "--csv"),
    ];
    for (command, option) in commands {
        let refused = place.refuses(&[command, &[option, &path]].concat(), &[option, &path, "cannot create a file in"]);
        let worked = ["evaluating", "loading", "tokens/s", ".staging-"].iter().any(|sign| refused.contains(sign));
        assert!(!worked, "{refused}");
        place.refuses(&[command, &[option, &place.at("")]].concat(), &[option, "this is a folder; name a file"]);
    }
}

#[test]
fn a_write_that_fails_after_the_work_loses_nothing_else() {
    let place = Place::new();
    let source = place.source(json!({})).display().to_string();
    // The first file needs as a folder what the second would be: nothing is wrong before the work.
    let (csv, out) = (place.at("new/figures.csv"), place.at("new"));
    let output = shearling(&["eval", &source, "--data", &data_path(), "--rows", "2", "--csv", &csv, "--out", &out]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(&format!("--out {out}")) && !stderr.contains(".staging-"), "{stderr}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("mean of the domains"),
        "the table is printed all the same"
    );
    assert!(std::fs::read_to_string(csv).unwrap().starts_with("model,"));
}

#[test]
fn what_is_no_prepared_data_is_told_so() {
    let place = Place::new();
    let source = place.source(json!({})).display().to_string();
    let named = [source.as_str(), "is not prepared data (it has no manifest.json)", "`shearling data prepare`"];
    place.refuses(&["eval", &source, "--data", &source], &named);
    place.refuses(&["data", "inspect", &source], &named);
    let nowhere = place.at("nowhere");
    place.refuses_prune(
        Path::new(&source),
        &[("data.path", &nowhere)],
        &[&nowhere, "is not prepared data (there is no such folder)"],
    );
}

#[test]
fn a_folder_of_runs_names_them() {
    let place = Place::new();
    let runs = tiny_runs().display().to_string();
    let prune = tiny_runs().join("prune").display().to_string();
    for command in [&["watch"][..], &["report", "--out", &place.at("r.html")], &["inspect", "run"]] {
        place.refuses(&[command, &[&runs]].concat(), &["it holds the runs", &prune, "name one of them"]);
    }
    // A run may be called as a part of one is.
    copy_folder(&tiny_runs().join("prune"), &place.path().join("runs/masks"));
    place.refuses(&["inspect", "run", &place.at("runs")], &["it holds the run", "runs/masks", "name that"]);
}

#[test]
fn a_negative_number_is_judged_by_what_it_is_for() {
    let place = Place::new();
    let source = place.source(json!({})).display().to_string();
    let cases: [(&[&str], &str); 4] = [
        (&["generate", &source, "--prompt", "a", "--temperature", "-1"], "temperature"),
        (&["generate", &source, "--prompt", "a", "--temperature", "1", "--top-p", "-0.5"], "top_p"),
        (&["demo", "--out", &place.at("demo"), "--scale", "-1"], "--scale -1 must be a positive number"),
        (&["plan", "--tflops", "-1"], "--tflops -1 must be a positive number"),
    ];
    for (command, named) in cases {
        let refused = place.refuses(command, &[named]);
        assert!(!refused.contains("unexpected argument"), "{refused}");
    }
}

#[test]
fn questions_that_are_none_name_file_and_line() {
    let place = Place::new();
    let source = place.source(json!({})).display().to_string();
    let file = place.path().join("questions.jsonl");
    let good = r#"{"goal":"g","sol1":"a","sol2":"b","label":1}"#;
    let cases: [(&str, &[&str]); 8] = [
        ("", &["no questions"]),
        ("not json", &["line 1", "not a JSON object"]),
        (&good[..20], &["line 1", "not a JSON object", ", column 20)"]),
        (r#"{"text":"x"}"#, &["line 1", "no known kind", "hellaswag", "arc", "piqa"]),
        (&good.replace(":1}", ":7}"), &["line 1", "\"label\" is 7", "2 choices"]),
        (&format!("{good}\n{}", good.replace("\"b\"", "3")), &["line 2", "\"sol2\" is not a text"]),
        (r#"{"question":"q","answerKey":"A","choices":{"text":[],"label":[]}}"#, &["line 1", "has 0 choices"]),
        (&good.replace("\"g\"", &format!("\"{}\"", "x".repeat(2 << 20))), &["line 1", "bytes"]),
    ];
    for (text, named) in cases {
        std::fs::write(&file, text).unwrap();
        let task = file.display().to_string();
        place.refuses(&["eval", &source, "--task", &task], &[&[task.as_str()], named].concat());
    }
    place.refuses(&["eval", &source, "--task", &place.at("")], &["it is a folder"]);
    place.refuses(&["eval", &source, "--task", &place.at("none.jsonl")], &["cannot open", "none.jsonl"]);

    std::fs::write(&file, good).unwrap();
    let task = file.display().to_string();
    place.refuses(&["eval", &source], &["--data"]);
    place.refuses(&["eval", &source, "--data", &data_path(), "--limit", "3"], &["--task"]);
    place.refuses(&["eval", &source, "--task", &task, "--task", &task], &["\"questions\"", "NAME=FILE"]);
    place.refuses(&["eval", &source, "--task", &task, "--csv", &place.at("")], &["--csv", "folder"]);
    let arc = format!("arc:{task}");
    place.refuses(&["eval", &source, "--task", &arc], &["line 1", "\"question\""]);
}

#[test]
fn models_that_cannot_answer_are_named_before_anything_is_asked() {
    let place = Place::new();
    let source = place.source(json!({}));
    let task = fixture("lm-eval/piqa.jsonl").display().to_string();

    // A tokenizer of another model: its ids are beyond the vocabulary.
    let small = place.path().join("small");
    write_model(&small, &families().remove(0).1, 1);
    std::fs::copy(source.join("tokenizer.json"), small.join("tokenizer.json")).unwrap();
    let small = small.display().to_string();
    place.refuses(&["eval", &small, "--task", &task], &["piqa.jsonl", "line 1", "vocabulary of 64", "tokenizer.json"]);

    // No choice fits into a model of two tokens.
    let short = place.path().join("short");
    copy_folder(&source, &short);
    edit_json(&short.join("config.json"), json!({ "max_position_embeddings": 2 }));
    let short = short.display().to_string();
    place.refuses(&["eval", &short, "--task", &task], &["choice 0", "the model takes 2", "max_position_embeddings"]);

    // Weights that are no numbers give no answers.
    let broken = place.path().join("broken");
    copy_folder(&source, &broken);
    let weights = broken.join("model.safetensors");
    let read = shearling::files::TensorFile::read(&weights, tch::Device::Cpu).unwrap();
    let damaged: Vec<_> = read.tensors.into_iter().map(|(name, tensor)| (name, tensor * f64::NAN)).collect();
    shearling::files::TensorFile::write(&weights, &damaged, &Default::default()).unwrap();
    let broken = broken.display().to_string();
    place.refuses(&["eval", &broken, "--task", &task], &["model.safetensors", "lm_head.weight", "NaN", "damaged"]);

    // All problems of all models at once.
    let bare = place.path().join("bare");
    copy_folder(&source, &bare);
    std::fs::remove_file(bare.join("tokenizer.json")).unwrap();
    let (bare, none, source) = (bare.display().to_string(), place.at("none"), source.display().to_string());
    place.refuses(&["eval", &bare, "--task", &task], &["bare", "tokenizer.json"]);
    let all = ["eval", &source, &bare, &none, &small, "--data", &data_path(), "--task", &task];
    let named = ["3 of 4 models", &bare, "tokenizer.json", &none, "config.json", &small, "token id 299"];
    place.refuses(&all, &named);
}
