//! Evaluations inside a run: loss per domain under the present masks, the mixer's update, what is best.
//!
//! During pruning the masks are evaluated as they stand (as many units open as expected now); at the end also cut to
//! the exact target, which is what will be exported.

use super::Error;
use super::decide::Intervals;
use super::mix_notices::MixNotice;
use super::teacher::Teacher;
use super::trainer::Trainer;
use crate::dist::{Error as RankError, World};
use crate::eval::{Deal, DomainLoss, RowLosses, dealt_row_losses, mean_loss};
use crate::lte::evaluate::routed_row_losses;
use crate::lte::meter::{Densities, Meter, Sums};
use crate::model::ModelGates;
use crate::model::router::RouterForward;
use serde::{Deserialize, Serialize};
use shearling_domains::Measured;
use shearling_masks::{Gates, MaskReport, ModuleSpec, UnitKind};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Largest difference of expected and target sparsity of a module that counts as met, for the choice of the best checkpoint
/// and for whoever judges a run.
pub const CONSTRAINT_TOLERANCE: f64 = 0.02;

/// How the gates are set in an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalGates {
    /// No masks.
    Plain,
    /// As many units open as the masks expect now.
    Expected,
    /// Cut to the exact target.
    Target,
    /// Only the experts run that their routers choose.
    Experts,
    /// Experts are multiplied by their scores.
    Soft,
}

impl EvalGates {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            EvalGates::Plain => "plain",
            EvalGates::Expected => "expected",
            EvalGates::Target => "target",
            EvalGates::Experts => "experts",
            EvalGates::Soft => "soft",
        }
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvalReport {
    /// Finished steps.
    pub step: u64,
    /// How the gates were set.
    pub gates: EvalGates,
    /// How long it took, where it was timed.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Loss by domain.
    pub domains: Vec<DomainLoss>,
    /// Loss of every row by domain, nats per target token, of the model before the first step, of the cut, and of experts after the last step: two models
    /// are told apart row by row.
    pub row_losses: Option<Vec<Vec<f64>>>,
    /// Mean over the domains.
    pub mean: Option<f64>,
    /// Mean loss of the teacher on the same rows, told with the model before the first step.
    #[serde(default)]
    pub teacher: Option<f64>,
    /// Loss − reference by domain, also where that is below 0 (a mixer that passes over those does so itself); `None`
    /// without references.
    pub excess: Option<Vec<Option<f64>>>,
    /// Proportions from here on.
    pub proportions: Vec<f64>,
    /// Whether the mixer moved at this evaluation.
    pub mixer_updated: bool,
    /// What is new about the mix.
    #[serde(skip)]
    pub mix_notices: Vec<MixNotice>,
    /// Expected sparsity of every row (layer) of every mask.
    pub row_sparsity: BTreeMap<String, Vec<f64>>,
    /// State of the masks.
    pub masks: Option<MaskReport>,
    /// Which experts ran.
    #[serde(skip)]
    pub experts: Option<Densities>,
}

/// Is told of an evaluation that goes on (of which model, how many rows are done, of how many) and says whether it may. One that
/// may not ends with [`Error::Interrupted`] and has changed nothing that a checkpoint holds.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) -> ControlFlow<()> + 'a;

impl Trainer {
    /// Evaluates after the present step and, where the schedule says so, lets the mixer react.
    pub fn evaluate(&mut self, intervals: &Intervals, progress: &mut Progress) -> Result<EvalReport, Error> {
        let gates = match (&self.masks, &self.routers) {
            (Some(_), _) => EvalGates::Expected,
            (None, Some(_)) => EvalGates::Experts,
            (None, None) => EvalGates::Plain,
        };
        let (rows, experts) = self.measured_rows(gates, progress)?;
        if let (Some(routers), Some(found)) = (&mut self.routers, &experts) {
            routers.note_densities(found);
        }
        let domains = summaries(&rows);
        // What few experts cost is judged row by row against the model before the first step.
        let ends = self.counters.step >= self.config.train.steps;
        let row_losses = (gates == EvalGates::Experts && ends).then(|| by_domain(rows));
        let mixer_updated = intervals.updates_mixer(self.counters.step);
        let excess = self.over_reference(&domains);
        if !mixer_updated {
            self.check_replicas(true)?;
            return Ok(EvalReport { experts, row_losses, ..self.report(gates, domains, excess, false)? });
        }
        let measured: Vec<Option<Measured>> = domains.iter().map(measured).collect();
        let before = self.mixer.proportions().to_vec();
        let update = self.mixer.update(&measured);
        self.loader.set_proportions(&update.proportions)?;
        self.check_replicas(true)?;
        let mix_notices = self.mix_watch.look(&self.domains, &self.mixer, &before, &update);
        Ok(EvalReport { mix_notices, experts, row_losses, ..self.report(gates, domains, excess, true)? })
    }

    /// Evaluates the model without masks: before the first step, the model that the run starts from; and its teacher.
    pub fn evaluate_plain(&mut self, progress: &mut Progress) -> Result<EvalReport, Error> {
        let rows = self.row_losses(EvalGates::Plain, progress)?;
        let domains = summaries(&rows);
        let excess = self.over_reference(&domains);
        let micro_batch = self.config.train.micro_batch();
        let stop = Cell::new(false);
        let mut show = |done: usize, of: usize| stop.set(stop.get() || progress("teacher", done, of).is_break());
        let (world, rows_of_all, deal) = (&self.exchange.world, &self.eval_rows, self.deal(&stop));
        let held_out = |teacher: &Teacher| -> Result<_, Error> {
            let found = teacher.held_out_losses(rows_of_all, micro_batch, deal, &mut show)?;
            Ok(mean_loss(&summaries(&of_all_ranks(world, found, deal)?)))
        };
        let teacher = self.teacher.as_ref().map(held_out).transpose();
        let teacher = teacher.map_err(|error| self.exchange.fault.cause(error))?.flatten();
        let report = self.report(EvalGates::Plain, domains, excess, false)?;
        Ok(EvalReport { row_losses: Some(by_domain(rows)), teacher, ..report })
    }

    fn over_reference(&self, domains: &[DomainLoss]) -> Option<Vec<Option<f64>>> {
        let gap = |(domain, reference): (&DomainLoss, &f64)| domain.loss.map(|loss| loss - reference);
        self.references.as_ref().map(|references| domains.iter().zip(references).map(gap).collect())
    }

    /// Evaluates the masks cut to the exact target: the model that will be exported.
    pub fn evaluate_target(&mut self, progress: &mut Progress) -> Result<EvalReport, Error> {
        let rows = self.row_losses(EvalGates::Target, progress)?;
        let report = self.report(EvalGates::Target, summaries(&rows), None, false)?;
        Ok(EvalReport { row_losses: Some(by_domain(rows)), ..report })
    }

    /// Whether the present shape is near enough to the target for a loss to compete for "best"; a sparsity that cannot be
    /// read is not.
    pub fn constraint_holds(&self) -> bool {
        let Some(masks) = self.masks() else { return true };
        let expected = |module: UnitKind| -> Result<f64, Error> {
            Ok(masks.expected_sparsity(module)?.f_mean(tch::Kind::Float)?.f_double_value(&[])?)
        };
        let met = |expected: f64, target: f64| (expected - target).abs() <= CONSTRAINT_TOLERANCE;
        let holds = |spec: &ModuleSpec| expected(spec.module).is_ok_and(|found| met(found, spec.target_sparsity()));
        masks.spec().modules().iter().all(holds)
    }

    /// Evaluates the model with experts multiplied by their scores, as stage 1 may train it.
    pub fn evaluate_soft(&mut self, progress: &mut Progress) -> Result<EvalReport, Error> {
        let rows = self.row_losses(EvalGates::Soft, progress)?;
        self.report(EvalGates::Soft, summaries(&rows), None, false)
    }

    /// Whether stage 1, up to the step that ends it, trains experts multiplied by their scores.
    pub(super) fn multiplies_scores(&self) -> bool {
        let before = self.counters.step.saturating_sub(1);
        self.routers.as_ref().is_some_and(|routers| routers.multiplies_at(before))
    }

    fn deal<'a>(&self, stop: &'a Cell<bool>) -> Deal<'a> {
        let world = &self.exchange.world;
        Deal { rank: world.rank(), ranks: world.size(), together: self.weights.shards.is_some(), stop: Some(stop) }
    }

    fn row_losses(&mut self, gates: EvalGates, progress: &mut Progress) -> Result<Vec<RowLosses>, Error> {
        Ok(self.measured_rows(gates, progress)?.0)
    }

    /// Losses of all rows, and which experts ran for them.
    fn measured_rows(
        &mut self,
        how: EvalGates,
        progress: &mut Progress,
    ) -> Result<(Vec<RowLosses>, Option<Densities>), Error> {
        self.rows_under(how, progress).map_err(|error| self.exchange.fault.cause(error))
    }

    fn rows_under(
        &mut self,
        how: EvalGates,
        progress: &mut Progress,
    ) -> Result<(Vec<RowLosses>, Option<Densities>), Error> {
        let what = if how == EvalGates::Target { "cut to target" } else { "model" };
        let forward = match how {
            EvalGates::Experts => RouterForward::Hard,
            EvalGates::Soft => RouterForward::Soft,
            _ => RouterForward::Dense,
        };
        self.model.set_routers(forward, None);
        let gates = match (&self.masks, how) {
            (Some(masks), EvalGates::Expected) => masks.set.expected_gates()?,
            (Some(masks), EvalGates::Target) => masks.set.target_gates()?,
            _ => Gates::none(),
        };
        let gates = ModelGates::new(&self.model_config, &gates)?;
        let micro_batch = self.config.train.micro_batch();
        let stop = Cell::new(false);
        let mut show = |_: &str, done: usize, of: usize| stop.set(stop.get() || progress(what, done, of).is_break());
        let (world, model, context, rows) = (&self.exchange.world, &self.model, &self.context, &self.eval_rows);
        let deal = self.deal(&stop);
        let Some(routers) = self.routers.as_ref().filter(|_| how == EvalGates::Experts) else {
            let found = dealt_row_losses(model, context, &gates, rows, micro_batch, deal, &mut show)?;
            return Ok((of_all_ranks(world, found, deal)?, None));
        };
        let mut meter = Meter::new(routers.experts(), self.device)?;
        let found = routed_row_losses(model, context, rows, micro_batch, &mut meter, deal, &mut show)?;
        Ok((of_all_ranks(world, found, deal)?, counted_by_all(world, meter)?.densities()?))
    }

    fn report(
        &self,
        gates: EvalGates,
        domains: Vec<DomainLoss>,
        excess: Option<Vec<Option<f64>>>,
        mixer_updated: bool,
    ) -> Result<EvalReport, Error> {
        Ok(EvalReport {
            step: self.counters.step,
            gates,
            seconds: None,
            mean: mean_loss(&domains),
            domains,
            row_losses: None,
            teacher: None,
            excess,
            proportions: self.proportions().to_vec(),
            mixer_updated,
            mix_notices: Vec::new(),
            row_sparsity: self.row_sparsity()?,
            masks: self.masks().map(MaskReport::new).transpose()?,
            experts: None,
        })
    }

    fn row_sparsity(&self) -> Result<BTreeMap<String, Vec<f64>>, Error> {
        let _no_grad = tch::no_grad_guard();
        let Some(masks) = self.masks() else { return Ok(BTreeMap::new()) };
        let rows = |module: UnitKind| -> Result<Vec<f64>, Error> {
            Ok(Vec::try_from(
                masks.expected_sparsity(module)?.f_to_kind(tch::Kind::Double)?.f_to_device(tch::Device::Cpu)?,
            )?)
        };
        masks.spec().modules().iter().map(|spec| Ok((spec.module.to_string(), rows(spec.module)?))).collect()
    }
}

/// The losses of all rows, of which each rank has some and zeros for the others; where one of them stopped, all do.
fn of_all_ranks(world: &World, mut found: Vec<RowLosses>, deal: Deal) -> Result<Vec<RowLosses>, Error> {
    let [stopped] = world.raised([deal.is_stopped()])?;
    if stopped.is_some() {
        return Err(Error::Interrupted);
    }
    let own: Vec<f64> = found.iter().flat_map(|domain| domain.rows.iter().copied()).collect();
    let mut all = world.sums(&own)?.into_iter();
    for row in found.iter_mut().flat_map(|domain| &mut domain.rows) {
        *row = all.next().unwrap_or(f64::NAN);
    }
    Ok(found)
}

/// What the experts of all ranks did.
fn counted_by_all(world: &World, meter: Meter) -> Result<Meter, Error> {
    if world.is_alone() {
        return Ok(meter);
    }
    let garbled = |error: serde_json::Error| RankError::Garbled(error.to_string());
    let own = serde_json::to_string(&meter.sums()?).map_err(garbled)?;
    let all = world.texts(&own)?.iter().map(|text| serde_json::from_str::<Sums>(text)).collect::<Result<Vec<_>, _>>();
    Ok(meter.of_all(&all.map_err(garbled)?)?)
}

fn summaries(rows: &[RowLosses]) -> Vec<DomainLoss> {
    rows.iter().map(RowLosses::summary).collect()
}

fn measured(domain: &DomainLoss) -> Option<Measured> {
    Some(Measured { loss: domain.loss?, standard_error: domain.standard_error })
}

fn by_domain(rows: Vec<RowLosses>) -> Vec<Vec<f64>> {
    rows.into_iter().map(|domain| domain.rows).collect()
}
