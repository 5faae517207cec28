//! A run's checkpoints: what is in a step folder, how it is written, how a run continues from it bit for bit.
//!
//! ```text
//! checkpoints/step-00000100/
//!   model/                 fp32 masters (or frozen weights) as a Hugging Face folder (of the source shape while pruning)
//!   optimizer.safetensors  moments of weights, masks and multipliers
//!   masks.safetensors      log α and multipliers (prune)
//!   lte.safetensors        grouping and routers (lte train)
//!   state.json             counters, loader, mixer, update counts
//!   manifest.json          sizes and hashes of the above, written last
//! ```
//!
//! There is no state of a random generator: all noise comes from counters.

use super::Error;
use super::loader_config::loader_config;
use super::memory::checkpoint_bytes;
use super::optimizer::{Group, Moment};
use super::setup::{Device, Setup};
use super::sharding::Gatherer;
use super::start::Start;
use super::trainer::{Counters, Trainer};
use super::weight_stream::stored_weights;
use super::weights::{stored_dtype, stored_kind};
use crate::files::{DType, MappedTensors, TensorFile, ensure_space};
use crate::hf::{Checkpoint, ModelConfig, ShardWriter, TensorPlan};
use crate::lte::{self, Experts};
use crate::model::{Parameter, parameters::parameters};
use crate::run_dir::layout::{STEP_MASKS, STEP_MODEL, STEP_OPTIMIZER, STEP_STATE};
use crate::run_dir::{RunDir, StepDir, StepStaging};
use serde::{Deserialize, Serialize};
use shearling_domains::MixerState;
use shearling_domains::loader::{Loader, LoaderState};
use shearling_masks::{MaskSet, MaskSpec};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

const FORMAT_VERSION: u32 = 1;

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format_version: u32,
    counters: Counters,
    loader: LoaderState,
    mixer: MixerState,
    /// Optimiser updates by group: t of the bias corrections.
    updates: BTreeMap<String, u64>,
    /// Which teacher the run learns from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    teacher: Option<String>,
}

impl Trainer {
    /// Writes a checkpoint of the present step; it is there as a whole or not at all. Of several ranks the first writes, and
    /// the others [take part](Trainer::save_shards) where the state is sharded. `again` says that the step has a checkpoint,
    /// whose place this one takes.
    pub fn save(&mut self, run: &RunDir, max_shard_bytes: u64, stage: &str, again: bool) -> Result<StepDir, Error> {
        let _no_grad = tch::no_grad_guard();
        let mut gatherer = self.weights.gatherer();
        let written = self.stage(run, max_shard_bytes, again, gatherer.as_mut());
        // After a failure too: the others wait for it.
        let gathered = gatherer.map_or(Ok(()), Gatherer::finish);
        let written = written?;
        gathered?;
        Ok(written.commit(self.counters.tokens, stage)?)
    }

    /// What the other ranks do while the first one saves.
    pub(super) fn save_shards(&self) -> Result<(), Error> {
        let _no_grad = tch::no_grad_guard();
        Ok(self.weights.gatherer().map_or(Ok(()), Gatherer::finish)?)
    }

    fn stage(
        &self,
        run: &RunDir,
        max_shard_bytes: u64,
        again: bool,
        mut gatherer: Option<&mut Gatherer>,
    ) -> Result<StepStaging, Error> {
        ensure_space(run.root(), checkpoint_bytes(&self.model_config, &self.config) as u64)?;
        let step = self.counters.step;
        let staging = if again { run.stage_step_again(step)? } else { run.stage_step(step)? };
        let folder = staging.path().to_path_buf();
        self.save_weights(&folder.join(STEP_MODEL), max_shard_bytes, gatherer.as_deref_mut())?;
        self.save_moments(&folder.join(STEP_OPTIMIZER), gatherer)?;
        if let Some(masks) = self.masks() {
            masks.save(folder.join(STEP_MASKS))?;
        }
        if let Some(routers) = &self.routers {
            lte::file::write(&folder, &routers.snapshot(self.counters.step)?, DType::F32)?;
        }
        let state = State {
            format_version: FORMAT_VERSION,
            counters: self.counters.clone(),
            loader: self.loader.state(),
            mixer: self.mixer.state().clone(),
            updates: self.all_groups().map(|group| (group.name.to_string(), group.updates())).collect(),
            teacher: self.teacher.as_ref().map(|teacher| teacher.fingerprint.clone()),
        };
        let path = folder.join(STEP_STATE);
        let text = serde_json::to_string_pretty(&state)
            .map_err(|error| Error::Damaged { path: path.clone(), problem: error.to_string() })?;
        std::fs::write(&path, text).map_err(|source| Error::Io { action: "write", path, source })?;
        Ok(staging)
    }

    fn save_weights(&self, folder: &Path, max_shard_bytes: u64, gatherer: Option<&mut Gatherer>) -> Result<(), Error> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            action: "create",
            path: folder.to_path_buf(),
            source,
        })?;
        let dtype = stored_dtype(&self.config, self.compute_kind());
        self.hf_config.with_dtype(dtype)?.write(folder)?;
        let all = parameters(&self.model_config);
        let plan = |p: &Parameter| TensorPlan { name: p.name.clone(), shape: p.shape.clone(), dtype };
        let mut writer = ShardWriter::create(folder, all.iter().map(plan).collect(), max_shard_bytes)?;
        match gatherer {
            Some(gatherer) => {
                for Parameter { name, .. } in &all {
                    writer.write(name, &gatherer.weight(name)?)?;
                }
            }
            None => {
                for kept in self.weights.kept() {
                    let (name, kept) = kept?;
                    writer.write(name, &kept)?;
                }
            }
        }
        writer.finish()?;
        Ok(())
    }

    /// Moments of weights, masks, multipliers and routers.
    fn save_moments(&self, path: &Path, gatherer: Option<&mut Gatherer>) -> Result<(), Error> {
        let Some(gatherer) = gatherer else {
            let moments: Vec<(String, Tensor)> = self.all_groups().flat_map(Group::moments).collect();
            return Ok(TensorFile::write(path, &moments, &BTreeMap::new())?);
        };
        let own: BTreeMap<String, Tensor> = self.all_groups().skip(1).flat_map(Group::moments).collect();
        let sharded = if self.config.freezes_weights() { Vec::new() } else { parameters(&self.model_config) };
        let mut weights = BTreeMap::new();
        let mut plan = Vec::new();
        for Parameter { name, shape, .. } in sharded {
            for moment in Moment::BOTH {
                plan.push((moment.of(&name), shape.clone(), self.weights.group.moment_dtype(moment)));
                weights.insert(moment.of(&name), (moment, name.clone()));
            }
        }
        plan.extend(own.iter().map(|(name, tensor)| (name.clone(), tensor.size(), tensor.kind())));
        TensorFile::write_each(path, plan, |name| match weights.get(name) {
            Some((moment, weight)) => gatherer.moment(*moment, weight),
            None => own.get(name).map(Tensor::shallow_clone).ok_or_else(|| Error::Mismatch(format!("no {name}"))),
        })
    }

    /// Restores a run from a step folder.
    pub fn restore(setup: &Setup, step: &StepDir) -> Result<Trainer, Error> {
        let folder = step.path();
        let state = read_state(&folder.join(STEP_STATE))?;
        let model = Checkpoint::open(&folder.join(STEP_MODEL))?;
        require_same_model(model.model(), &setup.model)?;
        let kind = stored_kind(&setup.config, setup.compute_kind());
        let weights = stored_weights(&model, &setup.model, kind, setup.device);
        let masks = match &setup.spec {
            Some(spec) => Some(load_masks(&folder.join(STEP_MASKS), spec, setup.device)?),
            None => None,
        };
        let loader = Loader::resume(setup.dataset.clone(), loader_config(&setup.config), state.loader)?;
        let mixer = setup.resumed_mixer(state.mixer)?;
        let experts = match &setup.config.lte {
            Some(_) => Some(load_experts(folder, setup)?),
            None => None,
        };
        let start = Start { weights, masks, experts };
        let mut trainer = Trainer::assemble(setup, start, loader, mixer, state.counters)?;
        if let Some(teacher) = &trainer.teacher {
            teacher.require_same(state.teacher.as_deref())?;
        }
        let path = folder.join(STEP_OPTIMIZER);
        // By way of the CPU: on the device the moments have their places already.
        let moments = MappedTensors::open(&path)?;
        let mut saved = |name: &str| moments.tensor(name, Device::Cpu).map_err(|error| error.to_string());
        for group in trainer.groups() {
            let updates = state.updates.get(group.name).copied().unwrap_or(0);
            let damaged = |problem: String| Error::Damaged { path: path.clone(), problem };
            group.restore(&mut saved, updates).map_err(damaged)?;
        }
        Ok(trainer)
    }
}

/// The source's config.json must still say what it said when the run began.
fn require_same_model(saved: &ModelConfig, now: &ModelConfig) -> Result<(), Error> {
    let (mut saved, mut now) = (saved.clone(), now.clone());
    (saved.dtype, now.dtype) = (None, None);
    if saved == now {
        return Ok(());
    }
    Err(Error::Mismatch(format!(
        "model.source now describes another model than when this run began; restore its config.json, or start a new \
         run (then {saved:?}, now {now:?})"
    )))
}

fn load_masks(path: &Path, spec: &MaskSpec, device: Device) -> Result<MaskSet, Error> {
    let masks = MaskSet::load(path, device)?;
    if masks.spec() == spec {
        return Ok(masks);
    }
    let problem = format!("masks for {:?}, the configuration asks for {:?}", masks.spec().target(), spec.target());
    Err(Error::Damaged { path: path.to_path_buf(), problem })
}

fn load_experts(folder: &Path, setup: &Setup) -> Result<Experts, Error> {
    let problem = || "it is missing: the grouping and the routers of this run are lost".to_string();
    let experts = lte::file::read(folder, &setup.model, setup.device)?;
    experts.ok_or_else(|| Error::Damaged { path: folder.join(lte::file::FILE_NAME), problem: problem() })
}

/// The share of all rows so far that each domain had, for a model card.
pub fn shares_seen(step: &StepDir) -> Result<Vec<(String, f64)>, Error> {
    let state = read_state(&step.path().join(STEP_STATE))?;
    let total = state.counters.domain_rows.iter().sum::<u64>().max(1) as f64;
    let shares = state.counters.domain_rows.iter().map(|rows| *rows as f64 / total);
    Ok(state.loader.domains.into_iter().zip(shares).collect())
}

fn read_state(path: &Path) -> Result<State, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_path_buf(),
        source,
    })?;
    let damaged = |problem: String| Error::Damaged { path: path.to_path_buf(), problem };
    let state: State = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if state.format_version != FORMAT_VERSION {
        return Err(damaged(format!(
            "format version {}, this program reads {FORMAT_VERSION}; resume with the version that wrote it",
            state.format_version
        )));
    }
    Ok(state)
}

/// Where a run stands at a step folder, without loading its tensors: counters and proportions.
pub(super) fn standing(step: &StepDir) -> Result<(Counters, Vec<f64>), Error> {
    let state = read_state(&step.path().join(STEP_STATE))?;
    Ok((state.counters, state.mixer.proportions))
}
