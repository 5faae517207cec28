//! `plan` with less than a run needs: a config.json alone, no data, a source that is not there yet; and everything that is
//! wrong at once.

use super::support::{config, data_path, fixture, listing, sets, shearling, succeed, tiny_runs, write_tiny_source};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A folder with a source of its own, with weights or without, and a prune configuration beside it.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// A Llama-2-7B's config.json, and the published recipes on it.
    fn published() -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap() };
        let model = desk.at("models/Llama-2-7b-hf");
        std::fs::create_dir_all(&model).unwrap();
        std::fs::copy(fixture("configs/llama2-7b.json"), model.join("config.json")).unwrap();
        for name in ["llama2-7b-to-1.3b", "llama2-7b-to-1.3b-continue"] {
            let name = format!("{name}.toml");
            let text = std::fs::read_to_string(config(&name)).unwrap();
            // Paths in a configuration are relative to the working directory, which a test shares with others.
            let text = text.replace("\"models/", &format!("\"{}/models/", desk.at("").display()));
            let text = text.replace("\"runs/", &format!("\"{}/runs/", desk.at("").display()));
            std::fs::write(desk.at(&name), text).unwrap();
        }
        desk
    }

    /// The tiny source with all its weights, and the tiny prune configuration with a static mix.
    fn tiny() -> Desk {
        let desk = Desk { folder: tempfile::tempdir().unwrap() };
        write_tiny_source(&desk.at("source"));
        let text = std::fs::read_to_string(config("tiny-prune.toml")).unwrap();
        let text = text.lines().filter(|line| !line.starts_with("reference_file")).collect::<Vec<_>>().join("\n");
        std::fs::write(desk.at("prune.toml"), text.replace("kind = \"dynamic\"", "kind = \"static\"")).unwrap();
        desk
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments that plan the tiny run, with overrides.
    fn tiny_plan(&self, overrides: &[(&str, &str)]) -> Vec<String> {
        let mut arguments = vec!["plan".into(), "--config".into(), self.at("prune.toml").display().to_string()];
        let common = [
            ("run.directory", self.at("run").display().to_string()),
            ("model.source", self.at("source").display().to_string()),
            ("data.path", data_path()),
            ("target.hidden_size", "24".into()),
            ("target.intermediate_size", "32".into()),
            ("target.num_hidden_layers", "2".into()),
            // Without references, which would have to be measured first.
            ("mixer.kind", "static".into()),
        ];
        arguments.extend(sets(common));
        arguments.extend(sets(overrides.iter().copied()));
        arguments
    }
}

/// Exit code, answer and standard error of `plan … --json`.
fn planned(arguments: &[String]) -> (Option<i32>, Value, String) {
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.push("--json");
    let output = shearling(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null), stderr)
}

fn plan(file: &Path, more: &[&str]) -> (Option<i32>, Value, String) {
    let mut arguments = vec!["plan".to_string(), "--config".into(), file.display().to_string()];
    arguments.extend(more.iter().map(|text| text.to_string()));
    planned(&arguments)
}

fn said(answer: &Value, key: &str) -> String {
    let lines = answer[key].as_array().unwrap_or_else(|| panic!("{key} in {answer}"));
    lines.iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_config_json_is_enough_to_plan_a_prune_run() {
    let desk = Desk::published();
    let before = listing(desk.folder.path());
    let file = desk.at("llama2-7b-to-1.3b.toml");
    let (code, answer, stderr) = plan(&file, &["--card", "h200"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(answer["now"]["total_parameters"], 6_738_415_616i64);
    assert_eq!(answer["target"]["total_parameters"], 1_345_423_360i64);
    assert_eq!((&answer["row_tokens"], &answer["tokens"]), (&4096.into(), &419_430_400.0.into()));
    // Domains and their rows are known from the configuration, what there is of them is not.
    assert_eq!(answer["domains"].as_array().unwrap().len(), 7);
    assert!(answer["domains"][0]["rows_available"].is_null());
    assert!(answer["seconds"].as_f64().unwrap() > 3600.0);
    let open = said(&answer, "not_checked");
    for part in ["data.path", "weights"] {
        assert!(open.contains(part), "{part} in {open}");
    }
    let text = succeed(&["plan", "--config", &file.display().to_string(), "--card", "H200"]);
    assert!(text.contains("not checked:") && text.contains("fits in H200"), "{text}");
    assert_eq!(listing(desk.folder.path()), before, "plan writes nothing");
}

#[test]
fn domains_with_fewer_held_out_rows_than_asked_for_are_named() {
    let desk = Desk::tiny();
    let warned = |overrides: &[(&str, &str)]| {
        let (code, answer, stderr) = planned(&desk.tiny_plan(overrides));
        assert_eq!(code, Some(0), "{stderr}");
        said(&answer, "warnings")
    };
    let learned = ("prune.method", "learned");
    let few = warned(&[learned, ("eval.rows_per_domain", "9999")]);
    assert!(few.contains("domains have fewer held-out rows than eval.rows_per_domain = 9999 ("), "{few}");
    let few = warned(&[("prune.method", "activations"), ("prune.check_rows", "9999")]);
    assert!(few.contains("domains have fewer held-out rows than prune.check_rows = 9999 ("), "{few}");
    let enough = warned(&[learned, ("eval.rows_per_domain", "1")]);
    assert!(!enough.contains("held-out"), "{enough}");
}

#[test]
fn a_stage_whose_source_is_not_written_yet_takes_its_target() {
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b-continue.toml");
    let (code, answer, stderr) = plan(&file, &["--tflops", "300"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(answer["now"]["total_parameters"], 1_345_423_360i64);
    assert!(said(&answer, "not_checked").contains("llama2-7b-to-1.3b.toml"), "{answer}");

    // Elsewhere the file must be named.
    std::fs::create_dir(desk.at("else")).unwrap();
    let moved = desk.at("else/continue.toml");
    std::fs::rename(&file, &moved).unwrap();
    let (code, _, stderr) = plan(&moved, &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("model.source") && stderr.contains("--source-as"), "{stderr}");
    let prune = desk.at("llama2-7b-to-1.3b.toml").display().to_string();
    let (code, answer, stderr) = plan(&moved, &["--source-as", &prune, "--sequence-length", "4096"]);
    assert_eq!((code, &answer["now"]["total_parameters"]), (Some(0), &1_345_423_360i64.into()), "{stderr}");

    // The folder of a run is no model, but has one.
    let run = tiny_runs().join("prune");
    let source = format!("model.source={}", run.display());
    let (code, _, stderr) = plan(&moved, &["--set", &source]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains(&format!("the model is in {}: give that folder", run.join("pruned").display())),
        "{stderr}"
    );
}

#[test]
fn what_is_named_and_not_there_is_a_problem_here_and_open_elsewhere() {
    let desk = Desk::tiny();
    let nowhere = desk.at("nowhere").display().to_string();
    let arguments = desk.tiny_plan(&[("data.path", &nowhere)]);
    let (code, answer, stderr) = planned(&arguments);
    let problems = said(&answer, "problems");
    assert_eq!(code, Some(1), "{stderr}");
    for part in ["data.path", &nowhere, "shearling data prepare", "--sequence-length"] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    assert!(!stderr.contains("next:"), "{stderr}");
    for more in [["--sequence-length", "32"], ["--card", "h200"], ["--tflops", "1"]] {
        let arguments = [&arguments[..], &more.map(String::from)].concat();
        let (code, answer, stderr) = planned(&arguments);
        assert_eq!((code, said(&answer, "problems")), (Some(0), String::new()), "{stderr}");
        assert!(said(&answer, "not_checked").contains(&nowhere), "{answer}");
    }

    // A teacher that a configuration beside this one is to write is not a fault of this one.
    let write = |name: &str, own: &str, more: &str| {
        let text = format!(
            "[run]\ndirectory = '{0}/{own}'\n[model]\nsource = '{0}/source'\n[data]\npath = '{1}'\n\
             [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 1e-3\n{more}",
            desk.at("").display(),
            data_path()
        );
        std::fs::write(desk.at(name), text).unwrap();
    };
    let taught = |teacher: &str| format!("[distill]\nteacher = '{}'\nweight = 0.5\n", desk.at(teacher).display());
    write("first.toml", "first", "");
    write("second.toml", "second", &taught("first/model"));
    write("third.toml", "third", &taught("else/model"));
    let (code, answer, stderr) = plan(&desk.at("second.toml"), &[]);
    assert_eq!(code, Some(0), "{stderr} {answer}");
    assert!(said(&answer, "not_checked").contains("first.toml is to write"), "{answer}");
    let (code, answer, _) = plan(&desk.at("third.toml"), &[]);
    assert!(code == Some(1) && said(&answer, "problems").contains("distill.teacher: there is no"), "{answer}");
}

#[test]
fn a_learning_rate_far_from_the_usual_is_warned_of() {
    let desk = Desk::tiny();
    let warned = |rate: &str| {
        let set = [("train.learning_rate", rate), ("prune.method", "learned")];
        said(&planned(&desk.tiny_plan(&set)).1, "warnings")
    };
    for (rate, part) in [("1.0", "= 1 is above the usual"), ("1e4", "= 10000 is above"), ("1e-9", "= 1e-9 is below")] {
        let warnings = warned(rate);
        assert!(warnings.contains(&format!("train.learning_rate {part}")), "{rate}: {warnings}");
    }
    for rate in ["1e-3", "3e-3"] {
        assert!(!warned(rate).contains("train.learning_rate"), "{rate}");
    }
}

#[test]
fn stages_that_go_in_a_circle_are_refused() {
    let desk = Desk::published();
    let (first, second) = (desk.at("a.toml"), desk.at("b.toml"));
    let write = |file: &Path, own: &str, source: &str| {
        let text = format!(
            "[run]\ndirectory = '{0}/{own}'\n[model]\nsource = '{0}/{source}/model'\n[data]\npath = 'd'\n\
             [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n",
            desk.at("runs").display()
        );
        std::fs::write(file, text).unwrap();
    };
    write(&first, "a", "b");
    write(&second, "b", "a");
    let (code, _, stderr) = plan(&first, &[]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("circle"), "{stderr}");
}

#[test]
fn too_little_data_is_a_line_of_the_plan_and_the_end_of_a_run() {
    let desk = Desk::tiny();
    let arguments = desk.tiny_plan(&[("data.max_epochs", "1"), ("train.steps", "100000")]);
    let (code, answer, _) = planned(&arguments);
    assert_eq!(code, Some(1), "a check said no");
    let problems = said(&answer, "problems");
    assert!(
        problems.contains("the run needs 800,000 rows (100,000 steps of 8)") && problems.contains("data.max_epochs"),
        "{problems}"
    );
    assert!(answer["memory_bytes"].as_f64().unwrap() > 0.0, "the rest of the plan is there");
    let run: Vec<&str> = std::iter::once("prune").chain(arguments[1..].iter().map(String::as_str)).collect();
    let output = shearling(&run);
    assert_eq!(output.status.code(), Some(2), "prune refuses it");
    assert!(!desk.at("run").exists());
}

#[test]
fn all_problems_come_in_one_go() {
    let desk = Desk::tiny();
    std::fs::remove_file(desk.at("source/model.safetensors")).unwrap();
    std::fs::write(desk.at("source/model.safetensors"), b"broken").unwrap();
    let overrides = [
        ("train.micro_batch_rows", "3"),
        ("target.intermediate_size", "999"),
        ("mixer.proportions.nowhere", "1.0"),
        ("eval.every_steps", "0"),
    ];
    let (code, answer, stderr) = planned(&desk.tiny_plan(&overrides));
    assert_eq!(code, Some(1), "{stderr}");
    let problems = said(&answer, "problems");
    for part in ["micro_batch_rows", "intermediate_size = 999", "nowhere", "eval.every_steps", "model.safetensors"] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
}

#[test]
fn all_that_is_wrong_with_a_cut_at_once_is_told_under_its_own_keys() {
    let desk = Desk::tiny();
    let overrides = [
        ("prune.method", "activations"),
        ("prune.calibration_rows", "0"),
        ("target.hidden_size", "999"),
        ("target.intermediate_size", "998"),
    ];
    let (code, answer, stderr) = planned(&desk.tiny_plan(&overrides));
    assert_eq!(code, Some(1), "{stderr}");
    let problems = said(&answer, "problems");
    for part in ["calibration_rows", "hidden_size = 999", "intermediate_size = 998"] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    assert!(!problems.contains("batch_rows"), "{problems}");
}

#[test]
fn a_run_folder_that_is_there_is_a_problem_of_the_plan_as_of_the_run() {
    let desk = Desk::tiny();
    std::fs::create_dir(desk.at("run")).unwrap();
    let (code, ..) = planned(&desk.tiny_plan(&[]));
    assert_eq!(code, Some(0), "an empty one may be taken");
    std::fs::write(desk.at("run/metrics.jsonl"), "").unwrap();
    let (code, answer, stderr) = planned(&desk.tiny_plan(&[]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(said(&answer, "problems").contains("exists already"), "{answer}");
    let elsewhere = [desk.tiny_plan(&[]), vec!["--card".into(), "h100".into()]].concat();
    let (code, answer, stderr) = planned(&elsewhere);
    assert_eq!((code, said(&answer, "problems")), (Some(0), "".into()), "{stderr}");
}

#[test]
fn a_plan_without_problems_is_of_a_run_that_starts() {
    let desk = Desk::tiny();
    let (code, answer, stderr) = planned(&desk.tiny_plan(&[]));
    assert_eq!(
        (code, said(&answer, "problems"), said(&answer, "not_checked")),
        (Some(0), "".into(), "".into()),
        "{stderr}"
    );
    let memory = &answer["fits"]["device"];
    assert!(memory["memory_bytes"].as_f64().unwrap() > 0.0 && memory["fits"] == "yes", "{memory}");
    assert_eq!(answer["fits"]["cards"].as_array().unwrap().len(), 8);
}

#[test]
fn a_target_that_is_the_source_is_said() {
    let desk = Desk::tiny();
    let same = [
        ("target.hidden_size", "32"),
        ("target.intermediate_size", "48"),
        ("target.num_hidden_layers", "3"),
        ("target.num_attention_heads", "4"),
    ];
    let (code, answer, _) = planned(&desk.tiny_plan(&same));
    assert_eq!(code, Some(1));
    let problems = said(&answer, "problems");
    assert!(problems.contains("[target]") && problems.contains("source"), "{problems}");
}

#[test]
fn masks_without_time_and_dtypes_that_cost_are_warned_of() {
    let desk = Desk::tiny();
    let warned = |overrides: &[(&str, &str)]| said(&planned(&desk.tiny_plan(overrides)).1, "warnings");
    let few = warned(&[]);
    assert!(few.contains("too little time to settle") && few.contains("train.steps"), "{few}");
    let slow = warned(&[("train.steps", "3000"), ("masks.learning_rate", "1e-3")]);
    assert!(slow.contains("Raise masks.learning_rate"), "{slow}");
    let enough = warned(&[("train.steps", "600"), ("masks.warmup_steps", "120")]);
    assert!(!enough.contains("settle"), "{enough}");
    let written = warned(&[("prune.dtype", "fp16")]);
    assert!(written.contains("prune.dtype") && written.contains("65,504"), "{written}");
    let crowded = warned(&[("run.threads", "1000"), ("run.device", "cpu")]);
    assert!(crowded.contains("run.threads = 1000 on"), "{crowded}");
    assert!(!warned(&[("run.threads", "1"), ("run.device", "cpu")]).contains("run.threads"));

    let published = Desk::published();
    let file = published.at("llama2-7b-to-1.3b.toml");
    let (_, answer, _) = plan(&file, &["--card", "a100-80", "--set", "run.dtype=fp32"]);
    let warnings = said(&answer, "warnings");
    assert!(warnings.contains("run.dtype = \"fp32\" on a GPU with bf16"), "{warnings}");
    assert!(warnings.contains("does not fit in A100 80GB"), "{warnings}");
}

#[test]
fn auto_is_the_dtype_of_the_planned_device() {
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b.toml");
    let dtype = |more: &[&str]| plan(&file, &[more, &["--set", "run.dtype=auto"]].concat()).1["dtype"].clone();
    assert_eq!(dtype(&["--card", "h100"]), "bf16");
    let here = if shearling::native::runtime::precision::cpu_has_bf16() { "bf16" } else { "fp32" };
    assert_eq!(dtype(&["--set", "run.device=cpu"]), here);
}

#[test]
fn a_card_or_device_that_is_not_known_is_named() {
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b.toml");
    let (code, _, stderr) = plan(&file, &["--card", "voodoo2"]);
    assert!(code == Some(2) && stderr.contains("voodoo2") && stderr.contains("a100-40"), "{stderr}");
    let (code, _, stderr) = plan(&file, &["--set", "run.device=gpu"]);
    assert!(code == Some(2) && stderr.contains("run.device") && stderr.contains("cuda:N"), "{stderr}");
}

#[test]
fn a_model_without_its_config_says_what_plan_needs() {
    let desk = Desk::tiny();
    std::fs::remove_file(desk.at("source/config.json")).unwrap();
    let (code, _, stderr) = planned(&desk.tiny_plan(&[]));
    assert!(code == Some(2) && stderr.contains("config.json") && stderr.contains("model.source"), "{stderr}");
}

/// A run writes what `auto` came to, so that it is the same run wherever it is resumed.
#[test]
fn a_run_keeps_what_auto_was_when_it_started() {
    let desk = Desk::tiny();
    let few = [
        ("run.dtype", "auto"),
        ("run.device", "cpu"),
        ("train.steps", "1"),
        ("train.warmup_steps", "0"),
        ("masks.warmup_steps", "1"),
    ];
    let arguments = desk.tiny_plan(&few);
    let run: Vec<&str> = std::iter::once("prune").chain(arguments[1..].iter().map(String::as_str)).collect();
    let output = shearling(&run);
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
    let resolved = std::fs::read_to_string(desk.at("run/resolved.toml")).unwrap();
    let here = if shearling::native::runtime::precision::cpu_has_bf16() { "bf16" } else { "fp32" };
    assert!(resolved.contains(&format!("dtype = \"{here}\"")), "{resolved}");
    assert!(!resolved.contains("dtype = \"auto\""), "{resolved}");
}

#[test]
fn a_run_with_routers_says_what_they_cost_and_save() {
    let desk = Desk::published();
    let text = format!(
        "[run]\ndirectory = '{0}/run'\n[model]\nsource = '{0}/models/Llama-2-7b-hf'\n[data]\npath = '{0}/data'\n[train]\nsteps = 100\n\
         batch_rows = 16\nmicro_batch_rows = 1\nlearning_rate = 1.5e-5\n[lte]\ndensity = 0.5\nrouter_steps = 10\ndensity_steps = 20\n",
        desk.at("").display()
    );
    std::fs::write(desk.at("lte.toml"), text).unwrap();
    let file = desk.at("lte.toml").display().to_string();
    let told = succeed(&["plan", "--config", &file, "--card", "h200"]);
    for said in [
        "routers: 32 × 344 experts of 32 units, 45,088,768 parameters (0.67 % of the model)",
        "stage 1: 10 steps with routers in training, stage 2: 90",
        "8.1152 GiFLOP in the layers' projections, 12.0625 dense (1.49×)",
        "reads 8.9764 GB of weights, 13.2147 GB dense (1.47×)",
        " + routers ",
    ] {
        assert!(told.contains(said), "{said} is not in\n{told}");
    }
    let output = shearling(&["plan", "--config", &file, "--card", "h200", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["stage"], &answer["experts"]["router_parameters"]), (&"lte".into(), &45_088_768.into()));
    let warnings = answer["warnings"].to_string();
    for key in ["lte.router_steps = 10 of 100", "lte.density_steps = 20 is above"] {
        assert!(warnings.contains(key), "{key}: {warnings}");
    }
}

/// What ranks send at every step, and how much faster they are with a given link.
#[test]
fn many_ranks_are_planned_with_what_they_hold_and_send() {
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b-continue.toml");
    let sets = ["--set", "train.batch_rows=256", "--set", "train.micro_batch_rows=4"];
    let with = |more: &[&str]| plan(&file, &[&sets[..], &["--card", "h200"], more].concat());
    let (_, one, _) = with(&[]);
    assert!(one["ranks"].is_null());
    let (code, answer, stderr) = with(&["--nodes", "2", "--gpus", "8", "--network", "50GB/s", "--link", "450GB/s"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (ranks, number) = (&answer["ranks"], |value: &Value| value.as_f64().unwrap());
    let summed = 4.0 * number(&answer["now"]["total_parameters"]);
    assert_eq!((ranks["ranks"].as_u64(), number(&ranks["summed_bytes"])), (Some(16), summed));
    assert!((number(&ranks["sent_bytes"]) - summed * 2.0 * 15.0 / 16.0).abs() < 1.0);
    assert_eq!((&ranks["memory_bytes"], &ranks["micro_batches"]), (&one["memory_bytes"], &64.into()));
    let (time, across) = (&ranks["time"], &ranks["sent_across_machines"]);
    let alone = number(&time["step_seconds_alone"]);
    let computing = number(&time["computing_seconds"]);
    assert!((computing - alone * 4.0 / 64.0).abs() < 1e-9 * alone);
    // Over the slower link; the layers' while the backward of the last of four micro-batches goes on.
    let [beside, after] = ["beside_bytes", "after_bytes"].map(|part| number(&across[part]) / 50e9);
    let waiting = (beside - computing / 4.0 * 2.0 / 3.0).max(0.0) + after;
    assert!((number(&time["exchanging_seconds"]) - waiting).abs() < 1e-9, "{answer}");
    let (speedup, run) = (number(&time["speedup"]), number(&time["run_seconds"]));
    assert!(speedup > 1.0 && speedup < 16.0 && run < number(&one["seconds"]), "{answer}");
    // Five ranks of 64 micro-batches: one has 13.
    let (_, five, _) = with(&["--gpus", "5", "--link", "450GB/s"]);
    let computing = number(&five["ranks"]["time"]["computing_seconds"]);
    assert!((computing - alone * 13.0 / 64.0).abs() < 1e-9 * alone);

    let (code, few, _) = with(&["--nodes", "100"]);
    assert_eq!(code, Some(1));
    assert!(said(&few, "problems").contains("set train.micro_batch_rows = 2 or less"), "{few}");
    let output = shearling(&["plan", "--config", &file.display().to_string(), "--gpus", "2", "--card", "h200"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("2 ranks (1 node × 2 GPUs)") && text.contains("give --link RATE"), "{text}");
}

/// Ranks that each hold everything do not make room: what would is named.
#[test]
fn a_run_that_fits_no_rank_is_refused_with_what_would_fit() {
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b.toml");
    let rows = ["--set", "train.batch_rows=32", "--set", "train.micro_batch_rows=1"];
    let (code, answer, _) = plan(&file, &[&rows[..], &["--card", "rtx4090", "--gpus", "8"]].concat());
    assert_eq!(code, Some(1));
    let problem = said(&answer, "problems");
    assert!(
        problem.contains("does not fit in RTX 4090") && problem.contains("each rank holds the whole run"),
        "{problem}"
    );
    assert!(problem.contains("dist.strategy = \"fsdp\" does"), "{problem}");
    // Which is what then fits.
    let recomputed = ["--set", "train.activation_checkpointing=1", "--set", "dist.strategy=fsdp"];
    let (code, answer, _) = plan(&file, &[&rows[..], &recomputed, &["--card", "rtx4090", "--gpus", "16"]].concat());
    assert_eq!(code, Some(0), "{answer}");
    let ranks = &answer["ranks"];
    assert_eq!(ranks["strategy"], "fsdp");
    assert!(ranks["memory_bytes"].as_f64().unwrap() < 23e9, "{ranks}");
}

/// A plan for a GPU that is elsewhere says so; that it cannot run here is found by the run.
#[test]
fn a_device_that_is_not_here_is_said() {
    if tch::Cuda::is_available() {
        return;
    }
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b-continue.toml");
    let (_, answer, stderr) = plan(&file, &["--set", "run.device=cuda"]);
    assert!(
        said(&answer, "not_checked").contains("run.device = \"cuda\": this machine has no such device"),
        "{answer}"
    );
    assert!(!stderr.contains("no kernels of ours"), "{stderr}");
    let (_, answer, _) = plan(&file, &["--set", "run.device=cuda", "--card", "h100"]);
    assert!(!said(&answer, "not_checked").contains("no such device"), "{answer}");
}

/// The state of a run is sharded within each machine, and a rank exchanges its shard of the gradients with other machines.
#[test]
fn a_hybrid_plan_names_both_kinds_of_links() {
    let desk = Desk::published();
    let file = desk.at("llama2-7b-to-1.3b-continue.toml");
    let sets = ["--set", "train.batch_rows=256", "--set", "train.micro_batch_rows=4", "--set", "dist.strategy=hybrid"];
    let with =
        |more: &[&str]| plan(&file, &[&sets[..], &["--card", "h200", "--nodes", "2", "--gpus", "8"], more].concat());
    let (_, answer, _) = with(&["--network", "50GB/s", "--link", "450GB/s"]);
    let ranks = &answer["ranks"];
    let bytes = |kind: &str, part: &str| ranks[kind][part].as_f64().unwrap();
    let gradients = 4.0 * answer["now"]["total_parameters"].as_f64().unwrap();
    assert!((bytes("sent_across_machines", "after_bytes") - gradients / 8.0).abs() < 1.0, "{ranks}");
    assert_eq!(bytes("sent_across_machines", "beside_bytes"), 0.0);
    assert!(bytes("sent_within_machine", "beside_bytes") > gradients, "{ranks}");
    let (_, unknown, _) = with(&["--link", "450GB/s"]);
    assert!(unknown["ranks"]["time"].is_null(), "the network's bandwidth is not given");
}
