//! From a step of a run to a Hugging Face folder: `shearling export`, and the last act of `prune` and `pretrain`.

use super::Verdict;
use super::mask_warnings::report_masks;
use super::refusal::Origin;
use super::run::{Written, finish};
use crate::cli::Printer;
use crate::cli::arguments::Export;
use crate::cli::progress::Progress;
use crate::config::{RunConfig, Stage};
use crate::eval::EvalRows;
use crate::files::{DType, Staging, refuse_taken};
use crate::hf::{CardShape, Checkpoint, ModelCard, ModelConfig, ShardWriter, TensorPlan, carry_companions};
use crate::model::count::ParameterCount;
use crate::model::parameters::parameters;
use crate::native::device;
use crate::prune::convert::require_complete;
use crate::prune::{CheckRows, Conversion, Equivalence, convert, magnitude, shape};
use crate::run_dir::layout::{MODEL, PRUNED, STEP_MODEL, mask_file};
use crate::run_dir::{RunDir, StepDir, Verify};
use crate::train::journal::Journal;
use crate::train::metrics;
use crate::train::run_folder::saved_config;
use crate::train::written::written_dtype;
use crate::train::{Outcome, Setup, resume};
use anyhow::Context;
use serde_json::json;
use sha2::{Digest, Sha256};
use shearling_domains::Dataset;
use shearling_masks::{Gates, KeepPlan, MaskSet, MaskSpec};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// `RUN` or `RUN@STEP`.
pub(super) fn split_step(text: &str) -> anyhow::Result<(PathBuf, Option<u64>)> {
    if Path::new(text).is_dir() {
        return Ok((text.into(), None));
    }
    match text.rsplit_once('@') {
        Some((run, step)) => {
            let step = step.parse().with_context(|| format!("{text:?}: after @ a step number is expected"))?;
            Ok((run.into(), Some(step)))
        }
        None => Ok((text.into(), None)),
    }
}

/// A step folder of a run, its hashes checked: the named one, or the last good one.
pub(super) fn open_step(run: &Path, step: Option<u64>) -> anyhow::Result<StepDir> {
    let folder = RunDir::open(run)?;
    match step {
        Some(step) => Ok(folder.open_step(step, Verify::Hashes)?),
        None => {
            let latest = folder.latest_valid(Verify::Hashes)?;
            let reasons = latest.skipped.iter().map(|skipped| format!("\n  {}", skipped.reason)).collect::<String>();
            latest.step.with_context(|| format!("{} has no good checkpoint{reasons}", run.display()))
        }
    }
}

/// `shearling export`
pub fn run(arguments: &Export) -> anyhow::Result<Verdict> {
    let printer = Printer::new(false);
    let (run, step) = split_step(&arguments.run)?;
    // Before the hashes of a large checkpoint are computed.
    refuse_taken(&arguments.out)?;
    let mut config = saved_config(&run)?;
    let digest = digest(&config)?;
    if let Some(dtype) = arguments.dtype {
        config.prune.dtype = Some(dtype.into());
        config.checkpoint.export_dtype = Some(dtype.into());
    }
    config.prune.unproven |= arguments.unproven;
    let step = open_step(&run, step)?;
    let stage = if mask_file(step.path()).is_file() { Stage::Prune } else { Stage::Pretrain };
    let job = Job { companions: companions_of(&config), config, digest, stage, out: arguments.out.clone() };
    let device = device::parse(&arguments.device)?;
    let written = match stage {
        Stage::Prune => job.prune(&step, device, &printer),
        Stage::Pretrain => job.copy(&step),
    };
    finish(written.map(Some), &Origin::Run(arguments.run.clone().into()), &printer)
}

/// The end of `prune`: cut to the target, check, publish.
pub(super) fn prune_from_step(setup: &Setup, outcome: &Outcome, printer: &Printer) -> anyhow::Result<Written> {
    let step = open_step(&outcome.run, Some(outcome.step))?;
    let written = Job::of(setup, outcome.run.join(PRUNED))?.prune(&step, setup.device, printer)?;
    record(outcome, &written, setup.config.run.tensorboard, printer)?;
    Ok(written)
}

/// The end of `pretrain`: write the weights as a model folder.
pub(super) fn export_trained(setup: &Setup, outcome: &Outcome, printer: &Printer) -> anyhow::Result<Written> {
    let step = open_step(&outcome.run, Some(outcome.step))?;
    let written = Job::of(setup, outcome.run.join(MODEL))?.copy(&step)?;
    record(outcome, &written, setup.config.run.tensorboard, printer)?;
    Ok(written)
}

/// Adds to the run's metrics that its model is written.
fn record(outcome: &Outcome, written: &Written, tensorboard: bool, printer: &Printer) -> anyhow::Result<()> {
    let check = written.equivalence.as_ref().map(|check| {
        json!({
            "passed": check.passed(),
            "folded": check.folded,
            "folded_bound": check.folded_bound,
            "worst": check.worst,
            "weights": check.weights,
            "rounding": check.rounding,
            "rows": check.rows,
            "tokens": check.tokens,
        })
    });
    let fields = json!({
        "path": written.path.strip_prefix(&outcome.run).unwrap_or(&written.path),
        "parameters_before": written.parameters_before,
        "parameters_after": written.shape.parameters,
        "shape": written.shape,
        "dtype": written.dtype,
        "equivalence": check,
    });
    let mut journal = Journal::after(&outcome.run, outcome.step, tensorboard)?;
    journal.write(&metrics::event("written", outcome.step, fields))?;
    journal.take_warning().iter().for_each(|warning| printer.warn(warning));
    Ok(())
}

/// `prune.method = "magnitude"`: no run, the source is cut at once.
pub(super) fn prune_one_shot(setup: &Setup, printer: &Printer) -> anyhow::Result<Written> {
    let source = setup.source.as_ref().context("the one-shot cut needs model.source")?;
    let spec = setup.spec.as_ref().context("the one-shot cut needs a [target]")?;
    let (plan, gates) = magnitude::one_shot(source, spec, setup.device)?;
    let job = Job::of(setup, setup.config.run.directory.join(PRUNED))?;
    let card = job.card(source.model(), None)?;
    job.cut(source, spec, &gates, &plan, card, setup.device, printer)
}

/// One folder to write.
struct Job {
    config: RunConfig,
    /// SHA-256 of the configuration as the run has it, before options of `export`.
    digest: String,
    stage: Stage,
    companions: PathBuf,
    out: PathBuf,
}

impl Job {
    fn of(setup: &Setup, out: PathBuf) -> anyhow::Result<Job> {
        let (config, companions) = (setup.config.clone(), setup.companions.clone());
        Ok(Job { digest: digest(&config)?, config, stage: setup.stage, companions, out })
    }

    fn prune(&self, step: &StepDir, device: Device, printer: &Printer) -> anyhow::Result<Written> {
        let masks = MaskSet::load(mask_file(step.path()), device)?;
        report_masks(&masks, printer)?;
        let gates = masks.deterministic_target()?.detach()?;
        let plan = KeepPlan::from_gates(masks.spec(), &gates)?;
        let source = Checkpoint::open(&step.path().join(STEP_MODEL))?;
        let card = self.card(source.model(), Some(step))?;
        self.cut(&source, masks.spec(), &gates, &plan, card, device, printer)
    }

    #[allow(clippy::too_many_arguments)]
    fn cut(
        &self,
        source: &Checkpoint,
        spec: &MaskSpec,
        gates: &Gates,
        plan: &KeepPlan,
        card: ModelCard,
        device: Device,
        printer: &Printer,
    ) -> anyhow::Result<Written> {
        let rows = check_rows(&self.config, device)?;
        let conversion = Conversion {
            source,
            companions: &self.companions,
            spec,
            gates,
            plan,
            dtype: written_dtype(&self.config, Stage::Prune)?,
            max_shard_bytes: self.config.checkpoint.max_shard_bytes,
            check_rows: &rows,
            device,
            unproven: self.config.prune.unproven,
        };
        let mut progress = Progress::default();
        let converted = convert(&conversion, &self.out, card, &mut |what, done, of| {
            progress.show(|| format!("{what} {done}/{of}"));
        })?;
        progress.finish();
        printer.note(converted.transfer);
        report_equivalence(&converted.equivalence, printer);
        Ok(Written {
            path: self.out.clone(),
            parameters_before: ParameterCount::of(source.model()).total(),
            shape: card_shape(&shape::resized(source.model(), spec.target())),
            dtype: conversion.dtype,
            equivalence: Some(converted.equivalence),
        })
    }

    /// Writes the weights of a step unchanged in shape.
    fn copy(&self, step: &StepDir) -> anyhow::Result<Written> {
        let source = Checkpoint::open(&step.path().join(STEP_MODEL))?;
        require_complete(&source, source.model())?;
        let kind = written_dtype(&self.config, Stage::Pretrain)?;
        let dtype: DType = kind.into();
        let staging = Staging::new(&self.out)?;
        source.config().with_dtype(dtype)?.write(staging.path())?;
        let wanted = parameters(source.model());
        let plan = wanted.iter().map(|p| TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype });
        let mut writer = ShardWriter::create(staging.path(), plan.collect(), self.config.checkpoint.max_shard_bytes)?;
        for parameter in &wanted {
            writer.write(&parameter.name, &source.finite_tensor(&parameter.name, dtype.kind(), Device::Cpu)?)?;
        }
        writer.finish()?;
        carry_companions(&self.companions, staging.path())?;
        self.card(source.model(), Some(step))?.write(staging.path())?;
        Ok(Written {
            path: staging.publish()?,
            parameters_before: ParameterCount::of(source.model()).total(),
            shape: card_shape(source.model()),
            dtype: kind,
            equivalence: None,
        })
    }

    /// Provenance of the folder; `step` is where the weights were trained to, if they were.
    fn card(&self, model: &ModelConfig, step: Option<&StepDir>) -> anyhow::Result<ModelCard> {
        let source = self.config.model.source.as_deref().map(provenance);
        let target = self.config.target.as_ref().filter(|_| self.stage == Stage::Prune);
        let own = card_shape(model);
        let target_shape = target.map(|target| {
            let source = shape::source_shape(model);
            card_shape(&shape::resized(model, &shape::target_shape(&source, target)))
        });
        let stage = match (self.stage, self.config.prune.method) {
            (Stage::Pretrain, _) => "training".to_string(),
            (Stage::Prune, method) => format!("pruning ({method:?})").to_lowercase(),
        };
        let (steps, tokens) = step.map_or((0, 0), |step| (step.step(), step.manifest().tokens));
        let before =
            self.config.model.source.as_deref().map(ModelCard::read).transpose()?.flatten().unwrap_or_default();
        let mut stages = before.stages;
        stages.push((stage, steps, tokens));
        let (source, source_shape) = (before.source.or(source), before.source_shape.or(target.map(|_| own)));
        let target_shape = target_shape.unwrap_or(own);
        Ok(ModelCard {
            title: ModelCard::title_of(source.as_deref(), source_shape.as_ref(), &target_shape),
            source,
            source_shape,
            target_shape: Some(target_shape),
            stages,
            domains: step.map(resume::shares_seen).transpose()?.unwrap_or_default(),
            equivalence: before.equivalence,
            config_digest: Some(self.digest.clone()),
            versions: vec![
                ("shearling".to_string(), env!("CARGO_PKG_VERSION").to_string()),
                ("libtorch".to_string(), "2.11.0 (tch 0.24)".to_string()),
            ],
        })
    }
}

fn report_equivalence(equivalence: &Equivalence, printer: &Printer) {
    if !equivalence.passed() {
        printer.warn(format!("published unproven, as asked: {equivalence}"));
        return;
    }
    printer.note(equivalence);
    printer.note(equivalence.cost());
    if equivalence.rounding.is_costly() {
        let dtype = equivalence.rounding.dtype.name();
        printer.warn(format!(
            "this model loses more than usual by being stored in {dtype}: prune.dtype = \"fp32\" (or export --dtype fp32) \
             keeps its weights as they were trained"
        ));
    }
}

/// A folder as a model card names it: its last two parts, since what is above them is of this machine alone.
fn provenance(folder: &Path) -> String {
    let parts: Vec<_> = folder.components().collect();
    parts[parts.len().saturating_sub(2)..].iter().collect::<PathBuf>().display().to_string()
}

fn card_shape(model: &ModelConfig) -> CardShape {
    CardShape::of(model, Some(ParameterCount::of(model).total() as u64))
}

/// SHA-256 of a resolved configuration, in hex.
fn digest(config: &RunConfig) -> anyhow::Result<String> {
    let digest = Sha256::digest(crate::config::resolved_toml(config)?.as_bytes());
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Tokenizer files come from the source model, or from the data when the model began with random weights.
fn companions_of(config: &RunConfig) -> PathBuf {
    config.model.source.clone().unwrap_or_else(|| config.data.path.clone())
}

/// The first validation rows of every domain.
fn check_rows(config: &RunConfig, device: Device) -> anyhow::Result<CheckRows> {
    let dataset = Dataset::open(&config.data.path)?;
    let domains = EvalRows::load(&dataset, config.prune.check_rows, device)?;
    let names = domains.iter().flat_map(|domain| {
        (0..domain.rows.size()[0]).map(|row| format!("{} validation row {row}", domain.domain)).collect::<Vec<_>>()
    });
    let names = names.collect();
    let rows: Vec<Tensor> = domains.into_iter().map(|domain| domain.rows.to_kind(Kind::Int64)).collect();
    Ok(CheckRows { ids: Tensor::f_cat(&rows, 0)?, names })
}
