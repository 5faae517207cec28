//! `init`: what it writes is a pair of configurations that `plan` finds nothing wrong with, for whatever it was given.

use super::support::{data, data_path, fixture, listing, shearling, succeed, write_tiny_source};
use serde_json::Value;
use shearling::config::{ComputeDtype, HiddenBasis, Stage, load, validate};
use shearling_domains::MixerKind;
use std::path::{Path, PathBuf};

/// `init` in a folder of its own.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { folder: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// A folder that holds nothing but a config.json.
    fn config_alone(&self, fixture_name: &str) -> String {
        let folder = self.at("model");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(fixture("configs").join(fixture_name), folder.join("config.json")).unwrap();
        folder.display().to_string()
    }

    /// Runs `init MODEL … --out small.toml --json`.
    fn init(&self, model: &str, more: &[&str]) -> Value {
        let out = self.text("small.toml");
        let stdout = succeed(&[&["init", model, "--out", &out, "--json"], more].concat());
        serde_json::from_str(&stdout).unwrap()
    }

    /// Both files have no problem, as `plan` sees them.
    fn plans(&self) {
        for name in ["small.toml", "small-continue.toml"] {
            let output = shearling(&["plan", "--config", &self.text(name), "--sequence-length", "4096", "--json"]);
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{name}: {}\n{stderr}", answer["problems"]);
        }
    }
}

#[test]
fn a_config_json_gives_two_configurations_that_plan_takes() {
    for (model, count) in [("llama2-7b.json", "1.3B"), ("llama3.1-8b.json", "3B")] {
        let desk = Desk::new();
        let folder = desk.config_alone(model);
        let answer = desk.init(&folder, &["--target-params", count, "--card", "h200"]);
        let (source, target) = (&answer["now"], &answer["target"]);
        let ratio = target["total_parameters"].as_f64().unwrap() / if count == "3B" { 3e9 } else { 1.3e9 };
        assert!((ratio - 1.0).abs() < 0.03, "{model}: {target}");
        assert_eq!(source["shape"]["head_dim"], target["shape"]["head_dim"]);
        desk.plans();
        let said: [(&str, &[&str]); 2] = [
            ("small.toml", &["shearling data prepare", "shearling prune --config", "in the source", "\"principal\""]),
            ("small-continue.toml", &["eval", "--write-reference", "# [distill]"]),
        ];
        for (name, said) in said {
            let text = std::fs::read_to_string(desk.at(name)).unwrap();
            said.iter().for_each(|said| assert!(text.contains(said), "{said} in\n{text}"));
        }
        let prune = load(&desk.at("small.toml"), &[]).unwrap();
        assert!(prune.cuts_at_once() && prune.hidden_basis() == HiddenBasis::Principal);
    }
}

#[test]
fn a_budget_of_hours_is_kept() {
    for hours in [30.0, 200.0] {
        let desk = Desk::new();
        let folder = desk.config_alone("llama2-7b.json");
        let text = hours.to_string();
        let answer = desk.init(&folder, &["--target-params", "1.3B", "--card", "h200", "--hours", &text]);
        let stage = |name: &str| answer[name]["seconds"].as_f64().unwrap() / 3600.0;
        // Cut, evaluations and comparison in them; not far below either, so that the time is used.
        let planned = stage("prune") + stage("continue");
        assert!(planned <= 1.03 * hours && planned > 0.8 * hours, "{planned} of {hours} hours: {answer}");
        let warnings = answer["warnings"].as_array().unwrap();
        assert!(warnings.iter().all(|warning| !warning.to_string().contains("--hours")), "{warnings:?}");
    }
}

#[test]
fn the_second_stage_starts_from_what_the_first_writes() {
    let desk = Desk::new();
    let folder = desk.config_alone("llama2-7b.json");
    let masks = ["--masks", "llm-shearing"];
    desk.init(&folder, &[&["--target-params", "2.7B", "--card", "h200", "--tokens", "50B"][..], &masks].concat());
    let prune = load(&desk.at("small.toml"), &[]).unwrap();
    let next = load(&desk.at("small-continue.toml"), &[]).unwrap();
    validate(&prune, Stage::Prune).unwrap();
    validate(&next, Stage::Pretrain).unwrap();
    assert_eq!(next.model.source.unwrap(), prune.run.directory.join("pruned"));
    assert_ne!(next.run.seed, prune.run.seed, "not the same rows in the same order again");
    assert_eq!((prune.run.dtype, next.run.dtype), (ComputeDtype::Auto, ComputeDtype::Auto));
    // The published budget gives the published schedule.
    assert_eq!((prune.train.steps, prune.train.batch_rows, prune.train.learning_rate), (3200, 32, 1e-4));
    assert_eq!((prune.masks.target_warmup(3200), prune.train.warmup_steps), (640, 320));
    assert_eq!(next.train.batch_rows, 256);
}

#[test]
fn prepared_data_decides_rows_shares_and_how_far_it_reaches() {
    let desk = Desk::new();
    let source = desk.at("source");
    write_tiny_source(&source);
    let common = ["--hidden-size", "24", "--data", &data_path(), "--tokens", "10M"];
    let answer = desk.init(&desk.text("source"), &[&common[..], &["--masks", "llm-shearing"]].concat());
    assert_eq!(answer["row_tokens"], 32);
    desk.plans();
    let prune = load(&desk.at("small.toml"), &[]).unwrap();
    let dataset = shearling_domains::Dataset::open(data()).unwrap();
    let text = std::fs::read_to_string(desk.at("small.toml")).unwrap();
    let alike = text.lines().find(|line| line.contains("All domains alike")).unwrap();
    assert!(
        prune.mixer.proportions.is_none() && dataset.domain_names().iter().all(|name| alike.contains(name.as_str()))
    );
    let rows: u64 = (0..3).map(|domain| dataset.rows(domain, shearling_domains::Split::Train)).sum();
    let needed = prune.train.steps * prune.train.batch_rows as u64;
    assert!(needed as f64 <= rows as f64 * prune.data.max_epochs, "{needed} of {rows}");
    assert!(prune.train.steps >= 300, "masks have their steps");
    assert_eq!(prune.target.unwrap().num_attention_heads, Some(3), "heads follow the hidden size");
}

#[test]
fn a_source_is_cut_at_once_and_continued_by_what_it_writes() {
    let desk = Desk::new();
    write_tiny_source(&desk.at("source"));
    let common = ["--target-params", "26k", "--data", &data_path(), "--tokens", "100k"];
    let answer = desk.init(&desk.text("source"), &common);
    assert!(answer["masks"].is_null());
    desk.plans();
    let at = |key: &str, name: &str| format!("{key}={}", desk.text(name));
    let run = |arguments: &[&str]| {
        let output = shearling(&[arguments, &["--set", "run.device=cpu"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        stderr
    };
    let file = desk.text("small.toml");
    let said = run(&["prune", "--config", &file, "--set", &at("run.directory", "cut")]);
    assert!(said.contains("cutting at once by activations") && said.contains("principal basis"), "{said}");
    let told = said.lines().find(|line| line.starts_with("loss on ")).unwrap_or_else(|| panic!("no loss in {said}"));
    assert!(
        told.contains(" held-out rows: ") && told.contains(" before the cut, ") && told.ends_with(" after"),
        "{told}"
    );
    for command in [&["export", "--out", &desk.text("out")][..], &["tensorboard"]] {
        let output = shearling(&[command, &[&desk.text("cut")]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("was cut at once, without a step") && stderr.contains("cut/pruned"), "{stderr}");
    }
    // The folder was held meanwhile; no lock stays.
    assert!(said.contains("peak memory of the whole process") && !desk.at("cut/run.lock").exists(), "{said}");
    // The configuration is kept beside the model; a cut at once cannot be resumed.
    assert!(std::fs::read_to_string(desk.at("cut/resolved.toml")).unwrap().contains("calibration_rows = 128"));
    for command in [
        &["prune", "--resume", &desk.text("cut")][..],
        &["prune", "--config", &file, "--set", &at("run.directory", "cut")],
    ] {
        let output = shearling(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("nothing to resume") || stderr.contains("exists already; choose another"), "{stderr}");
        assert!(!stderr.contains("or resume the run") && !stderr.contains("DIR, remove it"), "{stderr}");
    }
    let inspected = succeed(&["inspect", "run", &desk.text("cut")]);
    assert!(inspected.contains("one-shot cut") && inspected.contains(told), "{told} in {inspected}");
    // Which layers and heads stayed is on the card, told alike by inspect and by the report.
    let history: Value = serde_json::from_slice(&std::fs::read(desk.at("cut/pruned/shearling.json")).unwrap()).unwrap();
    let kept = history["kept"].as_array().unwrap();
    assert_eq!(kept.len() as u64, history["target_shape"]["num_hidden_layers"].as_u64().unwrap());
    for layer in kept {
        let heads: Vec<u64> = layer["heads"].as_array().unwrap().iter().map(|head| head.as_u64().unwrap()).collect();
        assert_eq!(heads.len() as u64, history["target_shape"]["num_attention_heads"].as_u64().unwrap());
        assert!(heads.iter().all(|head| *head < history["source_shape"]["num_attention_heads"].as_u64().unwrap()));
    }
    assert!(inspected.contains("kept by the cut: layers "), "{inspected}");
    let report = succeed(&["report", &desk.text("cut"), "--json"]);
    assert!(report.contains("Layers of the model that was cut: "), "{report}");
    let card = std::fs::read_to_string(desk.at("cut/pruned/README.md")).unwrap();
    assert!(card.contains("## Cost of the cut") && card.contains(" nats per token before the cut, "), "{card}");
    let early =
        shearling(&["pretrain", "--config", &desk.text("small-continue.toml"), "--set", "model.source=nowhere"]);
    assert_eq!(early.status.code(), Some(2));
    let (file, source) = (desk.text("small-continue.toml"), at("model.source", "cut/pruned"));
    let directory = at("run.directory", "run");
    let sets = ["--set", &directory, "--set", &source, "--set", "train.steps=2", "--set", "train.warmup_steps=1"];
    run(&[&["pretrain", "--config", &file][..], &sets].concat());
    assert!(desk.at("run/model/config.json").is_file());
    // What would change is told: the planned run costs nothing but its measurements.
    let plan = succeed(&["plan", "--config", &desk.text("small.toml"), "--card", "h200"]);
    assert!(
        plan.contains("cut at once by activations") && plan.contains("in fp64") && !plan.contains("checkpoint, up")
    );
}

#[test]
fn masks_are_learned_where_that_is_asked_for() {
    let desk = Desk::new();
    write_tiny_source(&desk.at("source"));
    let common = ["--target-params", "26k", "--data", &data_path(), "--tokens", "100k"];
    let answer = desk.init(&desk.text("source"), &[&common[..], &["--masks", "top-k"]].concat());
    assert_eq!(answer["masks"], "top-k");
    desk.plans();
    desk.init(&desk.text("source"), &[&common[..], &["--masks", "llm-shearing", "--force"]].concat());
    desk.plans();
    let run = desk.text("run");
    let quick = ["train.steps=2", "train.warmup_steps=1", "masks.warmup_steps=1", "run.device=cpu"];
    let mut arguments = vec!["prune".to_string(), "--config".into(), desk.text("small.toml")];
    arguments.extend(["--set".to_string(), format!("run.directory={run}")]);
    quick.iter().for_each(|set| arguments.extend(["--set".to_string(), set.to_string()]));
    let output = shearling(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(desk.at("run/pruned/config.json").is_file());
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout, format!("{run}/pruned\n"), "the path alone");
    assert!(stderr.contains("the run took ") && stderr.contains(" in steps, "), "{stderr}");
    let next = format!("next: shearling eval {} {run}/pruned --data {} --rows ", desk.text("source"), data_path());
    assert!(
        stderr.trim_end().lines().last().unwrap().starts_with(&next),
        "not in the folder that the second file reads: {stderr}"
    );
}

#[test]
fn it_tells_the_time_that_plan_tells() {
    let desk = Desk::new();
    write_tiny_source(&desk.at("source"));
    let learned = ["--masks", "llm-shearing", "--hidden-size", "24", "--card", "h200", "--force"];
    let prepared = data_path();
    let with_data = [&learned[..], &["--data", &prepared, "--tokens", "10M"]].concat();
    for more in [&with_data[..], &[&learned[..], &["--sequence-length", "32"]].concat()] {
        let answer = desk.init(&desk.text("source"), more);
        for (stage, name) in [("prune", "small.toml"), ("continue", "small-continue.toml")] {
            let rows: &[&str] = if more.contains(&"--data") { &[] } else { &["--sequence-length", "32"] };
            let file = desk.text(name);
            let planned = shearling(&[&["plan", "--config", &file, "--card", "h200", "--json"], rows].concat());
            let planned: Value = serde_json::from_slice(&planned.stdout).unwrap();
            let seconds = answer[stage]["seconds"].as_f64().unwrap();
            assert!(seconds > 0.0 && answer[stage]["seconds"] == planned["seconds"], "{stage}: {planned}");
            assert_eq!(planned["evaluation_flops"].is_null(), !more.contains(&"--data"));
            let text = std::fs::read_to_string(&file).unwrap();
            let said = if more.contains(&"--data") { " with " } else { ", whose rows are not known yet" };
            assert!(text.lines().any(|line| line.contains(" tokens, about ") && line.contains(said)), "{text}");
        }
    }
}

#[test]
fn files_are_named_by_what_was_asked_for_and_both_numbers_are_told() {
    let desk = Desk::new();
    desk.config_alone("llama2-7b.json");
    // A folder called model is named by the one around it.
    std::fs::rename(desk.at("model"), desk.at("llama")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shearling"));
    let output = command
        .args(["init", "llama", "--target-params", "1.37B", "--card", "h200"])
        .current_dir(desk.folder.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(desk.at("llama-to-1.4B.toml").is_file() && desk.at("llama-to-1.4B-continue.toml").is_file(), "{stdout}");
    let said = stdout.lines().find(|line| line.contains("were asked for")).unwrap();
    assert!(
        said.starts_with(
            "1.37B parameters were asked for; of the shapes that keep the proportions of the source the nearest has 1,3"
        ),
        "{said}"
    );
}

#[test]
fn a_short_budget_cuts_on_fewer_rows_and_says_so() {
    let desk = Desk::new();
    let model = desk.config_alone("llama2-7b.json");
    let rows = |hours: &str| {
        desk.init(&model, &["--target-params", "1.3B", "--card", "h200", "--hours", hours, "--force"]);
        let prune = load(&desk.at("small.toml"), &[]).unwrap().prune;
        (prune.calibration_rows, prune.check_rows)
    };
    assert_eq!(rows("24"), (128, 2));
    assert_eq!(rows("0.02"), (32, 1));
    let text = std::fs::read_to_string(desk.at("small.toml")).unwrap();
    for said in
        ["128 if they fitted in a quarter of the budget", "2 if they fitted", "with 7 domains, a number\n# assumed"]
    {
        assert!(text.contains(said), "{said} in\n{text}");
    }
}

#[test]
fn what_is_named_and_not_there_is_said() {
    let desk = Desk::new();
    let model = desk.config_alone("llama2-7b.json");
    let (out, data, references) = (desk.text("small.toml"), desk.text("smolm2"), desk.text("nope.json"));
    let arguments = ["init", &model, "--target-params", "1.3B", "--card", "h200", "--out", &out];
    let output = shearling(&[&arguments[..], &["--data", &data, "--reference-file", &references]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for part in ["--data: there is no", "rows of 4096 tokens are assumed", "--reference-file: there is no", "nope.json"]
    {
        assert!(stderr.contains(part), "{part} in {stderr}");
    }
}

#[test]
fn a_mix_moves_where_there_are_evaluations_at_which_it_can() {
    for (tokens, expected) in [("50B", MixerKind::Bounded), ("4M", MixerKind::Static)] {
        let desk = Desk::new();
        let folder = desk.config_alone("llama2-7b.json");
        // So many rows that a short run has no time for them before its end.
        let domain =
            serde_json::json!({ "domain": "a", "loss": 2.5, "standard_error": 0.1, "rows": 512, "tokens": 51200 });
        let references = serde_json::json!({ "reference_loss": { "a": 2.5 }, "domains": [domain] });
        std::fs::write(desk.at("references.json"), references.to_string()).unwrap();
        let budget = ["--target-params", "1.3B", "--card", "h200", "--tokens", tokens];
        desk.init(&folder, &[&budget[..], &["--reference-file", &desk.text("references.json")]].concat());
        let next = load(&desk.at("small-continue.toml"), &[]).unwrap();
        let (every, steps) = (next.eval.every_steps, next.train.steps);
        assert_eq!((next.mixer.kind, every < steps), (expected, expected == MixerKind::Bounded), "{every} {steps}");
    }
}

#[test]
fn nothing_is_written_over_and_nothing_half() {
    let desk = Desk::new();
    let folder = desk.config_alone("llama2-7b.json");
    let mine = desk.at("small-continue.toml");
    std::fs::write(&mine, "mine").unwrap();
    let before = listing(desk.folder.path());
    let out = desk.text("small.toml");
    let arguments = ["init", &folder, "--out", &out, "--card", "h200", "--target-params", "1.3B"];
    let output = shearling(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("small-continue.toml") && stderr.contains("--force"), "{stderr}");
    assert_eq!(listing(desk.folder.path()), before);
    succeed(&[&arguments[..], &["--force"]].concat());
    assert_ne!(std::fs::read_to_string(&mine).unwrap(), "mine");
}

#[test]
fn what_cannot_be_is_refused_with_a_way_out() {
    let desk = Desk::new();
    let folder = desk.config_alone("llama2-7b.json");
    let cases: [(&[&str], &[&str]); 8] = [
        (&[], &["nothing to prune", "--target-params"]),
        (&["--target-params", "9B"], &["9000000000", "6,738,415,616"]),
        (&["--target-params", "many"], &["350M"]),
        (&["--target-params", "10k"], &["the nearest has"]),
        (&["--hidden-size", "8192"], &["hidden_size = 8192", "4096"]),
        (&["--hidden-size", "2048", "--hours", "-1"], &["--hours", "positive"]),
        (&["--hidden-size", "2048", "--sequence-length", "99999"], &["max_position_embeddings"]),
        (&["--hidden-size", "2048", "--card", "voodoo2"], &["voodoo2", "h200"]),
    ];
    for (more, named) in cases {
        let out = desk.text("x.toml");
        let mut arguments = vec!["init", &folder, "--out", &out];
        arguments.extend(more);
        if !more.contains(&"--card") {
            arguments.extend(["--card", "h200"]);
        }
        let output = shearling(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {stderr}");
        for part in named {
            assert!(stderr.contains(part), "{more:?}: {part} in {stderr}");
        }
        assert!(!Path::new(&out).exists());
    }
    let output = shearling(&["init", &desk.text("none"), "--target-params", "1B"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"));
}

#[test]
fn completions_know_the_commands_and_their_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(&["completions", shell]);
        for word in ["shearling", "pretrain", "target-params"] {
            assert!(script.contains(word), "{word} in the script for {shell}");
        }
    }
    assert_eq!(shearling(&["completions", "tcsh"]).status.code(), Some(2));
}
