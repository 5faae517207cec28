//! Routers in training: their weights, how they act at a step, and what holds the share of units that run.
//!
//! ```text
//! stage 1, step < router_steps:   scores act as `lte.forward` says, routers and weights train
//! stage 2:                        hard, routers frozen and rounded to bf16, as they are stored; weights train
//!
//! robust:  β ← β − g · (d − d*) / p         all routers alike, after every step
//!          d    share of living units that ran, mean over tokens and layers
//!          d*   what is asked for at this step
//!          p    density of the logits around 0, per unit: how much d moves with β (Newton's step, damped by g)
//! ```
//!
//! The common shift decides how many experts run, the gradient which: between experts and between layers. So the share is what
//! was asked for from the first step of the schedule to the last, without a multiplier that has to be found; in stage 2, where
//! the weights drift under frozen routers, the shift follows slowly. Our own; the paper's penalties are `mode = "paper"`.

use super::Error;
use super::optimizer::{Direction, Group};
use crate::config::{Lte, RunConfig, ScoreForward};
use crate::hf::Checkpoint;
use crate::lte::experts::Stage;
use crate::lte::meter::{Densities, NEAR};
use crate::lte::{self, Experts};
use crate::model::Decoder;
use crate::model::router::{Penalty, Routed, Router, RouterForward};
use tch::{Device, Kind, TchError, Tensor};

/// The name of their group.
pub(super) const ROUTERS: &str = "routers";
/// Half the width of the window of logits in which their density is counted.
const WINDOW: f64 = 0.25;
/// Least density of logits that a shift counts with: where none is near, it comes nearer in steps.
const LEAST_SLOPE: f64 = 0.02;
/// Largest shift of a step.
const LARGEST_SHIFT: f64 = 0.5;
/// Damping of the shift in stage 1, where routers move, and in stage 2, where it averages over batches.
const GAINS: [f64; 2] = [0.5, 0.1];

/// Routers with the group that trains them.
#[derive(Debug)]
pub(super) struct RouterTraining {
    /// Grouping of the units; its routers are the group's tensors.
    experts: Experts,
    pub(super) group: Group,
    lte: Lte,
    steps: u64,
    /// Tokens of a batch.
    batch_tokens: f64,
    /// Share of living units of each expert `[N]`, of sum 1.
    living: Tensor,
    /// Sums of [`RouterTraining::counted`] over the micro-batches of a step, times tokens.
    seen: Option<Tensor>,
    tokens: f64,
}

/// What routers did in a step; means over tokens and layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterStep {
    /// Share of living units that ran.
    pub density: f64,
    /// The share asked for; `None` under the paper's penalties.
    pub target: Option<f64>,
    /// Share of scores within 0.1 of the threshold.
    pub near_threshold: f64,
    /// Whether routers train (stage 1).
    pub trains: bool,
}

impl RouterTraining {
    /// Over the routers of `experts`, on their device.
    pub(super) fn new(experts: Experts, config: &RunConfig, row_tokens: usize) -> Result<RouterTraining, TchError> {
        let lte = config.lte.clone().unwrap_or_default();
        let (train, rate) = (&config.train, lte.router_learning_rate(config.train.learning_rate));
        let tensors: Vec<(String, Tensor)> =
            routers(&experts).flat_map(|(layer, router)| named(layer, router)).collect();
        let device = tensors.first().map_or(Device::Cpu, |(_, tensor)| tensor.device());
        let group = Group::new(ROUTERS, rate, Direction::Descent, train, tensors, Kind::Float)?;
        let living = Tensor::from_slice(&experts.living_shares()).f_to_device(device)?;
        let batch_tokens = (train.batch_rows * row_tokens) as f64;
        Ok(RouterTraining { experts, group, steps: train.steps, lte, batch_tokens, living, seen: None, tokens: 0.0 })
    }

    /// Grouping and routers.
    pub(super) fn experts(&self) -> &Experts {
        &self.experts
    }

    /// Keeps what an evaluation measured, for the folder that the run writes.
    pub(super) fn note_densities(&mut self, found: &Densities) {
        self.experts.density = Some(found.mean);
        for (layer, kept) in self.experts.layers.iter_mut().enumerate() {
            kept.density = found.layers.get(&layer).copied();
        }
    }

    /// Puts the routers into the model.
    pub(super) fn install(&self, model: &mut Decoder) {
        for (layer, _) in routers(&self.experts) {
            let leaf = |name: String| self.group.slots().iter().find(|slot| slot.name == name).map(|slot| slot.leaf());
            let router = leaf(weight_name(layer)).map(|weight| Router { weight, bias: leaf(bias_name(layer)) });
            let routed = router.map(|router| Routed::new(router, self.experts.expert_size, RouterForward::Hard));
            model.route(layer, routed);
        }
    }

    /// Whether the routers train in the step with 0-based index `step`.
    pub(super) fn trains_at(&self, step: u64) -> bool {
        step < self.lte.router_steps(self.steps)
    }

    /// Whether scores multiply their experts in the step with 0-based index `step`.
    pub(super) fn multiplies_at(&self, step: u64) -> bool {
        self.trains_at(step) && self.lte.forward() == ScoreForward::Soft
    }

    /// Sets how routers act in the step with index `step`; at the switch to stage 2 they take the values they are stored with.
    pub(super) fn begin_step(&mut self, step: u64, model: &mut Decoder) -> Result<(), TchError> {
        (self.seen, self.tokens) = (None, 0.0);
        if step == self.lte.router_steps(self.steps) {
            self.round()?;
        }
        if !self.trains_at(step) {
            model.set_routers(RouterForward::Hard, None);
            return Ok(());
        }
        let forward = match self.lte.forward() {
            ScoreForward::Soft => RouterForward::Soft,
            ScoreForward::StraightThrough => RouterForward::StraightThrough,
        };
        let scores = self.experts.routed_layers() as f64 * self.experts.experts() as f64 * self.batch_tokens;
        let penalty = Penalty {
            efficiency: self.lte.efficiency(),
            separability: self.lte.separability(),
            epsilon: self.lte.epsilon,
            scale: 1.0 / scores.max(1.0),
        };
        let charged = penalty.efficiency != 0.0 || penalty.separability != 0.0;
        model.set_routers(forward, Some(penalty).filter(|_| charged));
        Ok(())
    }

    /// Weights take the values that they have in bf16, in which they are stored and multiplied when decoding.
    fn round(&mut self) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        for slot in self.group.slots_mut().iter_mut().filter(|slot| slot.size().len() == 2) {
            let rounded = slot.master()?.f_to_kind(Kind::BFloat16)?.f_to_kind(Kind::Float)?;
            slot.set_master(&rounded)?;
        }
        Ok(())
    }

    /// Counts what the last forward of `model` decided, over `tokens` tokens.
    pub(super) fn observe(&mut self, model: &Decoder, tokens: i64) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let layers = model.take_router_logits();
        let counted = layers.iter().map(|(_, logits)| self.counted(logits)).collect::<Result<Vec<_>, _>>()?;
        if counted.is_empty() {
            return Ok(());
        }
        let sums = Tensor::f_stack(&counted, 0)?.f_mean_dim(0, false, Kind::Float)?.f_mul_scalar(tokens as f64)?;
        self.seen = Some(match &self.seen {
            Some(seen) => seen.f_add(&sums)?,
            None => sums,
        });
        self.tokens += tokens as f64;
        Ok(())
    }

    /// `[3]`: density, share near the threshold, density of logits around 0; of logits `[B, T, N]` of one layer.
    fn counted(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        let share = |chosen: Tensor| chosen.f_to_kind(Kind::Float)?.f_matmul(&self.living)?.f_mean(Kind::Float);
        let near = logits.f_sigmoid()?.f_sub_scalar(0.5)?.f_abs()?.f_lt(NEAR)?;
        let slope = share(logits.f_abs()?.f_lt(WINDOW)?)?.f_div_scalar(2.0 * WINDOW)?;
        Tensor::f_stack(&[share(logits.f_gt(0.0)?)?, share(near)?, slope], 0)
    }

    /// The sums over the tokens so far `[3]`.
    pub(super) fn seen(&self) -> Option<&Tensor> {
        self.seen.as_ref()
    }

    /// Takes the sums over all ranks, of `tokens` tokens.
    pub(super) fn set_seen(&mut self, sums: Tensor, tokens: usize) {
        (self.seen, self.tokens) = (Some(sums), tokens as f64);
    }

    /// Means over the step `[3]`, as [`RouterTraining::observe`] counted them.
    pub(super) fn counts(&self) -> Result<Option<Tensor>, TchError> {
        self.seen.as_ref().map(|seen| seen.f_div_scalar(self.tokens)).transpose()
    }

    /// Shifts all biases towards the density that is asked for after the step with index `step`, unless `skip` is other than 0.
    pub(super) fn shift(&mut self, step: u64, skip: &Tensor) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let target = self.lte.density_at(step + 1, self.steps);
        let (Some(target), Some(counts)) = (target, self.counts()?) else { return Ok(()) };
        let gain = GAINS[usize::from(!self.trains_at(step))];
        let excess = counts.f_get(0)?.f_sub_scalar(target)?;
        let slope = counts.f_get(2)?.f_clamp_min(LEAST_SLOPE)?;
        let shift = excess.f_div(&slope)?.f_mul_scalar(gain)?.f_clamp(-LARGEST_SHIFT, LARGEST_SHIFT)?;
        let applied = skip.f_logical_not()?.f_to_kind(Kind::Float)?;
        let shift = shift.f_nan_to_num(0.0, 0.0, 0.0)?.f_mul(&applied)?;
        for slot in self.group.slots_mut().iter_mut().filter(|slot| slot.size().len() == 1) {
            let shifted = slot.master()?.f_sub(&shift)?;
            slot.set_master(&shifted)?;
        }
        Ok(())
    }

    /// What the step with index `step` did, from its counts on the host.
    pub(super) fn report(&self, step: u64, counts: &[f64]) -> Option<RouterStep> {
        let [density, near_threshold, _] = *counts else { return None };
        let target = self.lte.density_at(step, self.steps);
        Some(RouterStep { density, target, near_threshold, trains: self.trains_at(step) })
    }

    /// Grouping and routers as they are after `finished` steps, on the CPU or where they train. Until a step of stage 2 was
    /// taken they are as they trained, not yet rounded.
    pub(super) fn snapshot(&self, finished: u64) -> Result<Experts, TchError> {
        let _no_grad = tch::no_grad_guard();
        let adapted = finished.checked_sub(1).is_some_and(|last| !self.trains_at(last));
        let stage = if adapted { Stage::Adapted } else { Stage::Routers };
        Ok(Experts { stage, ..self.experts.with_routers(detached)? })
    }
}

fn detached(router: &Router) -> Result<Router, TchError> {
    Ok(Router { weight: router.weight.f_detach()?, bias: router.bias.as_ref().map(Tensor::f_detach).transpose()? })
}

fn routers(experts: &Experts) -> impl Iterator<Item = (usize, &Router)> {
    experts.layers.iter().enumerate().filter_map(|(layer, found)| Some((layer, found.router.as_ref()?)))
}

fn named(layer: usize, router: &Router) -> Vec<(String, Tensor)> {
    let bias = router.bias.as_ref().map(|bias| (bias_name(layer), bias.shallow_clone()));
    std::iter::once((weight_name(layer), router.weight.shallow_clone())).chain(bias).collect()
}

fn weight_name(layer: usize) -> String {
    format!("layers.{layer}.router.weight")
}

fn bias_name(layer: usize) -> String {
    format!("layers.{layer}.router.bias")
}

/// Refuses what cannot be grouped as it is.
pub(super) fn check_experts(lte: &Lte, source: &Checkpoint) -> Result<(), Error> {
    let model = source.model();
    check_layers(lte, model.num_hidden_layers)?;
    let (units, size) = (model.intermediate_size, lte.expert_size);
    match lte::file::read(source.dir(), model, Device::Cpu)? {
        Some(found) if found.expert_size != size => Err(Error::Mismatch(format!(
            "{} is grouped into experts of {}, lte.expert_size = {size}: set lte.expert_size = {}, or start from the model \
             before it was grouped",
            source.dir().display(),
            found.expert_size,
            found.expert_size
        ))),
        None if size > units => Err(Error::Mismatch(format!(
            "lte.expert_size = {size} is more than the {units} intermediate units of a layer; the paper has 32"
        ))),
        None if units % size != 0 => Err(Error::Mismatch(format!(
            "intermediate_size = {units} is not a multiple of lte.expert_size = {size}: pad it with shearling lte group {} \
             --out DIR --expert-size {size}, and give DIR as model.source",
            source.dir().display()
        ))),
        _ => Ok(()),
    }
}

/// Refuses routers that are asked for in layers that the model lacks.
fn check_layers(lte: &Lte, layers: i64) -> Result<(), Error> {
    match lte.layers.iter().flatten().find(|layer| !(0..layers).contains(*layer)) {
        Some(layer) => Err(Error::Mismatch(format!(
            "lte.layers names layer {layer}, the model has layers 0 to {}; leave it out for all",
            layers - 1
        ))),
        None => Ok(()),
    }
}
