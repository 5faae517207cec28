//! The state of a run: weights, masks, data position, mixer, counters; made new or restored from a checkpoint.

use super::Error;
use super::eval_part::EvalPart;
use super::exchange::Exchange;
use super::fault::Fault;
use super::loader_config::loader_config;
use super::mix_notices::MixWatch;
use super::optimizer::{Direction, Group};
use super::phases::{Phase, PhaseClock};
use super::routers::RouterTraining;
use super::schedule::Schedule;
use super::setup::{Device, Setup, compute_dtype, kind};
use super::start::{Start, masks_alone, start};
use super::start_routed::start_routed;
use super::teacher::Teacher;
use super::watchdog::Watchdog;
use super::weight_stream::given;
use super::weights::Weights;
use crate::config::RunConfig;
use crate::eval::EvalRows;
use crate::hf::{ModelConfig, RawConfig};
use crate::model::count::training_flops_per_token;
use crate::model::loss::Blend;
use crate::model::parameters::parameters;
use crate::model::{Decoder, ForwardContext};
use crate::prune::scores::Progress;
use serde::{Deserialize, Serialize};
use shearling_domains::{Batch, Loader, Mixer, Split};
use shearling_masks::MaskSet;
use std::collections::{BTreeSet, HashMap};
use tch::{Kind, TchError, Tensor};

/// The state of a run between two steps.
#[derive(Debug)]
pub struct Trainer {
    pub(super) config: RunConfig,
    pub(super) hf_config: RawConfig,
    pub(super) model_config: ModelConfig,
    pub(super) device: Device,
    pub(super) model: Decoder,
    pub(super) context: ForwardContext,
    /// The frozen model that it is distilled from, if there is one.
    pub(super) teacher: Option<Teacher>,
    pub(super) weights: Weights,
    pub(super) masks: Option<MaskTraining>,
    /// Routers of `lte train`.
    pub(super) routers: Option<RouterTraining>,
    pub(super) loader: Loader,
    pub(super) mixer: Mixer,
    pub(super) domains: Vec<String>,
    pub(super) references: Option<Vec<f64>>,
    /// Domains already reported as exhausted.
    pub(super) exhausted: BTreeSet<String>,
    /// What was said of the mix.
    pub(super) mix_watch: MixWatch,
    /// Whether the run diverges.
    pub(super) watchdog: Watchdog,
    pub(super) eval_rows: Vec<EvalRows>,
    pub(super) schedule: Schedule,
    pub(super) clock: PhaseClock,
    /// What goes between the ranks of a run at every step.
    pub(super) exchange: Exchange,
    /// Where the run stands.
    pub counters: Counters,
}

/// Masks with the groups that train them; the groups' tensors are the set's own.
#[derive(Debug)]
pub struct MaskTraining {
    /// The masks.
    pub set: MaskSet,
    pub(super) log_alpha: Group,
    pub(super) multipliers: Group,
}

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Finished steps.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Rows seen of each domain.
    pub domain_rows: Vec<u64>,
    /// Steps whose update was skipped.
    pub skipped: u64,
    /// Of these, the last ones in a row.
    pub skipped_in_row: u64,
    /// Best saved evaluation so far.
    pub best: Option<Best>,
    /// Seconds spent in steps, over the start and all resumes.
    pub seconds: f64,
    /// From which part on the evaluation of this step is still to be made, where the run was stopped in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_due: Option<EvalPart>,
}

/// The saved step with the lowest mean validation loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Step.
    pub step: u64,
    /// Mean over the domains.
    pub loss: f64,
}

impl Counters {
    /// Whether all of so many steps are done, and what comes after the last one.
    pub(super) fn has_finished(&self, steps: u64) -> bool {
        self.step >= steps && self.evaluation_due.is_none()
    }

    pub(super) fn count(&mut self, batch: &Batch, applied: bool) {
        self.step += 1;
        self.tokens += batch.tokens.len() as u64;
        for domain in &batch.domain {
            if self.domain_rows.len() <= *domain {
                self.domain_rows.resize(domain + 1, 0);
            }
            self.domain_rows[*domain] += 1;
        }
        self.skipped += u64::from(!applied);
        self.skipped_in_row = if applied { 0 } else { self.skipped_in_row + 1 };
    }
}

impl Trainer {
    /// A run at step 0.
    pub fn new(setup: &Setup) -> Result<Trainer, Error> {
        Trainer::starting(setup, &mut |_, _, _| ())
    }

    /// The same; `progress` is told what is measured on the source before, layer by layer.
    pub fn starting(setup: &Setup, progress: &mut Progress) -> Result<Trainer, Error> {
        let start = match (&setup.config.lte, &setup.source) {
            (Some(lte), Some(source)) => start_routed(setup, lte, source, progress)?,
            _ => start(setup, progress)?,
        };
        Trainer::begin(setup, start)
    }

    /// A run at step 0 from given fp32 weights on its device, by Hugging Face name.
    pub fn with_weights(setup: &Setup, weights: Vec<(String, Tensor)>) -> Result<Trainer, Error> {
        let weights = given(weights.into_iter().map(Ok));
        Trainer::begin(setup, Start { weights, masks: masks_alone(setup)?, experts: None })
    }

    fn begin(setup: &Setup, start: Start) -> Result<Trainer, Error> {
        let loader = Loader::new(setup.dataset.clone(), loader_config(&setup.config), &setup.proportions)?;
        let counters = Counters { domain_rows: vec![0; setup.proportions.len()], ..Counters::default() };
        Trainer::assemble(setup, start, loader, setup.mixer()?, counters)
    }

    /// Puts the parts of a run together; used by [`Trainer::new`] and by resume.
    pub(super) fn assemble(
        setup: &Setup,
        start: Start,
        loader: Loader,
        mixer: Mixer,
        counters: Counters,
    ) -> Result<Trainer, Error> {
        let Start { weights, masks, experts } = start;
        let train = &setup.config.train;
        let fault = Fault::default();
        let weights = Weights::new(setup, weights, &fault)?;
        let decoder = weights.decoder(&setup.model)?.with_recomputation(train.activation_checkpointing);
        let tokens = setup.dataset.sequence_length() as i64;
        let routers = experts.map(|experts| RouterTraining::new(experts, &setup.config, tokens as usize));
        let mut trainer = Trainer {
            context: ForwardContext::new(&setup.model, tokens, setup.device)?
                .with_selective_recomputation(setup.config.train.selective_recomputation),
            masks: masks.map(|set| MaskTraining::new(set, &setup.config)).transpose()?,
            routers: routers.transpose()?,
            eval_rows: EvalRows::load(&setup.dataset, setup.config.eval.rows_per_domain, setup.device)?,
            schedule: Schedule::of(train),
            clock: PhaseClock::off(setup.device),
            exchange: Exchange::new(setup.world.clone(), fault),
            config: setup.config.clone(),
            hf_config: setup.hf_config.clone(),
            model_config: setup.model.clone(),
            device: setup.device,
            model: decoder,
            teacher: teacher(setup, &weights)?,
            weights,
            loader,
            mixer,
            domains: setup.dataset.domain_names().to_vec(),
            references: setup.references.losses.clone(),
            exhausted: BTreeSet::new(),
            mix_watch: MixWatch::default(),
            watchdog: Watchdog::new(setup.model.vocab_size, setup.spec.is_some()),
            counters,
        };
        if let Some(routers) = &trainer.routers {
            routers.install(&mut trainer.model);
        }
        trainer.lay_out_exchange()?;
        // A resumed run does not report again what ran out before.
        let out = |domain: &usize| trainer.rows_left(*domain) == 0;
        let exhausted = (0..trainer.domains.len()).filter(out).map(|domain| trainer.domains[domain].clone()).collect();
        trainer.exhausted = exhausted;
        Ok(trainer)
    }

    /// The dtype of forward and backward.
    pub(super) fn compute_kind(&self) -> Kind {
        kind(compute_dtype(self.config.run.dtype, self.device))
    }

    /// Makes ready what ranks exchange at every step: gradients of weights that each has as a whole, of masks and of routers.
    fn lay_out_exchange(&mut self) -> Result<(), TchError> {
        let layers: HashMap<String, Option<i64>> =
            parameters(&self.model_config).into_iter().map(|p| (p.name, p.layer)).collect();
        let mut exchange = std::mem::take(&mut self.exchange);
        if self.weights.shards.is_none() {
            exchange.take_layers(&mut self.weights.group, &|name| layers.get(name).copied().flatten())?;
        }
        self.groups().skip(1).try_for_each(|group| exchange.take(group))?;
        self.model.surround(exchange.around());
        self.exchange = exchange;
        Ok(())
    }

    /// The masks of a prune run.
    pub fn masks(&self) -> Option<&MaskSet> {
        self.masks.as_ref().map(|masks| &masks.set)
    }

    /// Names of the domains, in the order of the data.
    pub fn domain_names(&self) -> &[String] {
        &self.domains
    }

    /// Rows of a domain that may still be drawn before it reaches `data.max_epochs`.
    pub fn rows_left(&self, domain: usize) -> u64 {
        let rows = self.loader.dataset().rows(domain, Split::Train) as f64;
        let drawn = self.counters.domain_rows.get(domain).copied().unwrap_or(0);
        ((rows * self.config.data.max_epochs) as u64).saturating_sub(drawn)
    }

    /// Goes back to the first rows of the data: the next step draws what the first one drew. Nothing else goes back.
    ///
    /// # Errors
    /// None that [`Trainer::new`] would not have met.
    pub fn rewind_data(&mut self) -> Result<(), Error> {
        let (dataset, proportions) = (self.loader.dataset().clone(), self.loader.proportions().to_vec());
        self.loader = Loader::new(dataset, loader_config(&self.config), &proportions)?;
        Ok(())
    }

    /// Whether all weights, masks and multipliers are finite numbers, in all ranks.
    pub(super) fn is_finite(&mut self) -> Result<bool, Error> {
        let own = self.has_finite_tensors()?;
        let [broken] = self.exchange.world.raised([!own])?;
        Ok(broken.is_none())
    }

    fn has_finite_tensors(&mut self) -> Result<bool, TchError> {
        let _no_grad = tch::no_grad_guard();
        for group in self.groups() {
            for slot in group.slots() {
                // A sum in fp64 is finite if and only if all its fp32 terms are.
                if !slot.master()?.f_sum(Kind::Double)?.f_double_value(&[])?.is_finite() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// FLOPs of one training token, those of a teacher's forward with them.
    pub fn flops_per_token(&self) -> f64 {
        let own = training_flops_per_token(&self.model_config, self.loader.dataset().sequence_length() as i64);
        own + self.teacher.as_ref().map_or(0.0, Teacher::flops_per_token)
    }

    /// Measures phases from the next step on; every phase then waits for the device.
    pub fn measure_phases(&mut self) {
        self.clock.turn_on();
    }

    /// Seconds of the last step by phase; empty unless they are measured.
    pub fn phases(&self) -> Vec<(Phase, f64)> {
        self.clock.seconds()
    }

    /// Present proportions, in the order of the data's domains.
    pub fn proportions(&self) -> &[f64] {
        self.mixer.proportions()
    }
}

impl MaskTraining {
    fn new(set: MaskSet, config: &RunConfig) -> Result<MaskTraining, TchError> {
        let group = |name, learning_rate, direction, tensors| {
            Group::new(name, learning_rate, direction, &config.train, tensors, Kind::Float)
        };
        let table = &config.masks;
        let peak = table.peak_learning_rate(config.train.steps);
        let log_alpha = group("masks", peak, Direction::Descent, set.log_alpha_parameters())?;
        let peak = table.peak_multiplier_rate(config.train.steps);
        let multipliers = group("multipliers", peak, Direction::Ascent, set.multiplier_parameters())?;
        Ok(MaskTraining { set, log_alpha, multipliers })
    }
}

fn teacher(setup: &Setup, weights: &Weights) -> Result<Option<Teacher>, Error> {
    let Some((distill, source)) = setup.config.distill.as_ref().zip(setup.teacher.as_ref()) else { return Ok(None) };
    let blend = Blend { share: distill.weight, temperature: distill.temperature };
    let tokens = setup.dataset.sequence_length() as i64;
    if setup.config.shares_teacher() {
        return Ok(Some(Teacher::sharing(source, weights.decoder(&setup.model)?, blend, tokens, setup.device)?));
    }
    let kind = kind(compute_dtype(distill.dtype, setup.device));
    Ok(Some(Teacher::load(source, kind, blend, tokens, setup.device)?))
}
