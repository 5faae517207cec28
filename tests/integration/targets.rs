//! `plan` with a need: shapes of an exact size with their costs, the first of which is the one that `init` takes.

use super::support::{config, data_path, fixture, listing, shearling, succeed, write_tiny_source};
use serde_json::Value;
use shearling::config::Target;
use std::path::PathBuf;

/// A folder with nothing but a config.json in `model`.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn with(fixture_name: &str) -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(desk.at("model")).unwrap();
        std::fs::copy(fixture("configs").join(fixture_name), desk.at("model/config.json")).unwrap();
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// `plan MODEL … --json`, with a bandwidth, so that nothing is measured.
    fn plan(&self, more: &[&str]) -> Value {
        let model = self.text("model");
        let answer = succeed(&[&["plan", &model, "--json", "--bandwidth", "1TB/s"], more].concat());
        serde_json::from_str(&answer).unwrap()
    }

    /// Exit code 2, and the message.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = shearling(&[&["plan"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        stderr
    }

    /// What `init` makes of a command that `plan` prints.
    fn init(&self, command: &str) -> Value {
        let words: Vec<&str> = command.split_whitespace().skip(1).collect();
        let out = self.text("small.toml");
        let more = ["--card", "h200", "--out", &out, "--force", "--json"];
        serde_json::from_str(&succeed(&[&words[..], &more].concat())).unwrap()
    }
}

fn rows(answer: &Value) -> &Vec<Value> {
    answer["proposals"].as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn a_number_of_parameters_gives_shapes_and_costs() {
    let desk = Desk::with("llama2-7b.json");
    let before = listing(desk.folder.path());
    let answer = desk.plan(&["--target-params", "1345423360"]);
    assert_eq!(listing(desk.folder.path()), before, "plan writes nothing");
    let rows = rows(&answer);
    assert!((6..=10).contains(&rows.len()), "{answer}");
    // The published shape of Sheared-LLaMA 1.3B in fp16, as its config.json has it: counted by hand.
    let (shape, costs) = (&rows[0]["shape"], &rows[0]["costs"]);
    let sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"].map(|key| &shape[key]);
    assert_eq!(sizes, [2048, 5504, 24, 16].map(Value::from).each_ref());
    assert_eq!(costs["total_parameters"], 1_345_423_360i64);
    let weights = 2.0 * 1_345_423_360.0;
    assert_eq!(number(&costs["weight_bytes"]), weights);
    let cache = |tokens: f64| 2.0 * 24.0 * 16.0 * 128.0 * 2.0 * tokens;
    assert_eq!(number(&costs["cache_bytes_per_1000_tokens"]), cache(1000.0));
    assert_eq!(number(&costs["serve_bytes"]), weights + cache(4096.0));
    // The embedding is looked up, a row of it.
    let read = weights - 2.0 * (32_000.0 - 1.0) * 2048.0 + cache(4096.0);
    assert!((number(&costs["tokens_per_second"]) / (1e12 / read) - 1.0).abs() < 1e-12);
    assert!(number(&costs["flops_of_source"]) < 0.25 && number(&answer["now"]["costs"]["flops_of_source"]) == 1.0);
    assert!(number(&answer["prune_memory_bytes"]) > 3.0 * number(&costs["continue_memory_bytes"]));
    for row in rows {
        let share = number(&row["costs"]["total_parameters"]) / 1_345_423_360.0;
        assert!((share - 1.0).abs() < 0.05, "{row}");
    }
}

#[test]
fn the_first_row_is_what_init_writes_and_so_is_any_other_that_is_picked() {
    for (model, count) in [("llama2-7b.json", "1.3B"), ("llama2-7b.json", "4B"), ("llama3.1-8b.json", "3B")] {
        let desk = Desk::with(model);
        let answer = desk.plan(&["--target-params", count]);
        let command = answer["init"].as_str().unwrap();
        assert!(command.contains("--target-params"), "{command}");
        assert_eq!(desk.init(command)["target"]["shape"], rows(&answer)[0]["shape"], "{model} {count}");
        let count_of_rows = rows(&answer).len();
        for row in 2..=count_of_rows {
            let picked = desk.plan(&["--target-params", count, "--pick", &row.to_string()]);
            let command = picked["init"].as_str().unwrap();
            assert_eq!(desk.init(command)["target"]["shape"], rows(&answer)[row - 1]["shape"], "{command}");
        }
    }
}

#[test]
fn the_table_to_paste_is_the_row_that_is_picked() {
    let desk = Desk::with("llama3.1-8b.json");
    for row in [1, 3] {
        let answer = desk.plan(&["--target-params", "2B", "--pick", &row.to_string()]);
        let table: toml::Table = answer["target"].as_str().unwrap().parse().unwrap();
        let target: Target = table["target"].clone().try_into().unwrap();
        let shape = &rows(&answer)[row - 1]["shape"];
        assert_eq!(shape["hidden_size"], target.hidden_size.unwrap());
        assert_eq!(shape["intermediate_size"], target.intermediate_size.unwrap());
        assert_eq!(shape["num_hidden_layers"], target.num_hidden_layers.unwrap());
        assert_eq!(shape["num_attention_heads"], target.num_attention_heads.unwrap());
        assert_eq!(shape["num_key_value_heads"], target.num_key_value_heads.unwrap());
        let text = succeed(&[
            "plan",
            &desk.text("model"),
            "--target-params",
            "2B",
            "--card",
            "h100",
            "--pick",
            &row.to_string(),
        ]);
        assert!(text.contains(answer["target"].as_str().unwrap()), "{text}");
        assert!(
            text.contains("3350 GB/s of one H100") && text.contains("to learn masks on the source, whatever the shape"),
            "{text}"
        );
    }
}

#[test]
fn a_limit_of_memory_or_time_is_kept_to_and_nearly_reached() {
    for model in ["llama2-7b.json", "llama3.1-8b.json"] {
        let desk = Desk::with(model);
        let gib = 1u64 << 30;
        let answer = desk.plan(&["--target-memory", "4GiB", "--context", "2048", "--batch", "2"]);
        for row in rows(&answer) {
            let share = number(&row["costs"]["serve_bytes"]) / (4 * gib) as f64;
            assert!((0.95..=1.0).contains(&share), "{share}: {row}");
        }
        assert!(answer["init"].as_str().unwrap().contains("--kv-heads"), "{answer}");
        assert_eq!(desk.init(answer["init"].as_str().unwrap())["target"]["shape"], rows(&answer)[0]["shape"]);
        let answer = desk.plan(&["--target-latency", "5ms"]);
        for row in rows(&answer) {
            let seconds = number(&row["costs"]["seconds_per_token"]);
            assert!((0.00475..=0.005).contains(&seconds), "{row}");
        }
        // More room for the cache leaves less for weights.
        let long = desk.plan(&["--target-memory", "4GiB", "--context", "4096", "--batch", "4"]);
        let parameters = |answer: &Value| number(&rows(answer)[0]["costs"]["total_parameters"]);
        let short = desk.plan(&["--target-memory", "4GiB", "--context", "128"]);
        assert!(parameters(&long) < parameters(&short));
        let fp32 = desk.plan(&["--target-memory", "4GiB", "--context", "128", "--dtype", "fp32"]);
        assert!((parameters(&fp32) / parameters(&short) - 0.5).abs() < 0.05);
    }
}

#[test]
fn a_configuration_names_the_model_and_how_it_is_trained() {
    let desk = Desk::with("llama2-7b.json");
    let text = std::fs::read_to_string(config("llama2-7b-to-1.3b.toml")).unwrap();
    let source = text.lines().find(|line| line.starts_with("source")).unwrap();
    let file = desk.text("prune.toml");
    std::fs::write(&file, text.replace(source, &format!("source = '{}'", desk.text("model")))).unwrap();
    let plan = |more: &[&str]| -> Value {
        let common = ["plan", "--config", &file, "--target-params", "1345423360", "--bandwidth", "1TB/s", "--json"];
        serde_json::from_str(&succeed(&[&common, more].concat())).unwrap()
    };
    let answer = plan(&[]);
    let shapes = |answer: &Value| rows(answer).iter().map(|row| row["shape"].clone()).collect::<Vec<_>>();
    assert_eq!(shapes(&answer), shapes(&desk.plan(&["--target-params", "1345423360"])));
    assert!(answer["training"].as_str().unwrap().contains("as the configuration says"), "{answer}");
    let more = plan(&["--set", "train.micro_batch_rows=4"]);
    assert!(number(&more["prune_memory_bytes"]) > number(&answer["prune_memory_bytes"]));
    // As the plan of a run has it.
    let card = ["plan", "--config", &file, "--card", "h200", "--json"];
    let run: Value = serde_json::from_str(&succeed(&card)).unwrap();
    assert_eq!(run["fits"]["gpu_bytes"], answer["prune_memory_bytes"]);
}

#[test]
fn a_tiny_model_has_shapes_too() {
    let desk = Desk { folder: tempfile::tempdir().unwrap() };
    write_tiny_source(&desk.at("model"));
    let answer = desk.plan(&["--target-params", "26k"]);
    let command = answer["init"].as_str().unwrap();
    assert_eq!(desk.init(command)["target"]["shape"], rows(&answer)[0]["shape"]);
}

#[test]
fn shapes_are_tried_and_ordered_by_what_they_lose() {
    let desk = Desk { folder: tempfile::tempdir().unwrap() };
    write_tiny_source(&desk.at("model"));
    let scratch = desk.at("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let (model, data) = (desk.text("model"), data_path());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shearling"));
    command.args(["plan", &model, "--json", "--bandwidth", "1TB/s", "--target-params", "26k"]);
    let command = command.args(["--rank", "2", "--data", &data, "--rank-tokens", "20k"]).env("TMPDIR", &scratch);
    let output = command.env("OMP_NUM_THREADS", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ranked = answer["ranked"].as_array().unwrap();
    let loss = |trial: &Value| trial["loss"].as_f64().unwrap();
    assert!(!ranked.is_empty() && ranked.len() <= 2);
    assert!(ranked.windows(2).all(|pair| loss(&pair[0]) <= loss(&pair[1])), "{ranked:?}");
    assert!(ranked.iter().all(|trial| loss(trial) < trial["cut_loss"].as_f64().unwrap()), "training helps: {ranked:?}");
    assert_eq!(answer["picked"], ranked[0]["row"], "the best is what is printed");
    assert!(listing(&scratch).is_empty(), "nothing is left behind");
    let refused = desk.refused(&[&model, "--target-params", "26k", "--rank", "2"]);
    assert!(refused.contains("--data"), "{refused}");
    let config = desk.at("model/config.json").display().to_string();
    let refused =
        desk.refused(&[&config, "--target-params", "26k", "--rank", "1", "--data", &data, "--bandwidth", "1TB/s"]);
    assert!(refused.contains("with its weights"), "{refused}");
}

#[test]
fn nonsense_is_refused_with_what_is_in_reach() {
    let desk = Desk::with("llama2-7b.json");
    let model = desk.text("model");
    let cases: [(&[&str], &[&str]); 17] = [
        (&["--target-params", "0"], &["350M"]),
        (&["--target-params", "9B"], &["9000000000", "6,738,415,616", "down to"]),
        (&["--target-params", "10k"], &["the nearest has", "In reach are"]),
        (&["--target-memory", "4"], &["4GiB"]),
        (&["--target-memory", "0GiB"], &["4GiB"]),
        (&["--target-memory", "64GiB"], &["64.0 GiB", "14.6 GiB", "down to"]),
        (&["--target-memory", "1MiB"], &["1.0 MiB", "In reach are"]),
        (&["--target-latency", "fast"], &["20ms"]),
        (&["--target-latency", "1us"], &["0.00100 ms", "In reach are"]),
        (&["--target-latency", "9s"], &["9000 ms", "nothing would be pruned"]),
        (&["--target-params", "1B", "--target-memory", "4GiB"], &["cannot be used with"]),
        (&["--target-params", "1B", "--pick", "99"], &["--pick 99", "from 1 to"]),
        (&["--target-params", "1B", "--context", "99999"], &["--context 99999", "4096"]),
        (&["--target-params", "1B", "--bandwidth", "3"], &["3.35TB/s"]),
        (&["--target-params", "1B", "--card", "voodoo2"], &["voodoo2", "h200"]),
        (&["--target-params", "1B", "--tflops", "100"], &["--tflops"]),
        (&["--target-params", "1B", "--set", "train.steps=1"], &["--config"]),
    ];
    for (more, named) in cases {
        let bandwidth: &[&str] = if more.contains(&"--bandwidth") { &[] } else { &["--bandwidth", "1TB/s"] };
        let stderr = desk.refused(&[&[model.as_str()], more, bandwidth].concat());
        for part in named {
            assert!(stderr.contains(part), "{more:?}: {part} in {stderr}");
        }
    }
}

#[test]
fn a_model_a_configuration_and_a_need_go_together_or_are_told_apart() {
    let desk = Desk::with("llama2-7b.json");
    let model = desk.text("model");
    let file = desk.text("prune.toml");
    std::fs::copy(config("tiny-pretrain.toml"), &file).unwrap();
    let need = ["--target-params", "1B", "--bandwidth", "1TB/s"];
    let told = |arguments: &[&str], named: &[&str]| {
        let stderr = desk.refused(arguments);
        for part in named {
            assert!(stderr.contains(part), "{arguments:?}: {part} in {stderr}");
        }
    };
    told(&[&model], &["--config FILE", "--target-memory"]);
    told(&[&[model.as_str(), "--config", &file], &need[..]].concat(), &["MODEL and --config"]);
    told(&need, &["which model?", "--config FILE"]);
    told(&[&[file.as_str()], &need[..]].concat(), &["is a configuration", "--config"]);
    told(&[&model, "--context", "128"], &["--target-params"]);
    told(&[&[desk.text("none").as_str()], &need[..]].concat(), &["does not exist", "config.json"]);
    std::fs::write(desk.at("model/config.json"), "{ \"hidden_size\": ").unwrap();
    told(&[&[model.as_str()], &need[..]].concat(), &["config.json"]);
    std::fs::write(desk.at("model/config.json"), "{ \"model_type\": \"llama\", \"hidden_size\": -1 }").unwrap();
    told(&[&[model.as_str()], &need[..]].concat(), &["config.json"]);
}
