//! The life of a run as its user meets it: killed before its first checkpoint, finished, extended, moved, misconfigured;
//! and that no message leads to another one that leads back.

use super::support::{copy_folder, data_path, listing, tensors, write_tiny_source};
use serde_json::Value;
use shearling::run_dir::layout::METRICS;
use shearling::train::metrics;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with a source, and configurations whose paths are relative to it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        write_tiny_source(&place.at("source"));
        copy_folder(Path::new(&data_path()), &place.at("data"));
        let common = "[run]\ndirectory = 'run'\nseed = 3\ndevice = 'cpu'\n[model]\nsource = 'source'\n\
                      [data]\npath = 'data'\nmax_epochs = 100\n\
                      [train]\nsteps = 6\nbatch_rows = 4\nlearning_rate = 1e-3\nwarmup_steps = 1\n\
                      [eval]\nevery_steps = 3\nrows_per_domain = 2\n[checkpoint]\nevery_steps = 3\n";
        std::fs::write(place.at("pretrain.toml"), common).unwrap();
        let target = "[target]\nhidden_size = 24\nintermediate_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 3\n\
             [prune]\nmethod = 'learned'\n";
        std::fs::write(place.at("prune.toml"), format!("{common}{target}")).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the binary in this folder.
    fn shearling(&self, arguments: &[&str]) -> Output {
        shearling_in(self.folder.path(), arguments)
    }

    fn succeed(&self, arguments: &[&str]) -> (String, String) {
        said(self.shearling(arguments), 0)
    }

    fn refuses(&self, arguments: &[&str], named: &[&str]) -> String {
        let (stdout, stderr) = said(self.shearling(arguments), 2);
        assert_eq!(stdout, "");
        for part in named {
            assert!(stderr.contains(part), "{part} in {stderr}");
        }
        stderr
    }

    fn start(&self, command: &str, sets: &[&str]) -> (String, String) {
        let file = format!("{command}.toml");
        let mut arguments = vec![command, "--config", &file];
        sets.iter().for_each(|set| arguments.extend(["--set", set]));
        self.succeed(&arguments)
    }

    fn records(&self, run: &str) -> Vec<Value> {
        metrics::read(&self.at(run).join(METRICS)).unwrap()
    }

    fn kinds(&self, run: &str, kind: &str) -> Vec<u64> {
        let records = self.records(run);
        let of_kind = records.iter().filter(|record| record["type"] == kind);
        of_kind.map(|record| record["step"].as_u64().unwrap()).collect()
    }
}

fn shearling_in(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shearling"))
        .args(arguments)
        .current_dir(folder)
        .env("OMP_NUM_THREADS", "1")
        .output()
        .expect("the binary starts")
}

/// stdout and stderr of a command that ended as it should.
fn said(output: Output, code: i32) -> (String, String) {
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    (stdout, stderr)
}

fn weights(model: &Path) -> Vec<u8> {
    std::fs::read(model.join("model.safetensors")).unwrap()
}

/// The folder of `run` as a kill before its first checkpoint leaves it.
fn die_early(place: &Place, run: &str) {
    let whole = place.at(run);
    let lines = std::fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    std::fs::write(
        whole.join("metrics.jsonl"),
        lines.lines().take(3).map(|line| format!("{line}\n")).collect::<String>(),
    )
    .unwrap();
    for folder in ["checkpoints", "model", "pruned", "masks"] {
        let _ = std::fs::remove_dir_all(whole.join(folder));
    }
    std::fs::create_dir(whole.join("checkpoints")).unwrap();
    std::fs::create_dir(whole.join("checkpoints/.step-00000003.staging-1-0")).unwrap();
}

#[test]
fn a_run_that_died_before_its_first_checkpoint_is_resumed_at_step_0() {
    for (command, model) in [("prune", "pruned"), ("pretrain", "model")] {
        let place = Place::new();
        place.start(command, &[]);
        let whole = weights(&place.at("run").join(model));
        die_early(&place, "run");
        let file = format!("{command}.toml");
        let resume = format!("resume the run in it with: shearling {command} --resume run");
        let refused = place.refuses(&[command, "--config", &file], &["run exists already", &resume]);
        // What the message says is done, word by word.
        let words: Vec<&str> = refused.rsplit_once("shearling ").unwrap().1.split_whitespace().collect();
        let (stdout, stderr) = place.succeed(&words);
        assert!(stderr.contains("before its first checkpoint: it begins again at step 0"), "{stderr}");
        assert_eq!(stdout, format!("run/{model}\n"));
        assert!(weights(&place.at("run").join(model)) == whole, "as if it had never died");
        assert_eq!(place.kinds("run", "step"), (1..=6).collect::<Vec<_>>());
        assert_eq!((place.kinds("run", "start"), place.kinds("run", "resume")), (vec![0], vec![]));
        assert!(!place.at("run/checkpoints/.step-00000003.staging-1-0").exists());
    }
}

#[test]
fn a_run_whose_checkpoints_were_lost_is_not_begun_again() {
    let place = Place::new();
    place.start("pretrain", &[]);
    std::fs::remove_dir_all(place.at("run/model")).unwrap();
    std::fs::remove_dir_all(place.at("run/checkpoints")).unwrap();
    let before = listing(&place.at("run"));
    let named = ["no good checkpoint to resume from", "the one of step 6 is gone", "another run.directory"];
    let refused = place.refuses(&["pretrain", "--resume", "run"], &named);
    assert!(!refused.contains("--resume"), "not back again: {refused}");
    assert_eq!(listing(&place.at("run")), before);
}

#[test]
fn a_folder_that_cannot_be_resumed_is_not_said_to_be() {
    let place = Place::new();
    std::fs::create_dir(place.at("run")).unwrap();
    std::fs::write(place.at("run/metrics.jsonl"), "").unwrap();
    let refused = place.refuses(&["prune", "--config", "prune.toml"], &["run exists already"]);
    assert!(!refused.contains("--resume"), "{refused}");
    place.refuses(&["prune", "--resume", "run"], &["run is not a run folder (it has no resolved.toml)"]);
}

#[test]
fn a_finished_run_says_so_and_stays_as_it_is() {
    let place = Place::new();
    let (_, stderr) = place.start("prune", &[]);
    assert_eq!(stderr.matches("memory").count(), 1, "one peak: {stderr}");
    let before = listing(&place.at("run"));
    let (stdout, stderr) = place.succeed(&["prune", "--resume", "run"]);
    assert_eq!(stdout, "run/pruned\n");
    assert!(stderr.contains("run is finished") && stderr.contains("--set train.steps=MORE"), "{stderr}");
    // What it reads need not even be there any more.
    std::fs::rename(place.at("data"), place.at("away")).unwrap();
    place.succeed(&["prune", "--resume", "run", "--set", "checkpoint.every_steps=2"]);
    assert_eq!(listing(&place.at("run")), before);
}

#[test]
fn a_missing_model_of_a_finished_run_is_written_without_training() {
    for (command, model) in [("prune", "pruned"), ("pretrain", "model")] {
        let place = Place::new();
        place.start(command, &[]);
        let folder = place.at("run").join(model);
        let whole = weights(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        let records = place.records("run").len();
        let (stdout, stderr) = place.succeed(&[command, "--resume", "run"]);
        assert_eq!(stdout, format!("run/{model}\n"));
        assert!(!stderr.contains("resumes after") && !stderr.contains("peak memory"), "{stderr}");
        assert!(weights(&folder) == whole);
        let kinds: Vec<Value> = place.records("run").split_off(records).iter().map(|r| r["type"].clone()).collect();
        assert_eq!(kinds, ["written"], "and no resume");
    }
}

#[test]
fn a_resume_that_does_nothing_leaves_no_trace() {
    let place = Place::new();
    place.start("pretrain", &["checkpoint.every_steps=2"]);
    place.succeed(&["pretrain", "--config", "pretrain.toml", "--set", "run.directory=half", "--stop-at", "3"]);
    let before = std::fs::read(place.at("half/metrics.jsonl")).unwrap();
    let (_, stderr) = place.succeed(&["pretrain", "--resume", "half", "--stop-at", "3"]);
    assert!(stderr.contains("stopped after step 3; resume with: shearling pretrain --resume half"), "{stderr}");
    assert!(std::fs::read(place.at("half/metrics.jsonl")).unwrap() == before);
}

#[test]
fn more_steps_go_on_from_a_finished_run_and_resume_bit_for_bit() {
    for (command, model) in [("prune", "pruned"), ("pretrain", "model")] {
        let place = Place::new();
        place.start(command, &[]);
        let more = [command, "--resume", "run", "--set", "train.steps=9"];
        let (moved, old) = (format!("run/{model}"), format!("run/{model}-6"));
        place.refuses(&more, &[&format!("mv {moved} {old}")]);
        std::fs::rename(place.at(&moved), place.at(&old)).unwrap();
        copy_folder(&place.at("run"), &place.at("parts"));
        let (_, stderr) = place.succeed(&more);
        assert!(stderr.contains("learning rate: ") && stderr.contains("schedule of 9 steps"), "{stderr}");
        assert_eq!((place.kinds("run", "step").len(), place.kinds("run", "resume")), (9, vec![6]));

        place.succeed(&[command, "--resume", "parts", "--set", "train.steps=9", "--stop-at", "7"]);
        place.succeed(&[command, "--resume", "parts"]);
        assert!(weights(&place.at(&moved)) == weights(&place.at("parts").join(model)));
    }
}

#[test]
fn a_refused_key_is_told_with_those_that_may_change_and_a_lower_rate_is_none() {
    let place = Place::new();
    place.succeed(&["pretrain", "--config", "pretrain.toml", "--stop-at", "3"]);
    let resume = |set: &'static str| ["pretrain", "--resume", "run", "--set", set];
    let may = ["train.learning_rate (lower)", "train.steps", "run.device", "checkpoint.every_steps"];
    for (set, told) in [
        ("train.batch_rows=8", "train.batch_rows: was 4, now 8"),
        ("train.learning_rate=0.5", "train.learning_rate: was 0.001, now 0.5"),
        ("prune.method=magnitude", "prune.method: was absent, now \"magnitude\""),
    ] {
        place.refuses(&resume(set), &[&[told][..], &may[..]].concat());
    }
    place.refuses(&resume("run.directory=elsewhere"), &["move the folder"]);
    place.refuses(&resume("train.steps=2"), &["the run has done 3 steps", "--set train.steps=3 ends it"]);
    let (help, _) = place.succeed(&["pretrain", "--help"]);
    assert!(may.iter().all(|key| help.replace(['\n', ' '], "").contains(&key.replace(' ', ""))), "{help}");

    let (_, stderr) = place.succeed(&resume("train.learning_rate=1e-4"));
    assert!(stderr.contains("peak of 1.00e-4"), "{stderr}");
    let rates: Vec<f64> = place.records("run").iter().filter_map(|r| r["learning_rate"]["weights"].as_f64()).collect();
    assert!(rates[2] > 5e-4 && rates[3..].iter().all(|rate| *rate < 1e-4), "{rates:?}");
    let resolved = std::fs::read_to_string(place.at("run/resolved.toml")).unwrap();
    assert!(resolved.contains("learning_rate = 0.0001"), "it holds from now on: {resolved}");
}

#[test]
fn a_run_that_takes_too_long_ends_after_fewer_steps() {
    let place = Place::new();
    place.succeed(&["pretrain", "--config", "pretrain.toml", "--stop-at", "3"]);
    copy_folder(&place.at("run"), &place.at("now"));
    let (_, stderr) = place.succeed(&["pretrain", "--resume", "run", "--set", "train.steps=4"]);
    assert!(stderr.contains("schedule of 4 steps"), "{stderr}");
    assert_eq!(place.kinds("run", "step"), [1, 2, 3, 4]);
    // Where it is: nothing is left to train, and the model is written.
    place.succeed(&["pretrain", "--resume", "now", "--set", "train.steps=3"]);
    assert_eq!(place.kinds("now", "step"), [1, 2, 3]);
    for run in ["run", "now"] {
        assert!(place.at(run).join("model/model.safetensors").is_file());
    }
}

#[test]
fn a_run_is_resumed_from_another_folder_and_after_a_move() {
    let place = Place::new();
    place.start("prune", &["run.directory=whole"]);
    place.succeed(&["prune", "--config", "prune.toml", "--stop-at", "3"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let run = place.at("run").display().to_string();
    said(shearling_in(elsewhere.path(), &["prune", "--resume", &run, "--stop-at", "4"]), 0);

    for folder in ["run", "data", "source"] {
        std::fs::rename(place.at(folder), place.at(&format!("moved-{folder}"))).unwrap();
    }
    let named = ["model.source = ", "data.path = ", "--set model.source=NEW --set data.path=NEW"];
    place.refuses(&["prune", "--resume", "moved-run"], &named);
    let sets = ["--set", "model.source=moved-source", "--set", "data.path=moved-data"];
    place.succeed(&[&["prune", "--resume", "moved-run"][..], &sets[..]].concat());
    assert!(weights(&place.at("moved-run/pruned")) == weights(&place.at("whole/pruned")));
    let card = |run: &str| std::fs::read_to_string(place.at(run).join("pruned/README.md")).unwrap();
    assert!(!card("moved-run").contains(&place.folder.path().display().to_string()), "{}", card("moved-run"));
}

#[test]
fn other_data_under_the_name_of_the_old_is_refused() {
    let place = Place::new();
    place.succeed(&["pretrain", "--config", "pretrain.toml", "--stop-at", "3"]);
    let text = place.at("text");
    std::fs::create_dir(&text).unwrap();
    let document = |number: u32| format!("{{\"text\": \"{}\"}}\n", format!("{number} other words ").repeat(200));
    std::fs::write(text.join("a.jsonl"), (0..20).map(document).collect::<String>()).unwrap();
    let tokenizer = place.at("data/tokenizer.json").display().to_string();
    let domain = format!("other={}", text.display());
    let prepare = ["data", "prepare", "--domain", &domain, "--out", "other", "--tokenizer", &tokenizer];
    place.succeed(&[&prepare[..], &["--sequence-length", "32", "--validation-fraction", "0.5"]].concat());
    place.refuses(&["pretrain", "--resume", "run", "--set", "data.path=other"], &["does not fit"]);
}

#[test]
fn a_mix_is_told_all_that_it_lacks_and_a_static_one_needs_no_references() {
    let place = Place::new();
    let plan = |sets: &[&'static str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        place.shearling(&[&["plan", "--config", "pretrain.toml"][..], &sets].concat())
    };
    let names = shearling_domains::Dataset::open(place.at("data")).unwrap().domain_names().to_vec();
    let one: &'static str = format!("mixer.proportions.{}=0.25", names[0]).leak();
    let (problems, _) = said(plan(&[one]), 1);
    let missing = names[1..].iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    assert!(problems.contains("mixer.proportions has no value for 2 of the data's 3 domains"), "{problems}");
    assert!(problems.contains(&missing) && !problems.contains("scale"), "{problems}");

    std::fs::write(place.at("references.json"), "{\"reference_loss\": {}}").unwrap();
    let (problems, _) = said(plan(&["mixer.kind=dynamic", "mixer.reference_file=references.json"]), 1);
    assert!(problems.contains("mixer.reference_file references.json has no value for 3"), "{problems}");
    let (problems, _) = said(plan(&["mixer.kind=dynamic", "mixer.reference_file=nowhere.json"]), 1);
    assert!(problems.contains("mixer.reference_file: cannot read nowhere.json"), "{problems}");
    let (_, stderr) = said(plan(&["mixer.reference_file=nowhere.json"]), 0);
    assert!(stderr.contains("warning: ") && stderr.contains("nowhere.json"), "{stderr}");
    let one: &'static str = format!("mixer.reference_loss.{}=2.0", names[0]).leak();
    said(plan(&[one]), 0);
}

#[test]
fn what_continues_a_bf16_model_is_written_in_bf16_unless_told_otherwise() {
    let place = Place::new();
    place.start("pretrain", &["run.directory=first", "checkpoint.export_dtype=bf16", "train.steps=2"]);
    let sets = ["run.directory=second", "model.source=first/model", "train.steps=2"];
    let (plan, _) = place.succeed(&["plan", "--config", "pretrain.toml", "--set", sets[1]]);
    assert!(plan.contains("written model: bf16, "), "{plan}");
    place.start("pretrain", &sets);
    let written = tensors(&place.at("second/model/model.safetensors"));
    assert!(written.values().all(|weight| weight.kind() == tch::Kind::BFloat16));
    place.start("pretrain", &["run.directory=third", sets[1], sets[2], "checkpoint.export_dtype=fp32"]);
    let written = tensors(&place.at("third/model/model.safetensors"));
    assert!(written.values().all(|weight| weight.kind() == tch::Kind::Float));
}
