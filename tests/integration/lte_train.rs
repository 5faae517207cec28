//! A model that learns to run few of its experts: the share is what was asked for, frozen routers stay as they are, recomputed
//! blocks and micro-batches change nothing, the folder says what ran, and a bound on the loss is kept or told.

use super::support::{data, shearling, succeed, tensors, write_tiny_source};
use serde_json::Value;
use shearling::config::{RunConfig, Stage, parse};
use shearling::eval::EvalRows;
use shearling::hf::Checkpoint;
use shearling::lte::evaluate::routed_row_losses;
use shearling::lte::install::install;
use shearling::lte::meter::Meter;
use shearling::lte::{Stage as Taught, file};
use shearling::model::{Decoder, ForwardContext};
use shearling::run_dir::layout::METRICS;
use shearling::train::{Observer, Outcome, Setup, metrics, run};
use std::path::{Path, PathBuf};
use tch::Device;

struct Quiet;
impl Observer for Quiet {}

fn config(folder: &Path, name: &str, sets: &[&str]) -> RunConfig {
    let text = format!(
        "[run]\ndirectory = '{}'\nseed = 3\ndevice = 'cpu'\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 100\n\
         [train]\nsteps = 40\nbatch_rows = 8\nlearning_rate = 1e-3\n[lte]\nexpert_size = 4\ncalibration_rows = 8\n\
         [eval]\nevery_steps = 10\nrows_per_domain = 4\n[checkpoint]\nevery_steps = 20\n",
        folder.join(name).display(),
        folder.join("source").display(),
        data().display()
    );
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    parse(&text, "test", &sets).unwrap()
}

fn go(folder: &Path, name: &str, sets: &[&str]) -> Outcome {
    tch::set_num_threads(1);
    let setup = Setup::new(config(folder, name, sets), Stage::Lte, Device::Cpu).unwrap();
    run(&setup, false, None, &mut Quiet).unwrap()
}

fn source() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_source(&folder.path().join("source"));
    folder
}

fn records(outcome: &Outcome, of: &str) -> Vec<Value> {
    let records = metrics::read(&outcome.run.join(METRICS)).unwrap();
    records.into_iter().filter(|record| record["type"] == of).collect()
}

fn evaluation(outcome: &Outcome, gates: &str, step: u64) -> Value {
    let found = records(outcome, "eval").into_iter().find(|record| record["gates"] == gates && record["step"] == step);
    found.unwrap_or_else(|| panic!("no evaluation {gates} at step {step}"))
}

fn step_folder(outcome: &Outcome, step: u64) -> PathBuf {
    outcome.run.join(format!("checkpoints/step-{step:08}"))
}

#[test]
fn the_share_that_runs_is_the_one_asked_for() {
    let folder = source();
    for (name, density, falling) in [("half", 0.5, 0), ("few", 0.25, 0), ("falling", 0.5, 10)] {
        let falls = format!("lte.density_steps={falling}");
        let asked = format!("lte.density={density}");
        // At once is what a run does that is told nothing.
        let sets = if falling == 0 { vec![&asked[..]] } else { vec![&asked[..], &falls] };
        let outcome = go(folder.path(), name, &sets);
        let steps = records(&outcome, "step");
        let of = |step: &Value, key: &str| step["routers"][key].as_f64().unwrap();
        // What runs follows the target: all of it from the first step, or one that falls over the first ten.
        let expected = if falling == 0 { density } else { 0.95 };
        assert!((of(&steps[1], "target") - expected).abs() < 1e-9, "{name}: {}", steps[1]["routers"]);
        assert!((of(&steps[1], "density") - expected).abs() < 0.1, "{name}: {}", steps[1]["routers"]);
        let late: Vec<f64> = steps[20..].iter().map(|step| of(step, "density")).collect();
        let mean = late.iter().sum::<f64>() / late.len() as f64;
        assert!((mean - density).abs() < 0.02, "{name}: {mean}");
        assert_eq!(
            (steps[19]["routers"]["stage"].as_u64(), steps[20]["routers"]["stage"].as_u64()),
            (Some(1), Some(2))
        );
        let last = evaluation(&outcome, "experts", 40);
        let found = last["experts"]["density"].as_f64().unwrap();
        assert!((found - density).abs() < 0.05, "{name}: {found} on held-out rows");
        // The start is told of the dense model.
        assert!(evaluation(&outcome, "plain", 0)["experts"].is_null());
    }
}

#[test]
fn routers_train_in_the_first_stage_and_stay_in_the_second() {
    let folder = source();
    let outcome = go(folder.path(), "run", &["checkpoint.every_steps=10", "lte.mode=paper", "lte.router_steps=20"]);
    let at = |step: u64| tensors(&step_folder(&outcome, step).join(file::FILE_NAME));
    let end = at(40);
    let stage_1: Vec<Value> =
        records(&outcome, "step").into_iter().filter(|step| step["step"].as_u64() <= Some(20)).collect();
    assert!(stage_1.iter().all(|step| step["gradient_norm"]["routers"].as_f64().unwrap() > 0.0));
    let stage_2: Vec<Value> =
        records(&outcome, "step").into_iter().filter(|step| step["step"].as_u64() > Some(20)).collect();
    for step in &stage_2 {
        assert_eq!(step["gradient_norm"]["routers"], 0.0);
        assert_eq!(step["learning_rate"]["routers"], 0.0);
    }
    // Frozen weights are bf16 numbers, in the checkpoint as in the model's folder.
    let weights: Vec<_> = end.iter().filter(|(name, _)| name.ends_with("router.weight")).collect();
    assert!(!weights.is_empty());
    for (name, weight) in weights {
        let rounded = weight.to_kind(tch::Kind::BFloat16).to_kind(tch::Kind::Float);
        assert!(weight.equal(&rounded), "{name}");
        assert!(!end.contains_key(&name.replace("weight", "bias")), "the paper's routers have no bias");
    }
    // Scores multiply in stage 1: both ways are told, up to the switch.
    assert!(evaluation(&outcome, "soft", 20)["mean_loss"].is_number());
    assert!(
        records(&outcome, "eval").iter().all(|record| record["gates"] != "soft" || record["step"].as_u64() <= Some(20))
    );
}

#[test]
fn recomputed_blocks_and_micro_batches_change_nothing() {
    let folder = source();
    let losses = |name: &str, sets: &[&str]| -> Vec<(f64, f64, f64)> {
        let sets =
            [&["train.steps=4", "lte.router_steps=4", "lte.density_steps=2", "lte.mode=paper"][..], sets].concat();
        let outcome = go(folder.path(), name, &sets);
        let number = |value: &Value| value.as_f64().unwrap();
        let steps = records(&outcome, "step");
        let of = |step: &Value| {
            let norms = &step["gradient_norm"];
            (number(&step["loss"]["cross_entropy"]), number(&norms["weights"]), number(&norms["routers"]))
        };
        steps.iter().map(of).collect()
    };
    let plain = losses("plain", &[]);
    for (name, sets) in
        [("recomputed", &["train.activation_checkpointing=1"][..]), ("parts", &["train.micro_batch_rows=2"])]
    {
        for (found, expected) in losses(name, sets).iter().zip(&plain) {
            let near = |a: f64, b: f64| (a - b).abs() < 2e-3 * b.abs().max(1e-3);
            let same = near(found.0, expected.0) && near(found.1, expected.1) && near(found.2, expected.2);
            assert!(same, "{name}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn the_written_folder_runs_as_the_run_evaluated_it() {
    let folder = source();
    let run = folder.path().join("run");
    let text = toml(&config(folder.path(), "run", &["checkpoint.export_dtype=fp32"]));
    let file_path = folder.path().join("lte.toml");
    std::fs::write(&file_path, text).unwrap();
    let shown = |path: &Path| path.display().to_string();
    let model = succeed(&["lte", "train", "--config", &shown(&file_path)]);
    assert_eq!(model.trim(), shown(&run.join("model")));
    let checkpoint = Checkpoint::open(&run.join("model")).unwrap();
    let experts = file::read(checkpoint.dir(), checkpoint.model(), Device::Cpu).unwrap().unwrap();
    assert_eq!(
        (experts.stage, experts.routed_layers()),
        (Taught::Adapted, checkpoint.model().num_hidden_layers as usize)
    );
    let mut decoder =
        Decoder::build(checkpoint.model(), &mut |name| checkpoint.tensor(name, tch::Kind::Float, Device::Cpu)).unwrap();
    install(&experts, &mut decoder, &[]);
    let dataset = shearling_domains::Dataset::open(data()).unwrap();
    let rows = EvalRows::load(&dataset, 4, Device::Cpu).unwrap();
    let context = ForwardContext::new(checkpoint.model(), 32, Device::Cpu).unwrap();
    let mut meter = Meter::new(&experts, Device::Cpu).unwrap();
    let found =
        routed_row_losses(&decoder, &context, &rows, 8, &mut meter, shearling::eval::Deal::ALONE, &mut |_, _, _| ())
            .unwrap();
    let records = metrics::read(&run.join(METRICS)).unwrap();
    let last = records.iter().rfind(|record| record["type"] == "eval" && record["gates"] == "experts").unwrap();
    for domain in &found {
        let recorded = last["domains"][&domain.domain]["loss"].as_f64().unwrap();
        let loss = domain.summary().loss.unwrap();
        assert!((loss - recorded).abs() < 1e-6, "{}: {loss} {recorded}", domain.domain);
    }
    let density = meter.densities().unwrap().unwrap().mean;
    assert!((experts.density.unwrap() - density).abs() < 1e-9, "the folder says what ran");
    assert!(experts.layers.iter().all(|layer| layer.density.is_some()));
    assert!((density - last["experts"]["density"].as_f64().unwrap()).abs() < 1e-9);

    // The command says the same, and keeps a bound or says that it is passed.
    let (lte, data) = (shown(&run.join("model")), shown(data()));
    let out = succeed(&["lte", "eval", &lte, "--data", &data, "--rows", "4", "--json", "--max-degradation", "100"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!((report["density"].as_f64().unwrap() - density).abs() < 1e-3);
    assert_eq!(report["worst_rows"].as_array().unwrap().len(), 5);
    let refused = shearling(&["lte", "eval", &lte, "--data", &data, "--rows", "4", "--max-degradation=-100"]);
    assert_eq!(refused.status.code(), Some(1));
    // With all routers off it is the dense model.
    let layers = (0..checkpoint.model().num_hidden_layers).map(|layer| layer.to_string()).collect::<Vec<_>>().join(",");
    let off = shearling(&["lte", "eval", &lte, "--data", &data, "--rows", "4", "--json", "--dense-layers", &layers]);
    assert_eq!(off.status.code(), Some(2), "nothing is left to measure");
    // eval takes it as it runs.
    let plain: Value =
        serde_json::from_str(&succeed(&["eval", &lte, "--data", &data, "--rows", "4", "--json"])).unwrap();
    let mean = plain["models"][0]["mean_loss"].as_f64().unwrap();
    assert!((mean - last["mean_loss"].as_f64().unwrap()).abs() < 1e-3);
    for command in ["prune", "pretrain"] {
        let target = if command == "prune" { "[target]\nhidden_size = 24\n" } else { "" };
        let text = format!(
            "[run]\ndirectory = '{}'\n[model]\nsource = '{lte}'\n{target}[data]\npath = '{data}'\n[train]\nsteps = 2\nbatch_rows = 2\nlearning_rate = 1e-3\n",
            shown(&folder.path().join(command))
        );
        std::fs::write(&file_path, text).unwrap();
        let refused = shearling(&[command, "--config", &shown(&file_path)]);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && message.contains("LTE folder"), "{message}");
    }
}

fn toml(config: &RunConfig) -> String {
    shearling::config::resolved_toml(config).unwrap()
}

#[test]
fn routers_only_where_they_are_wanted_and_sizes_that_do_not_fit_are_refused() {
    let folder = source();
    let outcome = go(folder.path(), "one", &["train.steps=4", "lte.layers=[1]"]);
    let kept = tensors(&step_folder(&outcome, 4).join(file::FILE_NAME));
    let routed: Vec<&String> = kept.keys().filter(|name| name.ends_with("router.weight")).collect();
    assert_eq!(routed, ["layers.1.router.weight"]);
    let refused =
        |sets: &[&str]| Setup::new(config(folder.path(), "x", sets), Stage::Lte, Device::Cpu).unwrap_err().to_string();
    assert!(refused(&["lte.layers=[7]"]).contains("lte.layers names layer 7"));
    assert!(refused(&["lte.expert_size=7"]).contains("shearling lte group"));
    assert!(refused(&["lte.density=0"]).contains("lte.density = 0"));
    assert!(refused(&["lte.epsilon=0", "lte.mode=paper"]).contains("lte.epsilon"));
}

#[test]
fn a_run_without_a_second_stage_says_so_and_keeps_its_routers_as_they_trained() {
    let folder = source();
    let outcome = go(folder.path(), "run", &["train.steps=4", "lte.router_steps=4"]);
    let setup = Setup::new(config(folder.path(), "run", &["train.steps=4"]), Stage::Lte, Device::Cpu).unwrap();
    let kept = file::read(&step_folder(&outcome, 4), &setup.model, Device::Cpu).unwrap().unwrap();
    assert_eq!(kept.stage, Taught::Routers);
    let router = kept.layers[0].router.as_ref().unwrap();
    let rounded = router.weight.to_kind(tch::Kind::BFloat16).to_kind(tch::Kind::Float);
    assert!(!router.weight.equal(&rounded), "the weights trained in fp32 and no stage 2 rounded them");
}

/// The paper's routers have no bias, which the robust mode moves: a model that was taught by the one is held by the other.
#[test]
fn a_taught_model_is_taught_on_in_the_other_mode() {
    let folder = source();
    let paper = folder.path().join("paper.toml");
    let sets = ["train.steps=4", "lte.mode=paper"];
    std::fs::write(&paper, toml(&config(folder.path(), "paper", &sets))).unwrap();
    succeed(&["lte", "train", "--config", &paper.display().to_string()]);
    let taught = folder.path().join("paper/model").display().to_string();
    let outcome = go(folder.path(), "robust", &[&format!("model.source={taught}"), "lte.density=0.3"]);
    let found = evaluation(&outcome, "experts", 40)["experts"]["density"].as_f64().unwrap();
    assert!((found - 0.3).abs() < 0.05, "{found}");
}

#[test]
fn a_teacher_with_routers_teaches_as_it_runs() {
    let folder = source();
    let lte = folder.path().join("lte.toml");
    std::fs::write(&lte, toml(&config(folder.path(), "lte", &["lte.density=0.25"]))).unwrap();
    succeed(&["lte", "train", "--config", &lte.display().to_string()]);
    let taught = folder.path().join("lte/model").display().to_string();
    let sets = [&format!("distill.teacher={taught}"), "distill.weight=0.5", "distill.dtype=fp32", "train.steps=2"];
    let outcome = go(folder.path(), "run", &sets);
    let data = data().display().to_string();
    let own: Value =
        serde_json::from_str(&succeed(&["eval", &taught, "--data", &data, "--rows", "4", "--json"])).unwrap();
    let loss = own["models"][0]["mean_loss"].as_f64().unwrap();
    let told = evaluation(&outcome, "plain", 0)["teacher_loss"].as_f64().unwrap();
    assert!((told - loss).abs() < 1e-4, "{told} {loss}");
}
