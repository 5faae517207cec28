//! Model folders as people have them: a checkpoint is never used as another network than the one that was trained, what is
//! damaged is blamed on what is damaged, and what is no model folder is told by what it is.

use super::support::{
    config, copy_folder, data, data_path, edit_json, families, fixture, listing, sets, shearling, succeed, tensors,
    write_model, write_tiny_source,
};
use serde_json::{Value, json};
use shearling::files::TensorFile;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

const WEIGHTS: &str = "model.safetensors";

/// A model that fits [`data`], in a temporary folder, and the commands that use it.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { root: tempfile::tempdir().unwrap() };
        write_tiny_source(&place.model());
        place
    }

    fn model(&self) -> PathBuf {
        self.root.path().join("source")
    }

    fn at(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn edit_config(&self, changes: Value) {
        edit_json(&self.model().join("config.json"), changes);
    }

    /// Changes the stored tensors.
    fn edit_weights(&self, edit: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
        let path = self.model().join(WEIGHTS);
        let mut all = tensors(&path);
        edit(&mut all);
        let all: Vec<(String, Tensor)> = all.into_iter().collect();
        std::fs::remove_file(&path).unwrap();
        TensorFile::write(&path, &all, &BTreeMap::from([("format".to_string(), "pt".to_string())])).unwrap();
    }

    /// Stores ones of a shape beside the weights.
    fn add(&self, names: &[&str], shape: &[i64]) {
        self.edit_weights(|all| {
            let ones = || Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
            all.extend(names.iter().map(|name| (name.to_string(), ones())));
        });
    }

    /// `plan`, `prune` or `pretrain` of one step with the tiny configuration of a stage.
    fn run(&self, command: &str, stage: &str, more: &[(&str, i64)]) -> Vec<String> {
        let text = std::fs::read_to_string(config(&format!("tiny-{stage}.toml"))).unwrap();
        let file = self.at(&format!("{stage}.toml"));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("reference_file")).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut arguments = vec![command.to_string(), "--config".to_string(), file];
        arguments.extend(sets([
            ("run.directory", self.at(&format!("{command}-run"))),
            ("run.device", "cpu".to_string()),
            ("model.source", self.model().display().to_string()),
            ("data.path", data_path()),
            ("mixer.kind", "static".to_string()),
            ("train.steps", "1".to_string()),
            ("train.warmup_steps", "0".to_string()),
        ]));
        arguments.extend(sets(more.iter().copied()));
        arguments
    }

    fn prune(&self, command: &str) -> Vec<String> {
        let smaller = [
            ("target.hidden_size", 24),
            ("target.intermediate_size", 32),
            ("target.num_hidden_layers", 2),
            ("target.num_attention_heads", 3),
            ("masks.warmup_steps", 1),
        ];
        self.run(command, "prune", &smaller)
    }

    /// The commands that load weights, on the model of this place.
    fn loading(&self) -> Vec<Vec<String>> {
        let model = self.model().display().to_string();
        let own = |arguments: &[&str]| arguments.iter().map(|argument| argument.to_string()).collect();
        vec![
            own(&["eval", &model, "--data", &data_path(), "--rows", "2"]),
            self.prune("prune"),
            self.run("pretrain", "pretrain", &[]),
            own(&["generate", &model, "--prompt", "a", "--max-tokens", "2", "--dtype", "fp32"]),
            own(&["bench", "latency", &model, "--prompt-tokens", "4", "--new-tokens", "2", "--rounds", "1"]),
        ]
    }

    /// Every command that looks at weights refuses these, with all of `named`; nothing is written.
    fn all_refuse(&self, named: &[&str]) {
        for arguments in self.loading().into_iter().chain([self.prune("plan")]) {
            self.refuses(&arguments, named);
        }
    }

    fn refuses(&self, arguments: &[String], named: &[&str]) -> String {
        let before = listing(self.root.path());
        let output = shearling(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{arguments:?}\n{}{}", text(&output.stdout), text(&output.stderr));
        // `plan` lists what is wrong and goes on; without a model there is nothing to plan.
        let expected = if arguments[0] == "plan" && !output.stdout.is_empty() { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        for part in named {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
        assert_eq!(listing(self.root.path()), before, "something was written: {said}");
        said
    }

    fn refuses_eval(&self, path: &str, named: &[&str]) -> String {
        self.refuses(&["eval", path, "--data", &data_path(), "--rows", "2"].map(str::to_string), named)
    }

    /// Mean loss on a few rows.
    fn loss(&self) -> f64 {
        let model = self.model().display().to_string();
        let said = succeed(&["eval", &model, "--data", &data_path(), "--rows", "2", "--dtype", "fp32", "--json"]);
        serde_json::from_str::<Value>(&said).unwrap()["models"][0]["mean_loss"].as_f64().unwrap()
    }

    /// Tokens of the prompt "a" as `generate` reads it.
    fn prompt_tokens(&self) -> u64 {
        let model = self.model().display().to_string();
        let said = succeed(&["generate", &model, "--prompt", "a", "--max-tokens", "1", "--json"]);
        serde_json::from_str::<Value>(&said).unwrap()["prompt_tokens"].as_u64().unwrap()
    }
}

/// What the others are refused for is their fault alone.
#[test]
fn every_command_takes_a_model_that_is_whole() {
    let place = Place::new();
    for arguments in place.loading().into_iter().chain([place.prune("plan")]) {
        succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn tensors_that_the_config_does_not_use_are_refused_with_the_key_that_rules_them() {
    let place = Place::new();
    place.add(&["model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.q_proj.bias"], &[32]);
    place.all_refuse(&["model.layers.0.self_attn.q_proj.bias", "`attention_bias` is false", "config.json"]);

    let place = Place::new();
    place.edit_config(json!({ "num_hidden_layers": 2 }));
    place.all_refuse(&["model.layers.2.input_layernorm.weight", "and 5 more", "`num_hidden_layers` is 2"]);

    let leftovers = [
        ("model.layers.0.mlp.gate_proj.bias", "`mlp_bias` is false"),
        ("model.layers.0.self_attn.q_norm.weight", "`architectures` is LlamaForCausalLM"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", "merge_and_unload"),
        ("model.layers.0.mlp.up_proj.weight_scale", "quantization_config"),
        ("v_head.summary.weight", "no key of config.json"),
    ];
    for (name, cause) in leftovers {
        let place = Place::new();
        place.add(&[name], &[32]);
        let model = place.model().display().to_string();
        place.refuses_eval(&model, &[name, cause]);
        // The command that only looks shows what there is, and says no.
        let output = shearling(&["inspect", "model", &model]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stdout).contains(cause));
    }
}

#[test]
fn rotary_tables_of_old_exports_change_nothing() {
    let place = Place::new();
    let before = place.loss();
    place.add(&["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"], &[4]);
    assert_eq!(place.loss(), before);
}

#[test]
fn a_stored_head_under_a_tie_must_be_the_embedding() {
    let place = Place::new();
    place.edit_config(json!({ "tie_word_embeddings": true }));
    place.all_refuse(&["lm_head.weight", "`tie_word_embeddings` is true", "model.embed_tokens.weight"]);
    let output = shearling(&["inspect", "model", &place.model().display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "the same that others refuse");

    place.edit_weights(|all| {
        let embedding = all["model.embed_tokens.weight"].copy();
        all.insert("lm_head.weight".to_string(), embedding);
    });
    let tied = place.loss();
    place.edit_weights(|all| drop(all.remove("lm_head.weight")));
    assert_eq!(place.loss(), tied);
    place.edit_config(json!({ "tie_word_embeddings": false }));
    place.all_refuse(&["missing: lm_head.weight", "`tie_word_embeddings` is false"]);
}

/// Tokens that a tokenizer knows and no text is encoded to, as chat-tuned and padded models have them.
#[test]
fn what_counts_of_a_tokenizer_is_the_ids_that_occur() {
    let place = Place::new();
    let tokenizer = place.model().join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&tokenizer).unwrap()).unwrap();
    let added = json!({ "id": 300, "content": "<|pad|>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true });
    file["added_tokens"].as_array_mut().unwrap().push(added);
    std::fs::write(&tokenizer, file.to_string()).unwrap();
    let text = place.root.path().join("text");
    shearling_domains::synthetic::write_domains(&text, 20_000, 1).unwrap();
    let (out, text) = (place.at("data"), text.display().to_string());
    let tokenizer = tokenizer.display().to_string();
    let prepare = ["data", "prepare", "--from", &text, "--tokenizer", &tokenizer, "--out", &out];
    succeed(&[&prepare[..], &["--sequence-length", "32"]].concat());
    let dataset = shearling_domains::Dataset::open(&out).unwrap();
    assert_eq!(dataset.vocab_size(), 301, "one more than the model has");
    let largest = dataset.largest_token_id().unwrap();
    assert!((200..300).contains(&largest), "{largest}");

    let model = place.model().display().to_string();
    let eval = ["eval", &model, "--data", &out, "--rows", "2"];
    succeed(&eval);
    let mut arguments = place.prune("prune");
    arguments.extend(sets([("data.path", &out)]));
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    // More embeddings than tokens.
    place.resize(320);
    succeed(&eval);
    // Fewer than the ids that occur.
    place.resize(i64::from(largest));
    place.refuses(&eval.map(str::to_string), &[&format!("token id {largest}"), "vocab_size", "tokenizer.json"]);
}

impl Place {
    /// Gives the model another vocabulary.
    fn resize(&self, vocab_size: i64) {
        let mut model = families().remove(0).1;
        model["vocab_size"] = json!(vocab_size);
        write_again(&self.model(), &model);
    }
}

fn write_again(folder: &Path, model: &Value) {
    std::fs::remove_file(folder.join(WEIGHTS)).unwrap();
    write_model(folder, model, 5);
}

#[test]
fn numbers_that_are_not_finite_are_found_before_anything_is_computed_with_them() {
    let place = Place::new();
    place.edit_weights(|all| {
        let weight = all.get_mut("model.layers.1.mlp.down_proj.weight").unwrap();
        let _ = weight.narrow(0, 3, 1).fill_(f64::NAN);
    });
    let named = [WEIGHTS, "model.layers.1.mlp.down_proj.weight", "48 NaN", "earlier checkpoint"];
    for arguments in place.loading() {
        place.refuses(&arguments, &named);
    }
    for method in ["magnitude", "activations", "taylor"] {
        for basis in ["units", "principal"] {
            let mut one_shot = place.prune("prune");
            one_shot.extend(sets([("prune.method", method), ("prune.basis", basis)]));
            place.refuses(&one_shot, &named);
        }
    }
    let (model, reference) = (place.model().display().to_string(), place.at("reference.json"));
    let eval = ["eval", &model, "--data", &data_path(), "--rows", "2", "--write-reference", &reference];
    place.refuses(&eval.map(str::to_string), &named);
    // A model before it in the list is not evaluated for nothing.
    let whole = Place::new();
    let eval = ["eval", &whole.model().display().to_string(), &model, "--data", &data_path(), "--rows", "2"];
    let said = place.refuses(&eval.map(str::to_string), &named);
    assert!(!said.contains("evaluating"), "{said}");
}

#[test]
fn losses_that_are_not_finite_are_said_and_make_no_reference() {
    let place = Place::new();
    place.edit_weights(|all| {
        let _ = all.get_mut("model.norm.weight").unwrap().fill_(3e38);
    });
    let (model, reference) = (place.model().display().to_string(), place.at("reference.json"));
    let eval = ["eval", &model, "--data", &data_path(), "--rows", "2", "--dtype", "fp32"];
    let output = shearling(&eval);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("is not finite"), "{said}");
    let asked = [&eval[..], &["--write-reference", &reference]].concat();
    place.refuses(&asked.iter().map(|part| part.to_string()).collect::<Vec<_>>(), &["not written", "not finite"]);
    // What is written first would be gone.
    let twice = [&asked[..], &["--out", &reference]].concat();
    let said = ["--write-reference and --out both name", "name two files"];
    place.refuses(&twice.iter().map(|part| part.to_string()).collect::<Vec<_>>(), &said);
}

#[test]
fn a_file_that_is_something_else_is_told_by_what_it_is() {
    let place = Place::new();
    let model = place.model().display().to_string();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4b\nsize 269060552\n";
    for name in [WEIGHTS, "config.json"] {
        let path = place.model().join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, pointer).unwrap();
        place.refuses_eval(&model, &[name, "a git-lfs pointer", "lfs pull"]);
        std::fs::write(&path, "<!DOCTYPE html><html>").unwrap();
        place.refuses_eval(&model, &[name, "an HTML page"]);
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::write(place.model().join("tokenizer.json"), pointer).unwrap();
    let generate = ["generate", &model, "--prompt", "a"];
    place.refuses(&generate.map(str::to_string), &["tokenizer.json", "a git-lfs pointer"]);
}

#[test]
fn a_byte_order_mark_before_json_is_read_over() {
    let place = Place::new();
    let before = (place.loss(), place.prompt_tokens());
    std::fs::write(place.model().join("tokenizer_config.json"), "{}").unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let path = place.model().join(name);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
    }
    assert_eq!((place.loss(), place.prompt_tokens()), before);
}

#[test]
fn what_is_no_model_folder_says_what_to_give_instead() {
    let place = Place::new();
    place.refuses_eval("HuggingFaceTB/SmolLM2-135M", &["hf download HuggingFaceTB/SmolLM2-135M --local-dir"]);
    let mut from_hub = place.prune("plan");
    from_hub.extend(sets([("model.source", "HuggingFaceTB/SmolLM2-135M")]));
    place.refuses(&from_hub, &["hf download HuggingFaceTB/SmolLM2-135M --local-dir"]);

    let file = place.model().join(WEIGHTS).display().to_string();
    place.refuses_eval(&file, &["it is a file: give the folder", "source"]);
    let parent = place.root.path().display().to_string();
    place.refuses_eval(&parent, &["the model is in", "source: give that folder"]);

    let adapter = place.at("adapter");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(Path::new(&adapter).join("adapter_config.json"), "{}").unwrap();
    place.refuses_eval(&adapter, &["LoRA adapter", "merge_and_unload"]);

    let model = place.model().display().to_string();
    std::fs::rename(place.model().join(WEIGHTS), place.model().join("pytorch_model.bin")).unwrap();
    place.refuses_eval(&model, &["pytorch_model.bin", "safe_serialization=True"]);
    place.edit_config(json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }));
    place.refuses_eval(&model, &["quantization_config", "gptq"]);
}

#[test]
fn an_index_is_believed_only_about_what_the_network_needs() {
    let place = Place { root: tempfile::tempdir().unwrap() };
    copy_folder(&fixture("hf/llama2-mha-sharded"), &place.model());
    let index = place.model().join("model.safetensors.index.json");
    let mut listed: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let map = listed["weight_map"].as_object_mut().unwrap();
    let shard = map.shift_remove("model.norm.weight").unwrap();
    map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_string(), shard);
    std::fs::write(&index, listed.to_string()).unwrap();
    succeed(&["inspect", "model", &place.model().display().to_string()]);
}

#[test]
fn a_target_that_is_the_source_is_refused() {
    let place = Place::new();
    let same = [
        ("target.hidden_size", 32),
        ("target.intermediate_size", 48),
        ("target.num_hidden_layers", 3),
        ("target.num_attention_heads", 4),
        ("masks.warmup_steps", 1),
    ];
    for command in ["plan", "prune"] {
        place.refuses(&place.run(command, "prune", &same), &["[target]", "nothing would be pruned"]);
    }
}

#[cfg(unix)]
#[test]
fn what_is_written_from_a_read_only_folder_may_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let files = || std::fs::read_dir(place.model()).unwrap().map(|entry| entry.unwrap().path());
    files().for_each(|path| set(&path, 0o444));
    set(&place.model(), 0o555);
    let arguments = place.prune("prune");
    succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    set(&place.model(), 0o755);
    let written = place.root.path().join("prune-run/pruned");
    let card = std::fs::read_to_string(written.join("README.md")).unwrap();
    assert!(card.contains("\n# source pruned to ") && card.contains("(2 layers, hidden size 24)"), "{card}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(mode(&written) & 0o200 != 0);
    for entry in std::fs::read_dir(&written).unwrap() {
        let path = entry.unwrap().path();
        assert!(mode(&path) & 0o200 != 0, "{}: {:o}", path.display(), mode(&path));
    }
}

#[test]
fn special_tokens_are_shown_and_used_as_the_folder_says() {
    let place = Place::new();
    let model = place.model().display().to_string();
    let tokenizer = shearling::hf::Tokenizer::open(&place.model()).unwrap();
    let mark = tokenizer.token(0).unwrap();
    let say = |flags: Value| {
        let mut file = json!({ "bos_token": mark, "eos_token": mark });
        file.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        std::fs::write(place.model().join("tokenizer_config.json"), file.to_string()).unwrap();
    };
    place.edit_config(json!({ "bos_token_id": null, "eos_token_id": null }));
    let inspected = || succeed(&["inspect", "model", &model]);
    say(json!({ "add_bos_token": false }));
    let without = place.prompt_tokens();
    assert!(inspected().contains(&format!("BOS: 0 {mark:?}, not put before a text")), "{}", inspected());
    say(json!({ "add_bos_token": true }));
    assert_eq!(place.prompt_tokens(), without + 1);
    assert!(inspected().contains(&format!("BOS: 0 {mark:?}, put before each text")), "{}", inspected());
    let object: Value = serde_json::from_str(&succeed(&["inspect", "model", &model, "--json"])).unwrap();
    assert_eq!((&object["bos"]["ids"], &object["eos"]["added"]), (&json!([0]), &json!(false)));
}

#[test]
fn eval_says_how_many_of_the_rows_it_read() {
    let place = Place::new();
    let dataset = shearling_domains::Dataset::open(data()).unwrap();
    let all = dataset.rows(0, shearling_domains::Split::Validation);
    assert!(all > 2);
    let model = place.model().display().to_string();
    let arguments = ["eval", &model, "--data", &data_path(), "--rows", "2"];
    assert!(succeed(&arguments).contains(&format!("2 of {all}")));
    let object: Value = serde_json::from_str(&succeed(&[&arguments[..], &["--json"]].concat())).unwrap();
    assert_eq!(object["models"][0]["domains"][0]["rows_available"], all);
}
