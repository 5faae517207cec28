//! The binary as a user meets it: help, exit codes, what is on stdout, and the whole job from source to continued model.

use super::support::{
    config, copy_folder, data, data_path, listing, sets, shearling, succeed, tensors, tiny_runs, write_tiny_source,
};
use serde_json::Value;
use shearling::files::TensorFile;
use shearling::hf::Checkpoint;
use shearling::model::count::ParameterCount;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn json(arguments: &[&str]) -> Value {
    let stdout = succeed(arguments);
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{stdout}"))
}

fn run(name: &str) -> String {
    tiny_runs().join(name).display().to_string()
}

fn parameters(folder: &Path) -> i64 {
    ParameterCount::of(Checkpoint::open(folder).unwrap().model()).total()
}

#[test]
fn every_command_explains_itself() {
    let commands: [(&[&str], &[&str]); 16] = [
        (&[], &["doctor", "data", "plan", "prune", "pretrain", "export", "eval", "inspect", "watch", "demo"]),
        (&["doctor"], &["--device", "--json"]),
        (&["data"], &["prepare", "inspect"]),
        (
            &["data", "prepare"],
            &["--domain", "--from", "--out", "--tokenizer", "--train-tokenizer", "--sequence-length"],
        ),
        (&["data", "inspect"], &["--verify", "--preview", "--json"]),
        (&["plan"], &["--config", "--set", "--tokens-per-second", "--tflops", "--json"]),
        (&["prune"], &["--config", "--set", "--resume", "--device", "--tensorboard", "--stop-at"]),
        (&["pretrain"], &["--config", "--set", "--resume", "--device", "--tensorboard", "--stop-at"]),
        (&["export"], &["RUN@STEP", "--out", "--dtype"]),
        (&["eval"], &["--data", "--rows", "--task", "--limit", "--answers", "--csv", "--write-reference", "--json"]),
        (&["inspect"], &["model", "masks", "run"]),
        (&["inspect", "masks"], &["RUN@STEP", "--against", "--csv", "--json"]),
        (&["inspect", "run"], &["--csv", "--json"]),
        (&["watch"], &["--once", "--interval", "--json"]),
        (&["tensorboard"], &["--out"]),
        (&["demo"], &["--data", "--out", "--scale"]),
    ];
    for (command, options) in commands {
        let help = succeed(&[command, &["--help"]].concat());
        for option in options {
            assert!(help.contains(option), "{command:?} does not mention {option}:\n{help}");
        }
    }
    assert_eq!(succeed(&["--version"]), format!("shearling {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(shearling(&[]).status.code(), Some(2), "a bare call is bad usage");
}

#[test]
fn doctor_answers_with_its_checks() {
    let answer = json(&["doctor", "--device", "cpu", "--json"]);
    let checks = answer["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["libtorch", "cuda", "threads", "waiting", "device", "kernels", "matmul", "bf16", "disk"]);
    for check in checks {
        let level = check["level"].as_str().unwrap();
        assert!(["OK", "WARN", "ERROR"].contains(&level), "{check}");
        assert_eq!(check["hint"].is_null(), level == "OK", "what is not fine has a hint: {check}");
    }
    assert!(checks[0]["found"].as_str().unwrap().contains("2.11.0"));
    assert_eq!((&checks[6]["name"], &checks[6]["level"]), (&"matmul".into(), &"OK".into()));

    let output = shearling(&["doctor", "--device", "gpu", "--json"]);
    assert_eq!(output.status.code(), Some(1), "a check said no");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["worst"], "ERROR");
    let table = String::from_utf8(shearling(&["doctor", "--device", "gpu"]).stdout).unwrap();
    assert!(table.contains("ERROR device") && table.contains("hint:"), "{table}");
}

#[test]
fn plan_counts_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write_tiny_source(&source);
    let directory = folder.path().join("run");
    let overrides = sets([
        ("run.directory", directory.display().to_string()),
        ("model.source", source.display().to_string()),
        ("data.path", data_path()),
        ("mixer.reference_file", run("reference.json")),
        ("target.hidden_size", "24".to_string()),
        ("target.intermediate_size", "32".to_string()),
        ("target.num_hidden_layers", "2".to_string()),
    ]);
    let file = config("tiny-prune.toml").display().to_string();
    let mut arguments = vec!["plan", "--config", &file];
    arguments.extend(overrides.iter().map(String::as_str));
    let before = listing(folder.path());
    let text = succeed(&[&arguments[..], &["--tokens-per-second", "1000"]].concat());
    let answer = json(&[&arguments[..], &["--json", "--tokens-per-second", "1000"]].concat());
    assert_eq!(listing(folder.path()), before, "plan writes nothing");

    // D 24, F 32, L 2, H 3 of 8, vocabulary 300.
    let target = 2 * 300 * 24 + 2 * (4 * 24 * 24 + 3 * 24 * 32 + 2 * 24) + 24;
    assert_eq!(answer["target"]["total_parameters"], target);
    assert_eq!(answer["now"]["total_parameters"], parameters(&source));
    assert!(text.contains(&grouped(target)) && text.contains(&grouped(parameters(&source))), "{text}");
    assert_eq!(answer["masks"].as_array().unwrap().len(), 4);
    assert_eq!((&answer["masks"][3]["size"], &answer["masks"][3]["target"]), (&32.into(), &24.into()));
    let tokens = 40 * 8 * 32;
    assert_eq!(answer["tokens"], f64::from(tokens));
    let rows: u64 = answer["domains"].as_array().unwrap().iter().map(|d| d["rows_needed"].as_u64().unwrap()).sum();
    assert_eq!(rows, 40 * 8);
    assert!(answer["seconds"].as_f64().unwrap() > f64::from(tokens) / 1000.0, "evaluations take time too");
}

fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap()).collect();
    groups.join(",")
}

#[test]
fn the_whole_job_leaves_models_of_the_target_shape() {
    let runs = tiny_runs();
    let source = runs.join("source/model");
    let target = 2 * 300 * 48 + 3 * (4 * 48 * 48 + 3 * 48 * 96 + 2 * 48) + 48;
    for model in ["prune/pruned", "pretrain/model"] {
        let folder = runs.join(model);
        assert_eq!(parameters(&folder), target, "{model}");
        for name in ["config.json", "README.md", "tokenizer.json"] {
            assert!(folder.join(name).is_file(), "{model}/{name}");
        }
        let shape = &json(&["inspect", "model", &run(model), "--json"]);
        assert_eq!(shape["complete"], true);
        assert_eq!((&shape["shape"]["num_attention_heads"], &shape["shape"]["head_dim"]), (&3.into(), &16.into()));
    }
    let card = std::fs::read_to_string(runs.join("prune/pruned/README.md")).unwrap();
    let (before, after) = (grouped(parameters(&source)), grouped(target));
    for said in [
        // The last two parts: what is above them is of this machine alone.
        "Source: source/model\n".to_string(),
        "| hidden size | 64 | 48 |".to_string(),
        format!("| parameters | {before} | {after} |"),
        format!("| pruning (learned) | 40 | {} |", grouped(40 * 8 * 32)),
        "relative to the largest logit".to_string(),
        "(bound 1e-9)".to_string(),
        format!("shearling: {}", env!("CARGO_PKG_VERSION")),
        "libtorch: 2.11.0".to_string(),
    ] {
        assert!(card.contains(&said), "{said:?} is not in the card:\n{card}");
    }
    // The continued model tells the whole history: both stages, the first source, the check.
    let continued = std::fs::read_to_string(runs.join("pretrain/model/README.md")).unwrap();
    for said in ["Source: source/model\n", "| pruning (learned) |", "| training |", "(bound 1e-9)"] {
        assert!(continued.contains(said), "{said:?} is not in the card:\n{continued}");
    }
    let summary = &json(&["inspect", "run", &run("prune"), "--json"])["summary"];
    for domain in summary["domains"].as_array().unwrap() {
        let share = domain["rows"].as_f64().unwrap() / (40.0 * 8.0);
        let said = format!("| {} | {share:.4} |", domain["domain"].as_str().unwrap());
        assert!(card.contains(&said), "{said:?} is not in the card:\n{card}");
    }
}

#[test]
fn a_run_stops_where_it_is_told_and_goes_on_to_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("run");
    let overrides = sets([
        ("run.directory", directory.display().to_string()),
        ("run.device", "cpu".to_string()),
        ("model.source", run("source/model")),
        ("data.path", data_path()),
        ("mixer.reference_file", run("reference.json")),
        ("checkpoint.every_steps", "20".to_string()),
    ]);
    let (file, path) = (config("tiny-prune.toml").display().to_string(), directory.display().to_string());
    let mut arguments = vec!["prune", "--config", &file, "--stop-at", "20"];
    arguments.extend(overrides.iter().map(String::as_str));
    let output = shearling(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(output.stdout.is_empty() && !directory.join("pruned").exists(), "nothing is written before the last step");
    assert!(stderr.contains(&format!("shearling prune --resume {path}")), "{stderr}");

    let early = folder.path().join("early");
    succeed(&["export", &format!("{path}@20"), "--out", &early.display().to_string()]);
    let last = tiny_runs().join("prune/pruned");
    assert_eq!(parameters(&early), parameters(&last));
    succeed(&["prune", "--resume", &path]);
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&early) != weights(&last));
    assert!(weights(&directory.join("pruned")) == weights(&last), "stopped and resumed as if never stopped");
}

#[test]
fn an_interrupted_demo_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let (out, text) = (folder.path().join("demo").display().to_string(), data().parent().unwrap().join("text"));
    let mut demo = Command::new(env!("CARGO_BIN_EXE_shearling"))
        .args(["demo", "--device", "cpu", "--out", &out, "--data"])
        .arg(text)
        .env("OMP_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("starts, ")), "the first stage begins");
    let signal = Command::new("sh").args(["-c", &format!("kill -TERM {}", demo.id())]).status().unwrap();
    assert!(signal.success());
    let rest: Vec<String> = lines.collect();
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{rest:#?}");
    assert!(output.stdout.is_empty(), "there is no result");
    let error = rest.iter().find(|line| line.starts_with("error: ")).unwrap();
    assert!(error.contains("the demo was interrupted") && error.contains(&out), "{error}");
}

#[test]
fn any_kept_step_is_exported_and_the_last_one_is_what_prune_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let weights = |path: &Path| std::fs::read(path.join("model.safetensors")).unwrap();
    let last = folder.path().join("last");
    let printed = succeed(&["export", &format!("{}@40", run("prune")), "--out", &last.display().to_string()]);
    assert_eq!(printed, format!("{}\n", last.display()), "stdout is the written folder");
    assert!(weights(&last) == weights(&tiny_runs().join("prune/pruned")));

    let half = folder.path().join("half");
    succeed(&["export", &run("pretrain"), "--out", &half.display().to_string(), "--dtype", "bf16"]);
    let halved = Checkpoint::open(&half).unwrap();
    let full = tiny_runs().join("pretrain/model");
    assert_eq!(halved.total_bytes() * 2, Checkpoint::open(&full).unwrap().total_bytes());
    for (name, weight) in tensors(&full.join("model.safetensors")) {
        let rounded = halved.tensor(&name, tch::Kind::BFloat16, tch::Device::Cpu).unwrap();
        assert!(rounded.equal(&weight.to_kind(tch::Kind::BFloat16)), "{name}");
    }
}

#[test]
fn a_checkpoint_of_masks_is_cut_to_a_smaller_target() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("smaller").display().to_string();
    let smaller = ["hidden_size=32", "intermediate_size=80", "num_hidden_layers=2"];
    let targets = smaller.iter().flat_map(|size| ["--target", size]).collect::<Vec<_>>();
    let masks = run("prune");
    let command = ["export", &masks, "--out", &out];
    fn export<'a>(command: &[&'a str], targets: &[&'a str]) -> Vec<&'a str> {
        [command, targets].concat()
    }
    succeed(&export(&command, &[&targets[..], &["--target", "num_attention_heads=2"]].concat()));
    let shape = json(&["inspect", "model", &out, "--json"])["shape"].clone();
    for (key, size) in
        [("hidden_size", 32), ("intermediate_size", 80), ("num_hidden_layers", 2), ("num_attention_heads", 2)]
    {
        assert_eq!(shape[key], size, "{key}");
    }
    // The hidden dimensions that stay are among those of the run's own target, in their order.
    let embedding = |path: &Path| tensors(&path.join("model.safetensors")).remove("model.embed_tokens.weight").unwrap();
    let (own, small) = (embedding(&tiny_runs().join("prune/pruned")), embedding(Path::new(&out)));
    let column = |of: &tch::Tensor, at: i64| of.select(1, at);
    let kept = (0..32).filter(|at| (0..48).any(|own_at| column(&own, own_at).equal(&column(&small, *at)))).count();
    assert_eq!(kept, 32);

    for (wrong, said) in [
        ("hidden_size=60", "`hidden`, 60 are asked for"),
        ("hidden_size", "--target takes KEY=SIZE"),
        ("vocab_size=8", "vocab_size"),
        ("hidden_size=31", "num_attention_heads"),
    ] {
        std::fs::remove_dir_all(&out).ok();
        let output = shearling(&export(&command, &["--target", wrong]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{wrong}: {stderr}");
        assert!(!Path::new(&out).exists());
    }
    let output = shearling(&["export", &run("pretrain"), "--out", &out, "--target", "hidden_size=32"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no masks"));
}

#[test]
fn inspect_shows_survivors_and_the_course_of_a_run() {
    let masks = json(&["inspect", "masks", &run("prune"), "--json"]);
    assert_eq!((&masks["source"]["hidden_size"], &masks["target"]["hidden_size"]), (&64.into(), &48.into()));
    let layers = masks["plan"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for layer in layers {
        let kept = |key: &str| layer[key].as_array().unwrap().len();
        assert_eq!((kept("kv_heads"), kept("intermediate")), (3, 96));
    }
    let snapshot = tiny_runs().join("prune/masks/step-00000040.safetensors").display().to_string();
    for same in [snapshot, format!("{}@40", run("prune"))] {
        let found = json(&["inspect", "masks", &same, "--json"]);
        assert_eq!((&found["plan"], &found["report"]), (&masks["plan"], &masks["report"]), "{same} and the last step");
        assert_eq!((&found["step"], &found["parameters"]), (&40.into(), &masks["parameters"]), "{same}");
    }
    let counted = |folder: &str| parameters(&tiny_runs().join(folder)) as f64;
    assert_eq!(masks["parameters"]["before"]["total"], counted("source/model"));
    assert_eq!(masks["parameters"]["after"]["total"], counted("prune/pruned"));
    let text = succeed(&["inspect", "masks", &run("prune")]);
    assert!(text.contains("what is kept, by layer") && text.contains("removed"), "{text}");

    let summary = &json(&["inspect", "run", &run("prune"), "--json"])["summary"];
    assert_eq!((&summary["stage"], &summary["step"], &summary["steps"]), (&"prune".into(), &40.into(), &40.into()));
    assert_eq!(summary["tokens"], 40 * 8 * 32);
    assert_eq!(summary["constraints"].as_array().unwrap().len(), 4);
    let rows: u64 = summary["domains"].as_array().unwrap().iter().map(|d| d["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, 40 * 8);
    let written = &json(&["inspect", "run", &run("prune"), "--json"])["written"];
    assert_eq!(
        (&written["path"], &written["dtype"], &written["exists"]),
        (&"pruned".into(), &"fp32".into(), &true.into())
    );
    assert_eq!(written["parameters_before"], parameters(&tiny_runs().join("source/model")));
    assert_eq!(written["parameters_after"], parameters(&tiny_runs().join("prune/pruned")));
    let check = &written["equivalence"];
    assert!(check["folded"].as_f64() < check["folded_bound"].as_f64() && check["rows"].as_u64() > Some(0), "{check}");
    assert_eq!(check["passed"], true);
    let reference: Value = serde_json::from_slice(&std::fs::read(run("reference.json")).unwrap()).unwrap();
    for domain in summary["domains"].as_array().unwrap() {
        assert_eq!(domain["reference"], reference["reference_loss"][domain["domain"].as_str().unwrap()]);
    }
    let text = succeed(&["inspect", "run", &run("pretrain")]);
    assert!(text.contains("pretrain run: step 20 of 20"), "{text}");
    // The run began with the pruned model and evaluated it before its first step.
    let history = json(&["inspect", "run", &run("pretrain"), "--json"]);
    assert_eq!((&history["continues_pruned"], &history["evaluations"][0]["step"]), (&true.into(), &0.into()));
    assert!(history["stories"][0]["cut"]["loss"].as_f64().is_some(), "{}", history["stories"]);
}

#[test]
fn eval_compares_models_and_agrees_with_the_run() {
    let (source, small) = (run("source/model"), run("pretrain/model"));
    let answer = json(&["eval", &source, &small, "--data", &data_path(), "--rows", "8", "--json"]);
    let models = answer["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    assert_eq!(models[0]["parameters"], parameters(Path::new(&source)));
    // The run evaluated its last step on the same rows, and its fp32 weights were exported unrounded.
    let summary = &json(&["inspect", "run", &run("pretrain"), "--json"])["summary"];
    for (found, recorded) in models[1]["domains"].as_array().unwrap().iter().zip(summary["domains"].as_array().unwrap())
    {
        let (found, recorded) = (found["loss"].as_f64().unwrap(), recorded["last_loss"].as_f64().unwrap());
        assert!((found - recorded).abs() < 1e-5, "{found} in eval, {recorded} in the run");
    }
    let table = succeed(&["eval", &small, "--data", &data_path(), "--rows", "2"]);
    assert!(table.contains("mean") && table.contains("parameters"), "{table}");
}

#[test]
fn data_inspect_notices_a_flipped_byte() {
    let answer = json(&["data", "inspect", &data_path(), "--verify", "--json"]);
    assert_eq!(answer["manifest"]["vocab_size"], 300);
    assert_eq!(answer["manifest"]["domains"].as_array().unwrap().len(), 3);

    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("data");
    copy_folder(data(), &damaged);
    let name = answer["manifest"]["domains"][1]["train"]["files"][0]["name"].as_str().unwrap();
    let mut bytes = std::fs::read(damaged.join(name)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(damaged.join(name), bytes).unwrap();
    let path = damaged.display().to_string();
    succeed(&["data", "inspect", &path, "--json"]);
    let output = shearling(&["data", "inspect", &path, "--verify", "--json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(name) && stderr.contains("SHA-256"), "{stderr}");
    assert!(output.stdout.is_empty());
}

/// Weights that fp16 cannot hold make a pruned model that is not the masked one: `prune` says where and publishes
/// nothing, and the run's checkpoint can still be exported in a format that holds them.
#[test]
fn a_pruned_model_that_differs_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let source = folder.path().join("source");
    write_tiny_source(&source);
    let weights = source.join("model.safetensors");
    let too_large = |(name, weight)| match name == "model.embed_tokens.weight" {
        true => (name, weight * 1e7),
        false => (name, weight),
    };
    let scaled: Vec<(String, tch::Tensor)> = tensors(&weights).into_iter().map(too_large).collect();
    TensorFile::write(&weights, &scaled, &Default::default()).unwrap();

    let overrides = sets([
        ("run.directory", at("run")),
        ("run.device", "cpu".to_string()),
        ("model.source", at("source")),
        ("data.path", data_path()),
        ("mixer.reference_file", run("reference.json")),
        ("target.hidden_size", "24".to_string()),
        ("target.intermediate_size", "32".to_string()),
        ("target.num_hidden_layers", "2".to_string()),
        ("train.steps", "3".to_string()),
        ("train.warmup_steps", "0".to_string()),
        ("masks.warmup_steps", "1".to_string()),
        ("prune.dtype", "fp16".to_string()),
    ]);
    let file = config("tiny-prune.toml").display().to_string();
    let mut arguments = vec!["prune", "--config", &file];
    arguments.extend(overrides.iter().map(String::as_str));
    let output = shearling(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("model.embed_tokens.weight") && stderr.contains("too large for fp16"), "{stderr}");
    assert!(stderr.contains("Nothing was published; the run is kept") && stderr.contains("--dtype fp32"), "{stderr}");
    assert!(output.stdout.is_empty());
    let left: Vec<_> = listing(folder.path()).into_iter().map(|(path, _)| path.display().to_string()).collect();
    assert!(!left.iter().any(|path| path.contains("pruned") || path.contains("staging")), "{left:#?}");
    assert!(folder.path().join("run/checkpoints/step-00000003/manifest.json").is_file());

    succeed(&["export", &at("run"), "--out", &at("exported"), "--dtype", "fp32"]);
    assert!(folder.path().join("exported/model.safetensors").is_file());
    // As it is, on request, and marked for whoever gets it.
    let card = |folder: &str| std::fs::read_to_string(Path::new(folder).join("README.md")).unwrap();
    assert!(!card(&at("exported")).contains("Not proven"));
    succeed(&["export", &at("run"), "--out", &at("unproven"), "--unproven"]);
    assert!(card(&at("unproven")).contains("**Not proven equal to the masked model**"), "{}", card(&at("unproven")));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in
        [vec!["inspect", "run", &run("prune"), "--json"], vec!["doctor", "--device", "cpu"], vec!["--help"]]
    {
        let mut child = Command::new(env!("CARGO_BIN_EXE_shearling"))
            .args(&arguments)
            .env("OMP_NUM_THREADS", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(stderr.is_empty(), "{stderr}");
    }
}
