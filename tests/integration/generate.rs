//! `generate` and `bench latency` as a user meets them: the text is the model's, ends where it should, and comes again
//! under the same seed; the numbers of the benchmark belong together.

use super::support::{
    data, edit_json, families, load, logits, shearling, succeed, tensors, write_model, write_tiny_source,
};
use serde_json::{Value, json};
use shearling::files::TensorFile;
use shearling::hf::Tokenizer;
use shearling_masks::Gates;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tch::Tensor;

const PROMPT: &str = "the count of é";

/// A tiny model with its tokenizer, in a run-like folder: `FOLDER/model`.
fn run_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_tiny_source(&model);
    (folder, model)
}

fn json_of(model: &Path, more: &[&str]) -> Value {
    let path = model.display().to_string();
    let all = [&["generate", &path, "--prompt", PROMPT, "--device", "cpu", "--json"], more].concat();
    serde_json::from_str(&succeed(&all)).unwrap()
}

fn ids(answer: &Value) -> Vec<i64> {
    answer["token_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Greedy decoding by the full forward, without a cache.
fn by_full_forwards(model: &Path, count: usize) -> Vec<i64> {
    let loaded = load(model);
    let mut all = Tokenizer::open(model).unwrap().encode(PROMPT, true).unwrap();
    let prompt = all.len();
    for _ in 0..count {
        let found = logits(&loaded, &Tensor::from_slice(&all).unsqueeze(0), Gates::none());
        all.push(found.select(1, -1).argmax(-1, false).int64_value(&[0]));
    }
    all.split_off(prompt)
}

#[test]
fn greedy_text_is_what_full_forwards_say() {
    let (run, model) = run_folder();
    let answer = json_of(&model, &["--max-tokens", "12"]);
    let expected = by_full_forwards(&model, 12);
    assert_eq!(ids(&answer), expected);
    let tokenizer = Tokenizer::open(&model).unwrap();
    let prompt = tokenizer.encode(PROMPT, true).unwrap();
    assert_eq!(prompt[0], 0, "BOS, as the tokenizer puts it");
    assert_eq!(answer["prompt_tokens"], prompt.len());
    let whole = tokenizer.decode(&[prompt, expected].concat(), true).unwrap();
    assert_eq!(format!("{PROMPT}{}", answer["text"].as_str().unwrap()), whole);
    assert_eq!(answer["stop"], "max_tokens");

    // The same by the folder of a run, and as a stream.
    let path = run.path().display().to_string();
    let output = shearling(&["generate", &path, "--prompt", PROMPT, "--max-tokens", "12", "--device", "cpu"]);
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(stdout.trim_end_matches('\n'), answer["text"].as_str().unwrap().trim_end_matches('\n'));
    assert!(stderr.contains("tokens/s") && stderr.contains("greedy decoding, at most 12 new tokens"), "{stderr}");
    assert!(stderr.contains("generated 12 tokens (") && stderr.contains("; reached --max-tokens"), "{stderr}");
    assert!(stderr.contains("no file of the folder names an EOS token"), "{stderr}");
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let (_run, model) = run_folder();
    let draw = |seed: &str| ids(&json_of(&model, &["--temperature", "1", "--seed", seed, "--max-tokens", "24"]));
    let first = draw("1");
    assert_eq!(first, draw("1"));
    assert_ne!(first, draw("2"));
    let narrow = json_of(&model, &["--temperature", "1", "--top-p", "0.000001", "--max-tokens", "12"]);
    assert_eq!(ids(&narrow), by_full_forwards(&model, 12), "a nucleus of one token");
}

#[test]
fn text_ends_at_stop_strings_and_end_of_text_tokens() {
    let (_run, model) = run_folder();
    let whole = json_of(&model, &["--max-tokens", "16"]);
    let text = whole["text"].as_str().unwrap();
    let middle: String = text.chars().skip(text.chars().count() / 2).take(2).collect();
    let stopped = json_of(&model, &["--max-tokens", "16", "--stop", "never", "--stop", &middle]);
    assert_eq!(stopped["stop"], "stop_string");
    assert_eq!(stopped["text"].as_str().unwrap(), text.split(&middle).next().unwrap());

    // Ids that the model will choose: the first of them ends the text.
    let chosen = ids(&whole);
    let end = chosen.iter().position(|id| *id == chosen[5]).unwrap();
    std::fs::write(model.join("generation_config.json"), json!({"eos_token_id": [299_999, chosen[5]]}).to_string())
        .unwrap();
    let ended = json_of(&model, &["--max-tokens", "16"]);
    assert_eq!(ended["stop"], "end_of_text");
    assert_eq!(ids(&ended), chosen[..=end]);
    assert!(text.starts_with(ended["text"].as_str().unwrap()));
}

#[test]
fn suggestions_of_the_folder_are_taken_and_said() {
    let (_run, model) = run_folder();
    let config =
        json!({"do_sample": true, "temperature": 0.7, "top_k": 5, "max_new_tokens": 3, "repetition_penalty": 1.2});
    std::fs::write(model.join("generation_config.json"), config.to_string()).unwrap();
    let answer = json_of(&model, &[]);
    assert_eq!((&answer["temperature"], &answer["top_k"], &answer["new_tokens"]), (&json!(0.7), &json!(5), &json!(3)));
    let path = model.display().to_string();
    let output = shearling(&["generate", &path, "--prompt", PROMPT, "--temperature", "0", "--device", "cpu"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("max_new_tokens as generation_config.json suggests"), "{stderr}");
    assert!(stderr.contains("repetition_penalty: not applied"), "{stderr}");
}

#[test]
fn prompts_come_from_a_file_or_a_pipe() {
    let (run, model) = run_folder();
    let expected = json_of(&model, &["--max-tokens", "6"]);
    let file = run.path().join("prompt.txt");
    std::fs::write(&file, PROMPT).unwrap();
    let (path, file) = (model.display().to_string(), file.display().to_string());
    let common = ["--max-tokens", "6", "--device", "cpu", "--json"];
    let from_file = succeed(&[&["generate", &path, "--prompt-file", &file], &common[..]].concat());
    assert_eq!(serde_json::from_str::<Value>(&from_file).unwrap()["text"], expected["text"]);

    let mut child = Command::new(env!("CARGO_BIN_EXE_shearling"))
        .args([&["generate", &path], &common[..]].concat())
        .env("OMP_NUM_THREADS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // As `echo` writes it.
    child.stdin.take().unwrap().write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["text"], expected["text"]);
}

#[test]
fn the_end_of_the_context_ends_the_text_or_refuses_the_prompt() {
    let (_run, model) = run_folder();
    edit_json(&model.join("config.json"), json!({"max_position_embeddings": 24}));
    let answer = json_of(&model, &["--max-tokens", "1000"]);
    assert_eq!(answer["stop"], "context_full");
    // The last token is chosen by the last position and has none of its own.
    assert_eq!(ids(&answer).len() as i64 + answer["prompt_tokens"].as_i64().unwrap(), 24 + 1);
    refused(&model, &["--prompt", &"word ".repeat(60)], "max_position_embeddings");
}

/// Exit code 2 and a message that says what is wrong.
fn refused(model: &Path, more: &[&str], message: &str) {
    let path = model.display().to_string();
    let output = shearling(&[&["generate", &path, "--device", "cpu"], more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{more:?}\n{stderr}");
    assert!(stderr.contains(message), "{more:?}\n{stderr}");
    assert!(output.stdout.is_empty(), "{more:?}");
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let (run, model) = run_folder();
    refused(&model, &["--prompt", "x", "--top-p", "1.5", "--temperature", "1"], "top_p = 1.5");
    refused(&model, &["--prompt", "x", "--temperature=-1"], "temperature = -1");
    refused(&model, &["--prompt-file", "/none/such"], "cannot open the prompt file");
    refused(&run.path().join("none"), &["--prompt", "x"], "config.json");

    std::fs::write(model.join("generation_config.json"), "{\"top_p\": ").unwrap();
    refused(&model, &["--prompt", "x"], "generation_config.json");
    std::fs::remove_file(model.join("generation_config.json")).unwrap();

    // A tokenizer that knows more tokens than the model.
    let small = run.path().join("small");
    write_model(&small, &families().remove(0).1, 5);
    refused(&small, &["--prompt", "x"], "there is no such file; copy it from the model");
    std::fs::copy(data().join("tokenizer.json"), small.join("tokenizer.json")).unwrap();
    refused(&small, &["--prompt", "the zebra quickly jumps over wxyz"], "another model's");
}

#[test]
fn logits_that_are_no_numbers_give_an_error_and_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = families().remove(0).1;
    config["vocab_size"] = json!(300);
    write_model(folder.path(), &config, 5);
    // Finite weights whose products are not.
    let weights = folder.path().join("model.safetensors");
    let huge = |(name, weight): (String, Tensor)| match name == "model.norm.weight" {
        true => (name, weight.full_like(3e38)),
        false => (name, weight),
    };
    let changed: Vec<(String, Tensor)> = tensors(&weights).into_iter().map(huge).collect();
    TensorFile::write(&weights, &changed, &Default::default()).unwrap();
    std::fs::copy(data().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    refused(folder.path(), &["--prompt", "x"], "not finite");
}

#[test]
fn latency_measures_models_side_by_side() {
    let (run, model) = run_folder();
    let (path, out) = (model.display().to_string(), run.path().join("latency.json").display().to_string());
    let common = ["bench", "latency", &path, &path, "--shape", "tiny:target", "--device", "cpu", "--dtype", "fp32"];
    let lengths = ["--prompt-tokens", "16", "--new-tokens", "4", "--rounds", "2", "--json", "--out", &out];
    let stdout = succeed(&[&common[..], &lengths].concat());
    assert_eq!(std::fs::read_to_string(&out).unwrap(), stdout);
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&answer["device"], &answer["dtype"], &answer["threads"]), (&json!("CPU"), &json!("fp32"), &json!(1)));
    let models = answer["models"].as_array().unwrap();
    assert_eq!(models.len(), 3);
    assert_eq!(models[0]["decode"]["speed_over_first"]["median"], 1.0);
    let bandwidth = answer["memory_bandwidth_bytes_per_second"].as_f64().unwrap();
    for model in models {
        let (prefill, decode) = (&model["prefill"], &model["decode"]);
        let number = |value: &Value| value.as_f64().unwrap();
        assert_eq!((&prefill["tokens"], &decode["context"], &decode["tokens"]), (&json!(16), &json!(16), &json!(4)));
        assert_eq!(number(&model["weight_bytes"]), 4.0 * number(&model["parameters"]));
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(close(number(&prefill["tokens_per_second"]) * number(&prefill["seconds"]), 16.0));
        assert!(close(number(&decode["tokens_per_second"]) * number(&decode["seconds_per_token"]), 1.0));
        let roofline = bandwidth / number(&decode["bytes_per_token"]);
        assert!(close(number(&decode["roofline_tokens_per_second"]), roofline));
        assert!(close(number(&decode["fraction_of_roofline"]) * roofline, number(&decode["tokens_per_second"])));
        assert!(number(&decode["bytes_per_token"]) < number(&model["weight_bytes"]) + 1e6);
    }
    // The others are too small to tell. Null where the system gives no peak.
    let shape = &models[2];
    let weights = shape["weight_bytes"].as_u64().unwrap();
    let peak = &shape["peak_memory_bytes"];
    assert!(peak.is_null() || (weights..4 * weights).contains(&peak.as_u64().unwrap()), "{shape}");
    let path = model.display().to_string();
    let too_long =
        shearling(&["bench", "latency", &path, "--prompt-tokens", "60", "--new-tokens", "5", "--device", "cpu"]);
    assert_eq!(too_long.status.code(), Some(2));
    let stderr = String::from_utf8(too_long.stderr).unwrap();
    assert!(stderr.contains(&format!("exceed the context of {path}, 64 tokens")), "{stderr}");
}

#[test]
fn both_commands_explain_themselves() {
    for (command, options) in [
        (&["generate"][..], &["--prompt", "--temperature", "--top-p", "--top-k", "--seed", "--stop", "--json"][..]),
        (&["bench", "latency"], &["--shape", "--prompt-tokens", "--new-tokens", "--rounds", "--out", "roofline"]),
    ] {
        let help = succeed(&[command, &["--help"]].concat());
        for option in options {
            assert!(help.contains(option), "{command:?} does not mention {option}:\n{help}");
        }
    }
}
