//! The step does what it says: accumulation changes nothing, bad numbers never reach the weights, bf16 follows fp32,
//! masks reach their target, the mixer moves towards what lags behind.

use super::support::{data, tensors, write_tiny_source};
use shearling::config::{RunConfig, Stage, parse};
use shearling::hf::RawConfig;
use shearling::run_dir::RunDir;
use shearling::run_dir::layout::METRICS;
use shearling::train::step::StepReport;
use shearling::train::{Error, Observer, Outline, Setup, Trainer, metrics, run};
use std::path::Path;
use tch::Device;

struct Quiet;
impl Observer for Quiet {}

fn config(folder: &Path, sets: &[&str]) -> RunConfig {
    let text = format!(
        "[run]\ndirectory = '{}'\ndevice = 'cpu'\n[model]\nsource = '{}'\n[data]\npath = '{}'\nmax_epochs = 1000\n\
         [train]\nsteps = 60\nbatch_rows = 8\nlearning_rate = 2e-3\n[eval]\nrows_per_domain = 2\nevery_steps = 20\n",
        folder.join("run").display(),
        folder.join("source").display(),
        data().display()
    );
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    parse(&text, "test", &sets).unwrap()
}

fn setup(folder: &Path, sets: &[&str], stage: Stage) -> Setup {
    if !folder.join("source").exists() {
        write_tiny_source(&folder.join("source"));
    }
    Setup::new(config(folder, sets), stage, Device::Cpu).unwrap()
}

fn reports(setup: &Setup, steps: usize) -> Vec<StepReport> {
    let mut trainer = Trainer::new(setup).unwrap();
    (0..steps).map(|_| trainer.step().unwrap()).collect()
}

#[test]
fn accumulation_does_not_change_the_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let whole = reports(&setup(folder.path(), &[], Stage::Pretrain), 5);
    let parts = reports(&setup(folder.path(), &["train.micro_batch_rows=2"], Stage::Pretrain), 5);
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a.cross_entropy - b.cross_entropy).abs() < 1e-5, "{} {}", a.cross_entropy, b.cross_entropy);
        assert!((a.norms.total - b.norms.total).abs() < 1e-4 * a.norms.total);
    }
}

#[test]
fn the_loss_of_the_step_is_the_mean_over_its_domains_rows() {
    let folder = tempfile::tempdir().unwrap();
    for report in reports(&setup(folder.path(), &[], Stage::Pretrain), 3) {
        let rows: usize = report.domains.iter().map(|domain| domain.rows).sum();
        let sum: f64 = report.domains.iter().filter_map(|d| Some(d.loss? * d.rows as f64)).sum();
        assert_eq!(rows, 8);
        assert!((sum / rows as f64 - report.cross_entropy).abs() < 1e-6);
    }
}

#[test]
fn training_lowers_the_loss_in_fp32_and_bf16_alike() {
    let folder = tempfile::tempdir().unwrap();
    let fp32 = reports(&setup(folder.path(), &[], Stage::Pretrain), 60);
    let bf16 = reports(&setup(folder.path(), &["run.dtype=bf16"], Stage::Pretrain), 60);
    let mean = |reports: &[StepReport]| reports.iter().map(|r| r.cross_entropy).sum::<f64>() / reports.len() as f64;
    let (first, last) = (mean(&fp32[..5]), mean(&fp32[55..]));
    assert!(last < first - 1.0, "{first} → {last}");
    assert!((mean(&bf16[55..]) - last).abs() < 0.1, "bf16 {} fp32 {last}", mean(&bf16[55..]));
}

#[test]
fn a_non_finite_gradient_never_reaches_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write_tiny_source(&source);
    // Weights that are finite themselves and make every loss NaN.
    let path = source.join("model.safetensors");
    let mut all: Vec<(String, tch::Tensor)> = tensors(&path).into_iter().collect();
    let norm = all.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
    let _ = norm.1.fill_(3e38);
    shearling::files::TensorFile::write(&path, &all, &Default::default()).unwrap();

    let setup = setup(folder.path(), &[], Stage::Pretrain);
    let mut trainer = Trainer::new(&setup).unwrap();
    for skipped in 1..=3 {
        assert!(!trainer.step().unwrap().applied);
        assert_eq!((trainer.counters.skipped, trainer.counters.skipped_in_row), (skipped, skipped));
    }
    let run = RunDir::create(&folder.path().join("run")).unwrap();
    let saved = trainer.save(&run, 1 << 30, "pretrain", false).unwrap();
    let saved = tensors(&saved.path().join("model/model.safetensors"));
    for (name, weight) in &all {
        assert!(weight.equal(&saved[name]), "{name} changed");
    }
}

#[test]
fn masks_reach_their_target_and_the_constraint_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let target = [
        "target.hidden_size=24",
        "target.intermediate_size=32",
        "target.num_hidden_layers=2",
        "target.num_attention_heads=2",
        "prune.method=learned",
        "masks.warmup_steps=30",
        "train.steps=120",
        "checkpoint.every_steps=120",
    ];
    let setup = setup(folder.path(), &target, Stage::Prune);
    let outcome = run(&setup, false, None, &mut Quiet).unwrap();
    let records = metrics::read(&outcome.run.join(METRICS)).unwrap();
    let last = records.iter().rfind(|record| record["type"] == "step").unwrap();
    let constraints = last["constraints"].as_array().unwrap();
    assert_eq!(constraints.len(), 4);
    for constraint in constraints {
        let violation = constraint["violation"].as_f64().unwrap();
        assert!(violation.abs() < 0.08, "{constraint}");
        assert!(constraint["lambda_2"].as_f64().unwrap() > 0.0, "the multipliers ascend: {constraint}");
    }
    let evals: Vec<_> = records.iter().filter(|record| record["type"] == "eval").collect();
    assert_eq!(evals.last().unwrap()["gates"], "target");
    for (index, eval) in evals.iter().enumerate() {
        let kept = index == 0 || eval["gates"] == "target";
        for domain in eval["domains"].as_object().unwrap().values() {
            let rows: Option<Vec<f64>> = serde_json::from_value(domain["row_losses"].clone()).unwrap();
            assert_eq!(rows.is_some(), kept, "source and cut are compared row by row: {eval}");
            let mean = rows.map(|rows| rows.iter().sum::<f64>() / rows.len() as f64);
            assert!(mean.is_none_or(|mean| (mean - domain["loss"].as_f64().unwrap()).abs() < 2e-6), "{domain}");
        }
    }
    for eval in evals.iter().filter(|eval| eval["gates"] == "expected") {
        assert!(outcome.run.join(eval["snapshot"].as_str().unwrap()).is_file());
    }
}

#[test]
fn references_of_other_rows_than_the_run_evaluates_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let names = shearling_domains::Dataset::open(data()).unwrap().domain_names().to_vec();
    let file = folder.path().join("reference.json");
    let warnings = |rows: Option<u64>| {
        let losses: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), 1.0.into())).collect();
        let domains = names.iter().map(|name| serde_json::json!({ "domain": name, "rows": rows }));
        let domains: Vec<_> = domains.collect();
        let json = serde_json::json!({ "reference_loss": losses, "domains": domains });
        std::fs::write(&file, json.to_string()).unwrap();
        let sets = ["mixer.kind=dynamic".to_string(), format!("mixer.reference_file={}", file.display())];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let about = |warnings: Vec<String>| -> Vec<String> {
            warnings.into_iter().filter(|warning| warning.contains("reference_file")).collect()
        };
        let warned = about(setup(folder.path(), &sets, Stage::Pretrain).warnings());
        let config = config(folder.path(), &sets);
        let source = RawConfig::read(&folder.path().join("source/config.json")).unwrap();
        let planned = Outline::new(config, Stage::Pretrain, Device::Cpu, Some(source), None).unwrap();
        assert_eq!(about(planned.findings.warnings), warned, "plan says what the run will say");
        warned
    };
    let warned = warnings(Some(5));
    assert!(
        warned.len() == 1 && warned[0].contains("measured on 5 rows") && warned[0].contains("--rows 2"),
        "{warned:?}"
    );
    assert!(warnings(Some(2)).is_empty() && warnings(None).is_empty());
}

#[test]
fn the_dynamic_mixer_gives_more_to_what_lags_behind() {
    let folder = tempfile::tempdir().unwrap();
    let names = shearling_domains::Dataset::open(data()).unwrap().domain_names().to_vec();
    // The first domain is far above its reference, the others below theirs.
    let sets: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| format!("mixer.reference_loss.{name}={}", if index == 0 { 0.5 } else { 50.0 }))
        .chain(["mixer.kind=dynamic".to_string()])
        .collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let setup = setup(folder.path(), &sets, Stage::Pretrain);
    let outcome = run(&setup, false, None, &mut Quiet).unwrap();
    assert!(outcome.proportions[0] > 0.9, "{:?}", outcome.proportions);
    let rows = &outcome.domain_rows;
    assert_eq!(rows.iter().sum::<u64>(), 480);
    assert!(rows[0] > rows[1] + rows[2], "{rows:?}");
}

#[test]
fn an_exhausted_domain_leaves_the_mix_and_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let names = shearling_domains::Dataset::open(data()).unwrap().domain_names().to_vec();
    let sets: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| format!("mixer.proportions.{name}={}", [0.9, 0.05, 0.05][index]))
        .chain(["data.max_epochs=0.5".to_string()])
        .collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let setup = setup(folder.path(), &sets, Stage::Pretrain);
    let rows = setup.dataset.rows(0, shearling_domains::Split::Train) / 2;
    assert!(rows < 432, "the domain is small enough to run out: {rows}");
    let outcome = run(&setup, false, None, &mut Quiet).unwrap();
    assert_eq!(outcome.domain_rows[0], rows);
    let records = metrics::read(&outcome.run.join(METRICS)).unwrap();
    let exhausted: Vec<_> = records.iter().filter(|record| record["type"] == "exhausted").collect();
    assert_eq!(exhausted.len(), 1);
    assert_eq!(exhausted[0]["domains"][0], names[0].as_str());
}

#[test]
fn an_evaluation_tells_how_many_rows_are_done() {
    #[derive(Default)]
    struct Told(Vec<(usize, usize)>);
    impl Observer for Told {
        fn evaluating(&mut self, what: &str, done: usize, of: usize) {
            assert_eq!(what, "model");
            self.0.push((done, of));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let sets = ["train.steps=2", "train.batch_rows=1", "eval.rows_per_domain=3", "eval.every_steps=1000"];
    let setup = setup(folder.path(), &sets, Stage::Pretrain);
    let mut told = Told::default();
    run(&setup, false, None, &mut told).unwrap();
    let rows = 3 * setup.dataset.domain_names().len();
    // Before the first step and after the last, a row at a time.
    let once: Vec<(usize, usize)> = (0..rows).map(|done| (done, rows)).collect();
    assert_eq!(told.0, [&once[..], &once[..]].concat());
}

#[test]
fn data_that_breaks_in_the_middle_leaves_a_checkpoint_to_resume_from() {
    let folder = tempfile::tempdir().unwrap();
    let setup = setup(folder.path(), &["data.prefetch=0"], Stage::Pretrain);
    // After three steps the next batch is refused: the observer takes the data away.
    struct Breaks<'a>(&'a Path);
    impl Observer for Breaks<'_> {
        fn stepped(&mut self, trainer: &Trainer, _: &StepReport, _: metrics::Timing) {
            if trainer.counters.step == 3 {
                std::fs::rename(self.0, self.0.with_extension("away")).unwrap();
            }
        }
    }
    let data = folder.path().join("data");
    super::support::copy_folder(super::support::data(), &data);
    let mut config = setup.config.clone();
    config.data.path = data.clone();
    let own = Setup::new(config, Stage::Pretrain, Device::Cpu).unwrap();
    // Nothing decoded is remembered, so every batch reads its rows again.
    own.dataset.set_cache_bytes(0);
    let error = run(&own, false, None, &mut Breaks(&data)).unwrap_err();
    assert!(matches!(error, Error::Domains(_)), "{error}");
    std::fs::rename(data.with_extension("away"), &data).unwrap();
    let outcome = run(&own, true, Some(5), &mut Quiet).unwrap();
    assert_eq!(outcome.step, 5);
    assert!(folder.path().join("run/checkpoints/step-00000005").is_dir());
}
