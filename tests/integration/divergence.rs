//! A run that destroys its model says so and ends with an error that tells the way back; a model that is broken before the
//! first step is refused.

use super::support::{data, shearling, tensors, write_tiny_source};
use serde_json::Value;
use shearling::config::{Stage, parse};
use shearling::files::TensorFile;
use shearling::inspect::RunHistory;
use shearling::run_dir::layout::METRICS;
use shearling::train::{Error, Observer, Setup, metrics, run};
use std::path::PathBuf;
use tch::Device;

/// Keeps what a run says.
#[derive(Default)]
struct Notes(Vec<String>);
impl Observer for Notes {
    fn noted(&mut self, message: &str) {
        self.0.push(message.to_string());
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        write_tiny_source(&place.path("source"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self) -> String {
        format!(
            "[run]\ndirectory = '{}'\ndevice = 'cpu'\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 1000\n\
             [train]\nsteps = 20\nbatch_rows = 2\nlearning_rate = 1e-3\n[eval]\nrows_per_domain = 2\nevery_steps = 4\n",
            self.path("run").display(),
            self.path("source").display(),
            data().display()
        )
    }

    fn setup(&self, sets: &[&str]) -> Setup {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let config = parse(&self.text(), "test", &sets).unwrap();
        let stage = if config.target.is_some() { Stage::Prune } else { Stage::Pretrain };
        Setup::new(config, stage, Device::Cpu).unwrap()
    }

    /// Runs to an error; it and what was said before.
    fn fails(&self, sets: &[&str]) -> (Error, Vec<String>) {
        let mut notes = Notes::default();
        let error = run(&self.setup(sets), false, None, &mut notes).unwrap_err();
        (error, notes.0)
    }

    fn records(&self, kind: &str) -> Vec<Value> {
        let records = metrics::read(&self.path("run").join(METRICS)).unwrap();
        records.into_iter().filter(|record| record["type"] == kind).collect()
    }

    /// Scales a tensor of the source.
    fn scale(&self, name: &str, factor: f64) {
        let path = self.path("source").join("model.safetensors");
        let mut all: Vec<(String, tch::Tensor)> = tensors(&path).into_iter().collect();
        let tensor = all.iter_mut().find(|(known, _)| known == name).unwrap();
        let _ = tensor.1.g_mul_scalar_(factor);
        TensorFile::write(&path, &all, &Default::default()).unwrap();
    }
}

const PRUNE: [&str; 4] =
    ["target.hidden_size=24", "target.intermediate_size=32", "target.num_attention_heads=2", "prune.method=learned"];

#[test]
fn a_learning_rate_that_destroys_the_model_ends_the_run_in_both_stages() {
    for stage in [&[][..], &PRUNE] {
        let place = Place::new();
        let (error, notes) = place.fails(&[stage, &["train.learning_rate=1e4"]].concat());
        let Error::Diverged { step: 12, found, recovery_advice } = &error else { panic!("{error}") };
        assert!(found.contains("3 in a row"), "{found}");
        assert!(
            recovery_advice.contains("No checkpoint was written") && recovery_advice.contains("(now 1e4)"),
            "{recovery_advice}"
        );
        assert_eq!(notes.len(), 1, "said once: {notes:?}");
        assert!(
            notes[0].starts_with("step 4: the validation loss ") && notes[0].contains("ends with an error"),
            "{notes:?}"
        );
        assert_eq!(place.records("divergence").len(), 1);
        assert_eq!(place.records("ended")[0]["reason"], error.to_string());
        let history = RunHistory::read(&place.path("run")).unwrap();
        let told: Vec<&str> = history.notes.iter().map(|note| note.text.as_str()).collect();
        assert!(told.iter().any(|text| text.contains("step 12: the run ended with an error")), "{told:?}");
        assert!(told.iter().any(|text| text.contains("step 4: the validation loss")), "{told:?}");
    }
}

#[test]
fn it_is_exit_code_2_and_no_model_even_when_only_the_last_evaluation_shows_it() {
    let place = Place::new();
    let config = place.path("config.toml");
    std::fs::write(&config, place.text()).unwrap();
    let config = config.display().to_string();
    let sets = ["--set", "train.steps=3", "--set", "train.learning_rate=1e4", "--set", "eval.every_steps=50"];
    let output = shearling(&[&["pretrain", "--config", &config], &sets[..]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("the run has diverged at step 3 (at its last evaluation the validation loss"), "{stderr}");
    assert!(stderr.contains("The only checkpoint (step 3) was written when the losses were bad already"), "{stderr}");
    assert!(!place.path("run/model").exists());
    // A second look at the finished run is no way around it.
    let run = place.path("run").display().to_string();
    let output = shearling(&["pretrain", "--resume", &run]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(place.records("ended").len(), 1);
    // Unless that is what the user wants.
    let output = shearling(&["pretrain", "--resume", &run, "--set", "train.divergence=warn"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(place.path("run/model").is_dir());
}

#[test]
fn with_the_other_policy_it_is_only_said() {
    let place = Place::new();
    let mut notes = Notes::default();
    let setup = place.setup(&["train.learning_rate=1e4", "train.divergence=warn"]);
    let outcome = run(&setup, false, None, &mut notes).unwrap();
    assert!(outcome.finished);
    assert_eq!(notes.0.len(), 1, "{:?}", notes.0);
    assert!(notes.0[0].contains("the run goes on (train.divergence = \"warn\")"), "{:?}", notes.0);
}

#[test]
fn a_resumed_run_judges_as_the_uninterrupted_one() {
    let place = Place::new();
    let setup = place.setup(&["train.learning_rate=1e4"]);
    let outcome = run(&setup, false, Some(9), &mut Notes::default()).unwrap();
    assert_eq!(outcome.step, 9);
    let mut notes = Notes::default();
    let error = run(&setup, true, None, &mut notes).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 12, .. }), "{error}");
    assert!(notes.0.is_empty(), "what was said is not said again: {:?}", notes.0);
    assert_eq!(place.records("divergence").len(), 1);
}

#[test]
fn a_healthy_prune_run_and_training_from_random_weights_are_left_alone() {
    let place = Place::new();
    let mut notes = Notes::default();
    let prune = [&PRUNE[..], &["train.steps=60", "train.learning_rate=2e-3"]].concat();
    run(&place.setup(&prune), false, None, &mut notes).unwrap();
    std::fs::remove_dir_all(place.path("run")).unwrap();
    let text = place.text().replace(&format!("source = '{}'", place.path("source").display()), "");
    let shape =
        "[model.random]\nhidden_size = 16\nintermediate_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 2\n";
    let config = parse(&format!("{text}{shape}"), "test", &[]).unwrap();
    run(&Setup::new(config, Stage::Pretrain, Device::Cpu).unwrap(), false, None, &mut notes).unwrap();
    assert!(notes.0.is_empty(), "{:?}", notes.0);
    assert!(place.records("divergence").is_empty());
}

#[test]
fn after_non_finite_steps_the_checkpoint_with_the_ruined_weights_is_not_called_good() {
    // The first update takes the weights to 1e37; they are finite and give no finite loss any more.
    let rate = ["train.learning_rate=2e37", "train.max_skipped_steps=3"];
    let place = Place::new();
    let (error, _) = place.fails(&rate);
    let Error::NonFinite { skipped: 3, step: 4, recovery_advice } = &error else { panic!("{error}") };
    assert!(recovery_advice.contains("No checkpoint was written"), "{recovery_advice}");
    assert!(error.to_string().contains("updates before them may have ruined these"), "{error}");

    // Stopped by hand after it, with a checkpoint that no evaluation has seen.
    std::fs::remove_dir_all(place.path("run")).unwrap();
    let setup = place.setup(&rate);
    run(&setup, false, Some(1), &mut Notes::default()).unwrap();
    let error = run(&setup, true, None, &mut Notes::default()).unwrap_err();
    let Error::NonFinite { recovery_advice, .. } = &error else { panic!("{error}") };
    assert!(
        recovery_advice.contains("The only checkpoint (step 1)") && recovery_advice.contains("ruined weights"),
        "{recovery_advice}"
    );
}

#[test]
fn weights_that_are_not_finite_are_never_saved() {
    let place = Place::new();
    let setup = place.setup(&["train.learning_rate=1e39", "checkpoint.every_steps=100"]);
    let error = run(&setup, false, Some(1), &mut Notes::default()).unwrap_err();
    assert!(matches!(error, Error::RuinedWeights { step: 1, .. }), "{error}");
    assert_eq!(std::fs::read_dir(place.path("run/checkpoints")).unwrap().count(), 0);
}

#[test]
fn the_newest_good_checkpoint_is_kept_and_named() {
    let place = Place::new();
    // With so long a warm-up the first steps are harmless, the later ones are not.
    let sets = ["train.learning_rate=30", "train.steps=4000", "train.warmup_steps=3999", "checkpoint.every_steps=4"];
    let (error, _) = place.fails(&sets);
    let Error::Diverged { recovery_advice, .. } = &error else { panic!("{error}") };
    let (_, named) = recovery_advice.split_once("the newest good one is that of step ").expect(recovery_advice);
    let (good, _) = named.split_once(". To go back to it, remove ").expect(recovery_advice);
    let good: u64 = good.parse().unwrap();
    // Which one that is depends on the last bits of the machine's arithmetic: one of those that were saved, before the losses
    // that ended the run, with one that did not.
    let step = |record: &Value| record["step"].as_u64().unwrap();
    let last = place.records("save").iter().map(step).max().unwrap();
    assert!(good < last && place.records("save").iter().any(|save| step(save) == good), "{good} {last}");
    let evaluations = place.records("eval");
    let loss = |at: u64| evaluations.iter().find(|eval| step(eval) == at).unwrap()["mean_loss"].as_f64().unwrap();
    assert!(loss(good) < loss(last) - 0.5, "{} {}", loss(good), loss(last));
    assert!(recovery_advice.ends_with("--set train.learning_rate=3"), "{recovery_advice}");
    assert!(place.path(&format!("run/checkpoints/step-{good:08}")).is_dir());
    // As told: the later ones removed, the run goes on from there.
    let saves = place.records("save");
    for save in &saves[saves.len() - 2..] {
        let step = save["step"].as_u64().unwrap();
        let folder = place.path(&format!("run/checkpoints/step-{step:08}"));
        assert_eq!(recovery_advice.contains(&folder.display().to_string()), folder.is_dir(), "{recovery_advice}");
        let _ = std::fs::remove_dir_all(folder);
    }
    let outcome = run(&place.setup(&sets), true, Some(good + 1), &mut Notes::default()).unwrap();
    assert_eq!(outcome.step, good + 1);
}

#[test]
fn a_model_with_a_non_finite_loss_before_the_first_step_is_refused_and_leaves_nothing() {
    for stage in [&[][..], &PRUNE] {
        let place = Place::new();
        place.scale("lm_head.weight", 1e38);
        place.scale("model.norm.weight", 1e38);
        let (error, _) = place.fails(stage);
        let Error::BrokenStart { model, remedy, .. } = &error else { panic!("{error}") };
        assert!(model.contains("model.source") && remedy.contains("shearling eval"), "{error}");
        assert!(!error.to_string().contains("learning_rate"), "{error}");
        assert!(!place.path("run").exists());
    }
}
