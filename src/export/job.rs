//! One folder to write: cut from a step by its masks, cut from the source at once, or copied from a step.

use super::card::{card, card_shape};
use super::check_rows::check_rows;
use super::rotated::Rotated;
use super::{Error, Observer, Written};
use crate::config::{self, HiddenBasis, RunConfig, Stage};
use crate::files::{DType, Staging, sha256_of_text};
use crate::hf::{Checkpoint, CutLoss, ModelCard, ModelConfig, ShardWriter, TensorPlan, carry_companions};
use crate::lte::{self, Experts};
use crate::model::count::ParameterCount;
use crate::model::parameters::parameters;
use crate::prune::convert::require_complete;
use crate::prune::scores::{self, Calibration, Scoring};
use crate::prune::{Conversion, Equivalence, convert, shape};
use crate::run_dir::layout::{STEP_MODEL, mask_file};
use crate::run_dir::{RunDir, StepDir, Verify};
use crate::train::Setup;
use crate::train::calibration::calibration;
use crate::train::setup::check_loads_elsewhere;
use crate::train::written_dtype::written_dtype;
use shearling_masks::{Gates, KeepPlan, MaskReport, MaskSet, MaskSpec, ModuleSpec, UnitKind};
use std::path::{Path, PathBuf};
use tch::Device;

/// One folder to write.
#[derive(Debug)]
pub struct Job {
    config: RunConfig,
    /// SHA-256 of the configuration as the run has it, before options of `export`.
    digest: String,
    stage: Stage,
    companions: PathBuf,
    out: PathBuf,
}

/// What is cut from what.
struct Cut<'a> {
    source: &'a Checkpoint,
    spec: &'a MaskSpec,
    gates: &'a Gates,
    plan: &'a KeepPlan,
    card: ModelCard,
}

impl Job {
    /// The folder that a run of `setup` ends with.
    pub fn of(setup: &Setup, out: PathBuf) -> Result<Job, Error> {
        let (config, companions) = (setup.config.clone(), setup.companions.clone());
        Ok(Job { digest: digest(&config)?, config, stage: setup.stage, companions, out })
    }

    /// A folder from a step of a run with this configuration. `change` is what differs from the run: it does not
    /// change the digest on the card.
    pub fn from_run(
        mut config: RunConfig,
        stage: Stage,
        out: PathBuf,
        change: impl FnOnce(&mut RunConfig),
    ) -> Result<Job, Error> {
        let digest = digest(&config)?;
        change(&mut config);
        // Tokenizer files come from the source model, or from the data when the model began with random weights.
        let companions = config.model.source.clone().unwrap_or_else(|| config.data.path.clone());
        Ok(Job { companions, config, digest, stage, out })
    }

    /// Writes the folder from a step of its stage.
    pub fn write(&self, step: &StepDir, device: Device, observer: &mut dyn Observer) -> Result<Written, Error> {
        match self.stage {
            Stage::Prune => self.prune(step, device, observer),
            Stage::Pretrain | Stage::Lte => self.copy(step),
        }
    }

    /// Cuts the source of a run by one-shot scores, without any training (`prune.method` other than `learned`).
    pub fn one_shot(setup: &Setup, out: PathBuf, observer: &mut dyn Observer) -> Result<Written, Error> {
        let source = setup.source.as_ref().ok_or(Error::Needs("model.source"))?;
        let spec = setup.spec.as_ref().ok_or(Error::Needs("a [target]"))?;
        let (calibration, table) = (calibration(setup)?, &setup.config.prune);
        let mut progress = |what: &str, done: usize, of: usize| observer.progress(what, done, of);
        let mut scores = scores::scores(Scoring::of(table), source, spec, &calibration, setup.device, &mut progress)?;
        let job = Job::of(setup, out)?;
        let shard_bytes = job.config.checkpoint.max_shard_bytes;
        let rotated = match (setup.config.hidden_basis(), spec.get(UnitKind::Hidden)) {
            (HiddenBasis::Principal, Some(_)) => {
                let rotated = Rotated::write(source, &job.out, shard_bytes, &calibration, setup.device, &mut progress)?;
                scores.hidden = Some(rotated.energy.shallow_clone());
                let kept = rotated.share_kept(spec.target().hidden_size)?;
                observer.rotated(kept, rotated.unrotated, spec.source().hidden_size);
                Some(rotated)
            }
            _ => None,
        };
        let (plan, mut gates) = KeepPlan::from_scores(spec, &scores)?;
        gates.norm_gain = spec.get(UnitKind::Hidden).filter(|_| table.norm_gain).map(ModuleSpec::norm_gain);
        let mut card = job.card(source.model(), None)?;
        let rows = check_rows(&setup.config, setup.device)?.ids;
        let compared = Calibration { rows, micro_batch: calibration.micro_batch, compute: calibration.compute };
        let mut progress = |what: &str, done: usize, of: usize| observer.progress(what, done, of);
        let before = scores::held_out_loss(source, &compared, setup.device, &mut progress)?;
        // What it comes to is known when the cut is written.
        card.cut = Some(CutLoss { source: before, ..CutLoss::default() });
        let source = rotated.as_ref().map_or(source, |rotated| &rotated.checkpoint);
        let written = job.cut(Cut { source, spec, gates: &gates, plan: &plan, card }, setup.device, observer)?;
        if let Some(Equivalence { rows, rounding, .. }) = &written.equivalence {
            observer.degraded(*rows, before, rounding.masked_loss + rounding.written.loss_change);
        }
        Ok(written)
    }

    fn prune(&self, step: &StepDir, device: Device, observer: &mut dyn Observer) -> Result<Written, Error> {
        let source = Checkpoint::open(&step.path().join(STEP_MODEL))?;
        let masks = self.masks(step, source.model(), device)?;
        observer.masks(&MaskReport::new(&masks)?);
        let gates = masks.target_gates()?.detach()?;
        let plan = KeepPlan::from_gates(masks.spec(), &gates)?;
        let card = self.card(source.model(), Some(step))?;
        self.cut(Cut { source: &source, spec: masks.spec(), gates: &gates, plan: &plan, card }, device, observer)
    }

    /// The masks of a step, for the configuration's target: that of the run, or a smaller one.
    fn masks(&self, step: &StepDir, model: &ModelConfig, device: Device) -> Result<MaskSet, Error> {
        let masks = MaskSet::load(mask_file(step.path()), device)?;
        let Some(target) = &self.config.target else { return Ok(masks) };
        let spec = shape::mask_spec(model, target)?;
        if spec == *masks.spec() {
            return Ok(masks);
        }
        check_loads_elsewhere(&shape::resized(model, spec.target()))?;
        Ok(masks.retargeted(spec)?)
    }

    fn cut(&self, cut: Cut, device: Device, observer: &mut dyn Observer) -> Result<Written, Error> {
        let rows = check_rows(&self.config, device)?;
        let conversion = Conversion {
            source: cut.source,
            companions: &self.companions,
            spec: cut.spec,
            gates: cut.gates,
            plan: cut.plan,
            dtype: written_dtype(&self.config, Stage::Prune)?,
            max_shard_bytes: self.config.checkpoint.max_shard_bytes,
            check_rows: &rows,
            device,
            unproven: self.config.prune.unproven,
        };
        let mut progress = |what: &str, done: usize, of: usize| observer.progress(what, done, of);
        let converted = convert(&conversion, &self.out, cut.card, &mut progress)?;
        observer.compared(&converted.transfer, &converted.equivalence);
        Ok(Written {
            path: self.out.clone(),
            parameters_before: ParameterCount::of(cut.source.model()).total(),
            shape: card_shape(&shape::resized(cut.source.model(), cut.spec.target())),
            dtype: conversion.dtype,
            equivalence: Some(converted.equivalence),
        })
    }

    fn card(&self, model: &ModelConfig, step: Option<&StepDir>) -> Result<ModelCard, Error> {
        card(&self.config, &self.digest, self.stage, model, step)
    }

    /// Writes the weights of a step unchanged in shape.
    fn copy(&self, step: &StepDir) -> Result<Written, Error> {
        let source = Checkpoint::open(&step.path().join(STEP_MODEL))?;
        require_complete(&source, source.model())?;
        let dtype = written_dtype(&self.config, self.stage)?;
        let staging = Staging::new(&self.out)?;
        source.config().with_dtype(dtype)?.write(staging.path())?;
        let wanted = parameters(source.model());
        let plan = wanted.iter().map(|p| TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype });
        let mut writer = ShardWriter::create(staging.path(), plan.collect(), self.config.checkpoint.max_shard_bytes)?;
        for parameter in &wanted {
            writer.write(&parameter.name, &source.finite_tensor(&parameter.name, dtype.kind(), Device::Cpu)?)?;
        }
        writer.finish()?;
        if let Some(experts) = lte::file::read(step.path(), source.model(), Device::Cpu)? {
            lte::file::write(staging.path(), &experts, router_dtype(&experts))?;
        }
        carry_companions(&self.companions, staging.path())?;
        self.card(source.model(), Some(step))?.write(staging.path())?;
        Ok(Written {
            path: staging.publish()?,
            parameters_before: ParameterCount::of(source.model()).total(),
            shape: card_shape(source.model()),
            dtype,
            equivalence: None,
        })
    }
}

/// Frozen routers are stored in bf16, which holds their values exactly; those that still trained in fp32.
fn router_dtype(experts: &Experts) -> DType {
    if experts.stage == lte::Stage::Adapted { DType::BF16 } else { DType::F32 }
}

/// A step folder of a run, its hashes checked: the named one, or the last good one.
pub fn open_step(run: &Path, step: Option<u64>) -> Result<StepDir, Error> {
    let folder = RunDir::open(run)?;
    let Some(step) = step else {
        let latest = folder.latest_valid(Verify::Hashes)?;
        let reasons = || match latest.skipped.is_empty() {
            true => "no checkpoint (a run writes one every checkpoint.every_steps)".to_string(),
            false => {
                let each = latest.skipped.iter().map(|skipped| format!("\n  {}", skipped.reason));
                format!("no good checkpoint{}", each.collect::<String>())
            }
        };
        return latest.step.ok_or_else(|| Error::NoStep { run: run.to_path_buf(), reasons: reasons() });
    };
    Ok(folder.open_step(step, Verify::Hashes)?)
}

/// SHA-256 of a resolved configuration, in hex.
fn digest(config: &RunConfig) -> Result<String, Error> {
    Ok(sha256_of_text(&config::resolved_toml(config)?))
}
