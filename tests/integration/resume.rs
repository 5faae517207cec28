//! A run that stops and resumes is the same run, bit for bit, in both stages; and what a run keeps.

use super::support::{copy_folder, data, tensors, write_tiny_source};
use shearling::config::{RunConfig, Stage, parse};
use shearling::lte;
use shearling::run_dir::layout::{METRICS, mask_file};
use shearling::train::{Observer, Outcome, Setup, metrics, run};
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

struct Quiet;
impl Observer for Quiet {}

/// Twelve steps with everything that has state: accumulation, moving proportions, evaluations, checkpoints.
fn config(folder: &Path, run: &str, stage: Stage, sets: &[&str]) -> RunConfig {
    let target = match stage {
        Stage::Prune => {
            "[target]\nhidden_size = 24\nintermediate_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 2\n[prune]\nmethod = 'learned'"
        }
        Stage::Pretrain => "",
        Stage::Lte => "[lte]\nexpert_size = 4\ncalibration_rows = 6",
    };
    let domains = shearling_domains::Dataset::open(data()).unwrap().domain_names().to_vec();
    let references = domains.iter().map(|name| format!("{name} = 4.0")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "[run]\ndirectory = '{}'\nseed = 3\ndevice = 'cpu'\n[model]\nsource = '{}'\n{target}\n[data]\npath = '{}'\n\
         max_epochs = 100\n[mixer]\nkind = 'dynamic'\nreference_loss = {{ {references} }}\n\
         [train]\nsteps = 12\nbatch_rows = 6\nmicro_batch_rows = 3\nlearning_rate = 1e-3\nwarmup_steps = 2\n\
         [eval]\nevery_steps = 4\nrows_per_domain = 2\n[checkpoint]\nevery_steps = 3\n",
        folder.join(run).display(),
        folder.join("source").display(),
        data().display()
    );
    let sets: Vec<String> = sets.iter().map(|set| set.replace("FOLDER", &folder.display().to_string())).collect();
    parse(&text, "test", &sets).unwrap()
}

fn go(config: RunConfig, stage: Stage, resume: bool, stop_at: Option<u64>) -> Outcome {
    tch::set_num_threads(1);
    let setup = Setup::new(config, stage, Device::Cpu).unwrap();
    run(&setup, resume, stop_at, &mut Quiet).unwrap()
}

fn same_bits(a: &Path, b: &Path) {
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, tensor) in &a {
        assert!(tensor.equal(&b[name]), "{name} differs");
    }
}

/// The state file without what is allowed to differ: time.
fn state(step: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(step.join("state.json")).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    state["counters"]["seconds"] = 0.into();
    state
}

fn last_step(outcome: &Outcome) -> PathBuf {
    outcome.checkpoint.clone().unwrap()
}

fn stopping_anywhere_changes_nothing(stage: Stage, sets: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let whole = go(config(folder.path(), "whole", stage, sets), stage, false, None);
    assert!(whole.finished);
    // On an evaluation, between two, and twice in one run.
    for (name, stops) in [("at-4", vec![4]), ("at-5", vec![5]), ("at-2-7", vec![2, 7])] {
        let mut resume = false;
        for stop in stops {
            let part = go(config(folder.path(), name, stage, sets), stage, resume, Some(stop));
            assert!(!part.finished && part.step == stop);
            resume = true;
        }
        let parts = go(config(folder.path(), name, stage, sets), stage, true, None);
        let (a, b) = (last_step(&whole), last_step(&parts));
        same_bits(&a.join("model/model.safetensors"), &b.join("model/model.safetensors"));
        same_bits(&a.join("optimizer.safetensors"), &b.join("optimizer.safetensors"));
        if stage == Stage::Prune {
            same_bits(&mask_file(&a), &mask_file(&b));
        }
        if stage == Stage::Lte {
            same_bits(&a.join(lte::file::FILE_NAME), &b.join(lte::file::FILE_NAME));
        }
        assert_eq!(state(&a), state(&b), "{name}");
        assert_eq!(history(&whole.run), history(&parts.run), "{name}");
    }
}

/// Asks to stop in the evaluation that its counter says, after the first row of it.
struct StopsIn {
    evaluation: usize,
    interrupted: bool,
}

impl Observer for StopsIn {
    fn evaluating(&mut self, what: &str, done: usize, _: usize) {
        // A teacher is evaluated with the model before the first step.
        self.evaluation -= usize::from(done == 0 && what != "teacher");
        self.interrupted |= self.evaluation == 0 && done > 0;
    }

    fn interrupted(&mut self) -> bool {
        self.interrupted
    }
}

/// Runs that are stopped in each of the evaluations that there are, and resumed.
fn stopping_in_an_evaluation_changes_nothing(stage: Stage, sets: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let sets = &[&["train.micro_batch_rows=1"], sets].concat()[..];
    let whole = go(config(folder.path(), "whole", stage, sets), stage, false, None);
    let evaluations = history(&whole.run).iter().filter(|record| record["type"] == "eval").count();
    for evaluation in 1..=evaluations {
        let name = format!("in-{evaluation}");
        let mut stops = StopsIn { evaluation, interrupted: false };
        let setup = Setup::new(config(folder.path(), &name, stage, sets), stage, Device::Cpu).unwrap();
        let part = run(&setup, false, None, &mut stops).unwrap();
        assert!(stops.interrupted && !part.finished, "{name}");
        let made = history(&part.run).iter().filter(|record| record["type"] == "eval").count();
        assert_eq!(made, evaluation - 1, "{name}: the one that was left is not recorded");
        let due = part.checkpoint.as_ref().map(|step| state(step)["counters"]["evaluation_due"].clone());
        assert!(part.step == 0 || due.is_some_and(|due| due.is_string()), "{name}");

        let parts = go(config(folder.path(), &name, stage, sets), stage, true, None);
        assert!(parts.finished, "{name}");
        let (a, b) = (last_step(&whole), last_step(&parts));
        same_bits(&a.join("model/model.safetensors"), &b.join("model/model.safetensors"));
        same_bits(&a.join("optimizer.safetensors"), &b.join("optimizer.safetensors"));
        assert_eq!(history(&whole.run), history(&parts.run), "{name}");
        match stage {
            Stage::Prune => same_bits(&mask_file(&a), &mask_file(&b)),
            Stage::Lte => same_bits(&a.join(lte::file::FILE_NAME), &b.join(lte::file::FILE_NAME)),
            Stage::Pretrain => (),
        }
        if stage == Stage::Lte {
            // The densities of the last evaluation too, which are not among the tensors.
            let bytes = |step: &Path| std::fs::read(step.join(lte::file::FILE_NAME)).unwrap();
            assert!(bytes(&a) == bytes(&b), "{name}");
        }
        assert_eq!(state(&a), state(&b), "{name}");
        // Nothing is left to do.
        let lines = || std::fs::read(parts.run.join(METRICS)).unwrap();
        let before = lines();
        assert!(go(config(folder.path(), &name, stage, sets), stage, true, None).finished);
        assert!(before == lines(), "{name}");
    }
}

#[test]
fn a_run_that_is_stopped_in_an_evaluation_makes_it_when_it_resumes() {
    stopping_in_an_evaluation_changes_nothing(Stage::Prune, &[]);
    stopping_in_an_evaluation_changes_nothing(
        Stage::Pretrain,
        &["distill.teacher=FOLDER/source", "distill.weight=0.5"],
    );
    stopping_in_an_evaluation_changes_nothing(Stage::Lte, &[]);
}

/// Stopped again in the evaluation that it makes first, or killed after it, a run makes it once more and writes it once.
#[test]
fn an_evaluation_that_is_due_is_recorded_once_however_often_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let sets = ["train.micro_batch_rows=1"];
    let stage = Stage::Prune;
    let whole = go(config(folder.path(), "whole", stage, &sets), stage, false, None);
    let setup = || Setup::new(config(folder.path(), "run", stage, &sets), stage, Device::Cpu).unwrap();
    // The start, then the model after three steps.
    let mut stops = StopsIn { evaluation: 2, interrupted: false };
    assert_eq!(run(&setup(), false, None, &mut stops).unwrap().step, 3);
    for _ in 0..2 {
        // The model, and in the cut it is stopped again.
        let mut stops = StopsIn { evaluation: 2, interrupted: false };
        let again = run(&setup(), true, None, &mut stops).unwrap();
        assert!(again.step == 3 && !again.finished && stops.interrupted);
    }
    let parts = go(config(folder.path(), "run", stage, &sets), stage, true, None);
    assert_eq!(history(&whole.run), history(&parts.run));
    assert_eq!(state(&last_step(&whole)), state(&last_step(&parts)));
}

/// The records of a run without times, resumes and the checkpoints of stops.
fn history(run: &Path) -> Vec<serde_json::Value> {
    let records = metrics::read(&run.join(METRICS)).unwrap();
    let kept = records.into_iter().filter(|record| record["type"] == "step" || record["type"] == "eval");
    kept.map(|mut record| {
        for key in ["time", "seconds", "tokens_per_second", "model_flops_per_second", "peak_memory_bytes"] {
            record[key] = 0.into();
        }
        record
    })
    .collect()
}

#[test]
fn a_prune_run_resumes_bit_for_bit() {
    stopping_anywhere_changes_nothing(Stage::Prune, &[]);
}

#[test]
fn an_lte_run_resumes_bit_for_bit_in_both_stages() {
    stopping_anywhere_changes_nothing(Stage::Lte, &[]);
    stopping_anywhere_changes_nothing(Stage::Lte, &["lte.mode=paper", "lte.router_steps=5"]);
    // Routers frozen from the start; and the density falling all the time.
    stopping_anywhere_changes_nothing(Stage::Lte, &["lte.router_steps=0", "run.dtype=bf16"]);
    stopping_anywhere_changes_nothing(
        Stage::Lte,
        &["lte.router_steps=12", "lte.density_steps=12", "lte.grouping=random"],
    );
}

#[test]
fn a_prune_run_with_other_noise_count_and_multipliers_resumes_bit_for_bit() {
    let sets = ["masks.noise=annealed", "masks.count=unbiased", "masks.anti_windup=true"];
    stopping_anywhere_changes_nothing(Stage::Prune, &sets);
}

#[test]
fn a_prune_run_with_deterministic_masks_resumes_bit_for_bit() {
    stopping_anywhere_changes_nothing(Stage::Prune, &["masks.preset=deterministic", "masks.largest_gate=1.5"]);
    let frozen = ["masks.frozen_weights=true", "distill.weight=0.5", "masks.init=scores"];
    stopping_anywhere_changes_nothing(Stage::Prune, &[&["masks.preset=deterministic"], &frozen[..]].concat());
}

#[test]
fn a_prune_run_with_frozen_weights_resumes_bit_for_bit() {
    let frozen = ["masks.frozen_weights=true", "distill.weight=0.5"];
    stopping_anywhere_changes_nothing(Stage::Prune, &frozen);
    // bf16 weights in another basis than the file's.
    let rotated = ["masks.preset=top-k", "run.dtype=bf16"];
    stopping_anywhere_changes_nothing(Stage::Prune, &[&frozen[..], &rotated].concat());
}

#[test]
fn a_prune_run_with_top_k_masks_resumes_bit_for_bit() {
    let open = "masks.init=open";
    stopping_anywhere_changes_nothing(Stage::Prune, &["masks.preset=top-k"]);
    stopping_anywhere_changes_nothing(Stage::Prune, &["masks.preset=top-k", open, "prune.layer_score=loss"]);
    stopping_anywhere_changes_nothing(Stage::Prune, &["masks.init=scores"]);
    stopping_anywhere_changes_nothing(Stage::Prune, &["masks.preset=top-k", "prune.basis=principal"]);
}

/// With top-k masks the last step trains the model that is cut out: the last evaluation of the masks as they are is that of
/// the cut, and nothing is half-alive.
#[test]
fn top_k_masks_end_in_the_model_that_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let outcome = go(config(folder.path(), "run", Stage::Prune, &["masks.preset=top-k"]), Stage::Prune, false, None);
    let records = metrics::read(&outcome.run.join(METRICS)).unwrap();
    let last = |gates: &str| {
        let mut found = records.iter().filter(|record| record["type"] == "eval" && record["gates"] == gates);
        found.next_back().unwrap().clone()
    };
    let (expected, target) = (last("expected"), last("target"));
    assert_eq!(expected["step"], 12);
    let (expected, cut) = (expected["mean_loss"].as_f64().unwrap(), target["mean_loss"].as_f64().unwrap());
    // The same numbers but for the ε of the norms, which a mean over fewer dimensions weighs differently.
    assert!((expected - cut).abs() < 1e-3 * cut, "{expected} {cut}");
    for step in records.iter().filter(|record| record["type"] == "step") {
        for constraint in step["constraints"].as_array().unwrap() {
            assert!(constraint["worst_row_violation"].as_f64().unwrap() < 1e-4, "{constraint}");
        }
    }
}

#[test]
fn a_pretrain_run_resumes_bit_for_bit() {
    stopping_anywhere_changes_nothing(Stage::Pretrain, &[]);
}

#[test]
fn a_bf16_run_with_bf16_moments_resumes_bit_for_bit() {
    stopping_anywhere_changes_nothing(Stage::Prune, &["run.dtype=bf16", "train.moments=bf16"]);
}

#[test]
fn a_bf16_run_with_8_bit_moments_resumes_bit_for_bit() {
    stopping_anywhere_changes_nothing(Stage::Prune, &["run.dtype=bf16", "train.moments=8bit"]);
}

/// The teacher of a pruning run is its source, in bf16; masks, gates and the teacher meet in one step.
#[test]
fn a_prune_run_with_a_teacher_resumes_bit_for_bit() {
    stopping_anywhere_changes_nothing(Stage::Prune, &["distill.weight=0.5", "distill.temperature=2"]);
}

#[test]
fn a_pretrain_run_with_a_teacher_resumes_bit_for_bit() {
    let sets = ["distill.teacher=FOLDER/source", "distill.weight=0.5", "distill.dtype=fp32", "run.dtype=bf16"];
    stopping_anywhere_changes_nothing(Stage::Pretrain, &sets);
}

#[test]
fn moments_are_saved_in_their_kind() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    for (kind, [first, second]) in [("bf16", [Kind::BFloat16; 2]), ("8bit", [Kind::Int8, Kind::Uint8])] {
        let moments = format!("train.moments={kind}");
        let outcome = go(config(folder.path(), kind, Stage::Prune, &[&moments]), Stage::Prune, false, Some(2));
        for (name, moment) in tensors(&last_step(&outcome).join("optimizer.safetensors")) {
            let of_weights = name.contains("model.") || name.contains("lm_head");
            let kept = if name.starts_with("exp_avg_sq.") { second } else { first };
            assert_eq!(moment.kind(), if of_weights { kept } else { Kind::Float }, "{name}");
        }
    }
}

#[test]
fn another_seed_is_another_run() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let one = go(config(folder.path(), "one", Stage::Prune, &[]), Stage::Prune, false, Some(4));
    let two = go(config(folder.path(), "two", Stage::Prune, &["run.seed=4"]), Stage::Prune, false, Some(4));
    let (one, two) = (tensors(&mask_file(&last_step(&one))), tensors(&mask_file(&last_step(&two))));
    assert!(one.iter().any(|(name, tensor)| !tensor.equal(&two[name])));
}

#[test]
fn a_broken_newest_checkpoint_falls_back_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let stage = Stage::Prune;
    let whole = go(config(folder.path(), "whole", stage, &[]), stage, false, None);
    let stopped = go(config(folder.path(), "broken", stage, &[]), stage, false, Some(3));
    let kept = last_step(&stopped);
    let spare = folder.path().join("spare");
    copy_folder(&kept, &spare);
    let stopped = go(config(folder.path(), "broken", stage, &[]), stage, true, Some(6));
    // Only the newest is left after retention: put the older one back, then flip a byte of the newest.
    copy_folder(&spare, &kept);
    let weights = last_step(&stopped).join("model/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let resumed = go(config(folder.path(), "broken", stage, &[]), stage, true, None);
    same_bits(&mask_file(&last_step(&whole)), &mask_file(&last_step(&resumed)));
}

/// What a run says.
#[derive(Default)]
struct Notes(Vec<String>);

impl Observer for Notes {
    fn noted(&mut self, message: &str) {
        self.0.push(message.to_string());
    }
}

#[test]
fn what_becomes_of_a_broken_checkpoint_is_what_is_said() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let stage = Stage::Pretrain;
    let first = last_step(&go(config(folder.path(), "run", stage, &[]), stage, false, Some(3)));
    let spare = folder.path().join("spare");
    copy_folder(&first, &spare);
    let second = last_step(&go(config(folder.path(), "run", stage, &[]), stage, true, Some(6)));
    std::fs::write(second.join("state.json"), "{").unwrap();

    let resume = |notes: &mut Notes| {
        let setup = Setup::new(config(folder.path(), "run", stage, &[]), stage, Device::Cpu).unwrap();
        run(&setup, true, Some(4), notes)
    };
    let mut notes = Notes::default();
    let message = resume(&mut notes).unwrap_err().to_string();
    assert!(message.contains("no good checkpoint to resume from"), "{message}");
    let [said] = &notes.0[..] else { panic!("{:?}", notes.0) };
    assert!(said.contains("step 6 is broken and kept") && !said.contains("removed"), "{said}");
    assert!(second.is_dir(), "it is kept");

    copy_folder(&spare, &first);
    let mut notes = Notes::default();
    resume(&mut notes).unwrap();
    assert!(notes.0.iter().any(|said| said == "the broken checkpoint of step 6 is removed"), "{:?}", notes.0);
    assert!(!second.exists() && notes.0.iter().all(|said| !said.contains("kept")), "{:?}", notes.0);
}

#[test]
fn a_source_that_changed_meanwhile_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    let stage = Stage::Prune;
    go(config(folder.path(), "run", stage, &[]), stage, false, Some(3));
    let path = folder.path().join("source/config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"rope_theta\":10000.0", "\"rope_theta\":50.0")).unwrap();
    assert_ne!(text, std::fs::read_to_string(&path).unwrap());
    let setup = Setup::new(config(folder.path(), "run", stage, &[]), stage, Device::Cpu).unwrap();
    let message = run(&setup, true, None, &mut Quiet).unwrap_err().to_string();
    assert!(message.contains("another model"), "{message}");
}

#[test]
fn the_last_and_the_best_checkpoint_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    // A learning rate that ruins the model after a good start: the best step is an early one.
    let sets = ["train.learning_rate=3.0", "train.warmup_steps=11", "train.divergence=warn"];
    let outcome = go(config(folder.path(), "run", Stage::Pretrain, &sets), Stage::Pretrain, false, None);
    let mut steps: Vec<String> = std::fs::read_dir(outcome.run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    steps.sort();
    let state = state(&last_step(&outcome));
    let best = state["counters"]["best"]["step"].as_u64().unwrap();
    assert!(best < 12, "an early step was best");
    assert_eq!(steps, [format!("step-{best:08}"), "step-00000012".to_string()]);
}
