//! `shearling eval` as a user meets it: several models side by side, and multiple-choice questions answered as
//! lm-evaluation-harness answers them.

use super::support::{data, data_path, families, fixture, shearling, succeed, tiny_runs, write_model};
use serde_json::{Value, json};
use shearling_domains::{Dataset, Split};
use std::path::Path;

const KINDS: [&str; 3] = ["hellaswag", "arc", "piqa"];

fn answer(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(arguments)).unwrap()
}

/// A tiny model for [`data`], with its tokenizer.
fn model(folder: &Path, seed: u64) -> String {
    let mut config = families().remove(1).1;
    config["vocab_size"] = json!(300);
    write_model(folder, &config, seed);
    std::fs::copy(data().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    folder.display().to_string()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Asks a fixture model all questions; the report and the written answers.
fn asked(name: &str, more: &[&str]) -> (Value, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let answers = folder.path().join("deep/answers.jsonl").display().to_string();
    let path = |name: &str| fixture("lm-eval").join(name).display().to_string();
    let tasks: Vec<String> = KINDS.iter().map(|kind| path(&format!("{kind}.jsonl"))).collect();
    let model = path(name);
    let mut arguments = vec!["eval", &model, "--json", "--device", "cpu", "--answers", &answers];
    tasks.iter().for_each(|task| arguments.extend(["--task", task]));
    arguments.extend(more);
    let report = answer(&arguments);
    let lines = std::fs::read_to_string(&answers).unwrap();
    (report, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// expected.json is what lm_eval 0.4.13 gave: with two families of tokenizers, text cut on the left, a context that ends
/// in a space, one that begins with BOS, letters that are several tokens.
#[test]
fn multiple_choice_answers_are_those_of_the_harness() {
    let expected = std::fs::read(fixture("lm-eval/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for model in ["byte-level", "pieces"] {
        let (report, answers) = asked(model, &[]);
        for (task, kind) in report["tasks"].as_array().unwrap().iter().zip(KINDS) {
            let (expected, found) = (&expected[model][kind], &task["models"][0]);
            assert_eq!((&task["task"], &task["kind"]), (&json!(kind), &json!(kind)));
            for key in ["acc", "acc_norm", "acc_stderr", "acc_norm_stderr"] {
                let (found, expected) = (number(&found[key]), number(&expected[key]));
                assert!((found - expected).abs() < 1e-12, "{model}, {kind}: {key} is {found}, expected {expected}");
            }
            let lines: Vec<&Value> = answers.iter().filter(|line| line["task"] == kind).collect();
            assert_eq!((lines.len(), &found["questions"]), (10, &json!(10)));
            let golden = expected["log_likelihoods"].as_array().unwrap().iter();
            for ((line, golden), right) in lines.iter().zip(golden).zip(expected["answers"].as_array().unwrap()) {
                assert_eq!(&json!([line["acc"], line["acc_norm"]]), right, "{model}, {kind}: {line}");
                let (found, golden) = (line["log_likelihoods"].as_array().unwrap(), golden.as_array().unwrap());
                assert_eq!(found.len(), golden.len());
                for (found, golden) in found.iter().map(number).zip(golden.iter().map(number)) {
                    assert!((found - golden).abs() < 1e-4, "{model}, {kind}: {found} for {golden} in {line}");
                }
            }
        }
    }
}

#[test]
fn answers_do_not_depend_on_the_batch_and_a_limit_takes_the_first() {
    let (_, batches) = asked("byte-level", &["--micro-batch", "16"]);
    let (report, single) = asked("byte-level", &["--micro-batch", "1", "--limit", "3"]);
    assert_eq!((batches.len(), single.len()), (30, 9));
    assert_eq!(report["tasks"][2]["models"][0]["questions"], 3);
    for line in &single {
        let same = |other: &&Value| other["task"] == line["task"] && other["line"] == line["line"];
        let other = batches.iter().find(same).unwrap();
        let scores = |line: &Value| line["log_likelihoods"].as_array().unwrap().iter().map(number).collect::<Vec<_>>();
        for (a, b) in scores(line).into_iter().zip(scores(other)) {
            assert!((a - b).abs() < 1e-4, "{a} alone, {b} in a batch");
        }
    }
    // bf16 rounds, but asks the same questions.
    let (report, rounded) = asked("byte-level", &["--dtype", "bf16", "--limit", "3"]);
    assert_eq!(report["tasks"][0]["models"][0]["questions"], 3);
    let score = |line: &Value| number(&line["log_likelihoods"][0]);
    assert!((score(&rounded[0]) / score(&single[0]) - 1.0).abs() < 0.1, "{} and {}", rounded[0], single[0]);
}

#[test]
fn several_models_stand_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [1, 9].map(|seed| model(&folder.path().join(format!("runs/seed-{seed}/model")), seed));
    let csv = folder.path().join("figures.csv").display().to_string();
    let common = ["--data", &data_path(), "--rows", "6", "--device", "cpu"];
    let task = fixture("lm-eval/piqa.jsonl").display().to_string();
    let task = ["--task", &format!("sheep=piqa:{task}")];
    // A run means the model that it wrote.
    let run = Path::new(&first).parent().unwrap().display().to_string();
    let models = ["eval", &run, &second];
    let report = answer(&[&models[..], &common, &task, &["--json", "--csv", &csv]].concat());
    assert_eq!((&report["data"], &report["bytes_counted"]), (&json!(data_path()), &json!(true)));
    let [source, other] = [&report["models"][0], &report["models"][1]];
    assert_eq!((&source["model"], &other["model"]), (&json!(first), &json!(second)));
    for (domain, reference) in other["domains"].as_array().unwrap().iter().zip(source["domains"].as_array().unwrap()) {
        assert_eq!((&domain["rows"], &domain["tokens"]), (&json!(6), &json!(6 * 31)));
        let (loss, bytes) = (number(&domain["loss"]), number(&domain["bytes"]));
        assert!((number(&domain["perplexity"]) - loss.exp()).abs() < 1e-9 * loss.exp());
        let bits = loss * 6.0 * 31.0 / (std::f64::consts::LN_2 * bytes);
        assert!((number(&domain["bits_per_byte"]) - bits).abs() < 1e-12);
        let difference = loss - number(&reference["loss"]);
        assert!((number(&domain["difference"]) - difference).abs() < 1e-12, "{domain}");
        assert!(number(&domain["difference_standard_error"]) > 0.0);
        assert_eq!(reference["difference"], Value::Null);
    }
    assert_eq!(report["tasks"][0]["task"], "sheep");
    assert_eq!(report["tasks"][0]["models"].as_array().unwrap().len(), 2);

    let figures = std::fs::read_to_string(&csv).unwrap();
    let loss = format!("{second},domain,{},loss,{}", other["domains"][0]["domain"].as_str().unwrap(), {
        other["domains"][0]["loss"].to_string()
    });
    assert!(figures.lines().any(|line| line.starts_with(&loss)), "{loss} is not in {figures}");
    assert!(figures.contains(&format!("{first},task,sheep,acc,")), "{figures}");

    let table = succeed(&[&models[..], &common, &task].concat());
    for text in
        ["seed-1/model", "vs seed-1/model", "perplexity", "bits/byte", "mean of the domains", "sheep", "acc_norm"]
    {
        assert!(table.contains(text), "{text} is not in\n{table}");
    }
    assert!(!table.contains("runs/"), "what all paths share is left out\n{table}");
}

#[test]
fn a_model_of_another_tokenizer_is_warned_of_and_its_own_in_another_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let [own, foreign] = ["own", "foreign"].map(|name| model(&folder.path().join(name), 3));
    let tokenizer: Value =
        serde_json::from_slice(&std::fs::read(data().join("tokenizer.json")).unwrap()).expect("a tokenizer");
    // The same vocabulary in other bytes; and with two tokens in each other's place, of the same size.
    std::fs::write(Path::new(&own).join("tokenizer.json"), format!("{tokenizer:#}")).unwrap();
    let mut swapped = tokenizer;
    let vocabulary = swapped["model"]["vocab"].as_object_mut().unwrap();
    let (one, other) = (vocabulary["a"].clone(), vocabulary["b"].clone());
    vocabulary.insert("a".into(), other);
    vocabulary.insert("b".into(), one);
    std::fs::write(Path::new(&foreign).join("tokenizer.json"), swapped.to_string()).unwrap();

    let output = shearling(&["eval", &own, &foreign, "--data", &data_path(), "--rows", "1", "--device", "cpu"]);
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let warnings: Vec<&str> = stderr.lines().filter(|line| line.contains("another tokenizer")).collect();
    assert_eq!(warnings.len(), 1, "{stderr}");
    let told = warnings[0].contains(&foreign) && warnings[0].contains("2 of 300 ids");
    assert!(told && warnings[0].contains("mean nothing"), "{stderr}");
}

/// One model that predicts nothing: ln 300 per token, whatever the tokens; its bits per byte are known by counting.
#[test]
fn bits_per_byte_count_the_text_of_the_targets() {
    let folder = tempfile::tempdir().unwrap();
    let path = model(&folder.path().join("flat"), 3);
    let weights = folder.path().join("flat/model.safetensors");
    let mut tensors = shearling::files::TensorFile::read(&weights, tch::Device::Cpu).unwrap().tensors;
    for tensor in tensors.values_mut() {
        *tensor = tensor.zeros_like();
    }
    let tensors: Vec<_> = tensors.into_iter().collect();
    shearling::files::TensorFile::write(&weights, &tensors, &Default::default()).unwrap();
    let report = answer(&["eval", &path, "--data", &data_path(), "--rows", "5", "--device", "cpu", "--json"]);

    let dataset = Dataset::open(data()).unwrap();
    for (index, domain) in report["models"][0]["domains"].as_array().unwrap().iter().enumerate() {
        // The data is plain ASCII from a byte-level tokenizer, so decoding gives the bytes wherever a row is cut.
        let manifest = &dataset.manifest().domains[index];
        let all = manifest.validation.text_bytes as f64;
        let bytes = number(&domain["bytes"]);
        let share = 5.0 * 31.0 / (manifest.validation.tokens + manifest.validation.dropped_tokens) as f64;
        assert!((bytes / (all * share) - 1.0).abs() < 0.3, "{bytes} bytes, {} expected about", all * share);
        let decoded = decoded_bytes(&dataset, index, 5);
        assert_eq!(bytes, decoded as f64);
        assert!((number(&domain["loss"]) - 300f64.ln()).abs() < 1e-5);
        let bits = 155.0 * 300f64.log2() / decoded as f64;
        assert!((number(&domain["bits_per_byte"]) / bits - 1.0).abs() < 1e-5);
    }
}

/// Bytes of the text of all tokens but the first of each of the first rows, by decoding.
fn decoded_bytes(dataset: &Dataset, domain: usize, rows: u64) -> usize {
    let tokenizer = shearling::hf::Tokenizer::open(dataset.root()).unwrap();
    let text = |row: u64| {
        let mut ids = Vec::new();
        dataset.read_row(domain, Split::Validation, row, &mut ids).unwrap();
        let ids: Vec<i64> = ids[1..].iter().map(|id| i64::from(*id)).collect();
        let text = tokenizer.decode(&ids, true).unwrap();
        assert!(text.is_ascii(), "{text}");
        text.len()
    };
    (0..rows).map(text).sum()
}

/// So that a report can say whether a run evaluated the same rows.
#[test]
fn references_name_the_data_that_they_are_of() {
    let text = std::fs::read_to_string(tiny_runs().join("reference.json")).unwrap();
    let references: Value = serde_json::from_str(&text).unwrap();
    let data = Dataset::open(data()).unwrap();
    assert_eq!(references["data_fingerprint"], data.fingerprint());
}
