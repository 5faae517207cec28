//! One optimiser step: micro-batches forward and backward, the Lagrangian, the norms, the update, one read-back of its numbers.
//!
//! What is minimised, term by term, is in [`objective`](super::objective). Nothing waits for the device until the step is
//! done: whether it is finite and how it is clipped is decided there, and all numbers for the log come back in one transfer.

use super::Error;
use super::objective::RowSums;
use super::optimizer::Group;
use super::phases::Phase;
use super::routers::{ROUTERS, RouterStep};
use super::sharding::Shards;
use super::trainer::Trainer;
use crate::model::loss;
use serde::Serialize;
use shearling_domains::Batch;
use shearling_masks::{ExpectedSize, Lagrangian, ModuleConstraint};
use tch::{Device, Kind, TchError, Tensor};

/// What one step did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Finished steps, this one included.
    pub step: u64,
    /// Mean cross entropy, nats per target token.
    pub cross_entropy: f64,
    /// Mean divergence from the teacher, KL(teacher ‖ model) at its temperature, nats per target token; `None` without one.
    pub distillation: Option<f64>,
    /// What is minimised of the tokens: their cross entropy, or its blend with the divergence.
    pub token_loss: f64,
    /// Lagrangian; `None` without masks.
    pub lagrangian: Option<f64>,
    /// Per domain: rows in this batch and their mean loss (`None` without rows).
    pub domains: Vec<DomainStep>,
    /// State of the constraint before the update, by module.
    pub constraints: Vec<ModuleConstraint>,
    /// What the masks expected the model to be before the update; `None` without masks.
    pub expected: Option<ExpectedSize>,
    /// L2 norm of the gradients before clipping.
    pub norms: Norms,
    /// Factor on the gradients (1 when not clipped).
    pub clip_scale: f64,
    /// Factor on all peak learning rates.
    pub learning_rate_factor: f64,
    /// Whether the update was applied; false after a non-finite loss or gradient.
    pub applied: bool,
    /// What the routers did; `lte train` only.
    pub routers: Option<RouterStep>,
    /// Domains that ran out of rows and left the mix.
    pub exhausted: Vec<String>,
    /// Tokens in this batch.
    pub tokens: usize,
}

/// A domain's part of a batch.
#[derive(Clone, Debug)]
pub struct DomainStep {
    /// Rows in the batch.
    pub rows: usize,
    /// Their mean loss.
    pub loss: Option<f64>,
}

/// L2 norms of gradients.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Norms {
    /// Over all groups together.
    pub total: f64,
    /// Of the weights.
    pub weights: f64,
    /// Of the masks.
    pub masks: Option<f64>,
    /// Of the multipliers.
    pub multipliers: Option<f64>,
    /// Of the routers, which are clipped by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routers: Option<f64>,
}

impl Trainer {
    /// Draws a batch and takes one step.
    pub fn step(&mut self) -> Result<StepReport, Error> {
        let index = self.counters.step;
        self.clock.start();
        let batch = self.agreed_batch()?;
        self.clock.mark(Phase::Data);
        if let Some(routers) = &mut self.routers {
            routers.begin_step(index, &mut self.model)?;
        }
        let rows = self.accumulate(&batch, index).map_err(|error| self.exchange.fault.cause(error))?;
        let lagrangian = self.constrain(index)?;
        let rows = self.exchange_sums(rows, &batch)?;
        let counts = self.routers.as_ref().map(|routers| routers.counts()).transpose()?.flatten();
        let device = self.device;
        // An empty group has no device; its norm has to come to that of the others.
        let squares = self.groups().map(|group| group.squared_norm()?.f_to_device(device));
        let squares = squares.collect::<Result<Vec<_>, TchError>>()?;
        if let Some(shards) = &self.weights.shards {
            shards.sum(&squares[0])?;
        }
        let routed = self.routers.is_some();
        let verdict = GradientVerdict::new(&rows, &squares, lagrangian.as_ref(), routed, self.config.train.clip_norm)?;
        self.clock.mark(Phase::Clip);
        let learning_rate_factor = self.schedule.factor(index);
        self.update(&verdict, learning_rate_factor, lagrangian.as_ref())?;
        let log = StepLog::read(&rows, &squares, &verdict, lagrangian.as_ref(), counts.as_ref())?;
        self.groups().for_each(|group| group.finish(log.applied));
        self.counters.count(&batch, log.applied);
        if let Some(masks) = &mut self.masks {
            masks.set.finish_step(self.counters.step);
        }
        self.clock.mark(Phase::Optimizer);
        let targets = loss::targets_per_row(batch.sequence_length);
        let mean = |rows: &[f64]| rows.iter().sum::<f64>() / (rows.len() * targets) as f64;
        let (cross_entropy, distillation) = (mean(&log.row_losses), log.row_divergences.as_deref().map(mean));
        let blended = self.teacher.as_ref().zip(distillation);
        Ok(StepReport {
            step: self.counters.step,
            cross_entropy,
            distillation,
            token_loss: blended.map_or(cross_entropy, |(teacher, kl)| teacher.blend.of(cross_entropy, kl)),
            lagrangian: self.masks.as_ref().map(|_| log.constraints.iter().map(|constraint| constraint.loss).sum()),
            domains: domain_steps(&batch, &log.row_losses, self.domains.len(), targets),
            constraints: log.constraints,
            expected: log.expected,
            norms: log.norms,
            clip_scale: log.clip_scale,
            learning_rate_factor,
            applied: log.applied,
            routers: self.routers.as_ref().and_then(|routers| routers.report(index, &log.router_counts)),
            exhausted: batch.exhausted,
            tokens: batch.tokens.len(),
        })
    }

    fn update(
        &mut self,
        verdict: &GradientVerdict,
        learning_rate_factor: f64,
        constraint: Option<&Lagrangian>,
    ) -> Result<(), Error> {
        let frozen = self.routers.as_ref().is_some_and(|routers| !routers.trains_at(self.counters.step));
        for (at, group) in self.groups().enumerate() {
            let scale = if at == 0 { &verdict.scale } else { &verdict.scale_of_others };
            // Not even momentum moves a frozen router.
            if !(frozen && group.name == ROUTERS) {
                group.update(scale, &verdict.skip, learning_rate_factor)?;
            }
        }
        self.weights.shards.as_ref().map_or(Ok(()), Shards::follow_update)?;
        if let Some(routers) = &mut self.routers {
            routers.shift(self.counters.step, &verdict.skip)?;
        }
        if let Some(masks) = &mut self.masks {
            masks.set.clamp()?;
            constraint.map_or(Ok(()), |constraint| masks.set.unwind(constraint))?;
        }
        Ok(())
    }

    /// Weights, then masks and multipliers or routers if there are any.
    pub(super) fn all_groups(&self) -> impl Iterator<Item = &Group> {
        let masks = self.masks.iter().flat_map(|masks| [&masks.log_alpha, &masks.multipliers]);
        let routers = self.routers.iter().map(|routers| &routers.group);
        std::iter::once(&self.weights.group).chain(masks).chain(routers)
    }

    /// The same, to be changed.
    pub(super) fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        let masks = self.masks.iter_mut().flat_map(|masks| [&mut masks.log_alpha, &mut masks.multipliers]);
        let routers = self.routers.iter_mut().map(|routers| &mut routers.group);
        std::iter::once(&mut self.weights.group).chain(masks).chain(routers)
    }
}

/// What is to be done with the gradients, decided on the device.
struct GradientVerdict {
    /// Factor that brings the global norm to at most the limit, of the weights alone where there are routers; a scalar.
    scale: Tensor,
    /// That of the other groups: the same, or the routers' own.
    scale_of_others: Tensor,
    /// 1 where loss or gradients are not finite, else 0; a scalar.
    skip: Tensor,
}

impl GradientVerdict {
    fn new(
        rows: &RowSums,
        squares: &[Tensor],
        lagrangian: Option<&Lagrangian>,
        routed: bool,
        limit: f64,
    ) -> Result<GradientVerdict, TchError> {
        let _no_grad = tch::no_grad_guard();
        let norm_of = |squares: &[Tensor]| Tensor::f_stack(squares, 0)?.f_sum(Kind::Double)?.f_sqrt();
        let within = |norm: &Tensor| norm.f_reciprocal()?.f_mul_scalar(limit)?.f_clamp_max(1.0)?.f_to_kind(Kind::Float);
        let norm = norm_of(squares)?;
        // A spike of the routers' penalty must not take the weights' gradient with it.
        let (scale, scale_of_others) = match squares {
            [weights, others @ ..] if routed => {
                (within(&norm_of(std::slice::from_ref(weights))?)?, within(&norm_of(others)?)?)
            }
            _ => (within(&norm)?, within(&norm)?),
        };
        let mut probe = norm.f_add(&rows.losses.f_sum(Kind::Double)?)?;
        if let Some(divergences) = &rows.divergences {
            probe = probe.f_add(&divergences.f_sum(Kind::Double)?)?;
        }
        if let Some(lagrangian) = lagrangian {
            probe = probe.f_add(&lagrangian.loss)?;
        }
        let skip = probe.f_isfinite()?.f_logical_not()?.f_to_kind(Kind::Float)?;
        Ok(GradientVerdict { scale, scale_of_others, skip })
    }
}

/// The numbers of a step on the host.
struct StepLog {
    row_losses: Vec<f64>,
    row_divergences: Option<Vec<f64>>,
    norms: Norms,
    clip_scale: f64,
    applied: bool,
    constraints: Vec<ModuleConstraint>,
    expected: Option<ExpectedSize>,
    router_counts: Vec<f64>,
}

impl StepLog {
    /// Brings everything over in one transfer.
    fn read(
        rows: &RowSums,
        squares: &[Tensor],
        verdict: &GradientVerdict,
        lagrangian: Option<&Lagrangian>,
        router_counts: Option<&Tensor>,
    ) -> Result<StepLog, Error> {
        let summary = lagrangian.map(Lagrangian::summary).transpose()?;
        let scalars = squares.iter().chain([&verdict.scale, &verdict.skip]);
        let mut parts = vec![rows.losses.f_to_kind(Kind::Double)?];
        parts.extend(rows.divergences.as_ref().map(|rows| rows.f_to_kind(Kind::Double)).transpose()?);
        for scalar in scalars {
            parts.push(scalar.f_to_kind(Kind::Double)?.f_view([1])?);
        }
        parts.extend(router_counts.map(|counts| counts.f_to_kind(Kind::Double)).transpose()?);
        parts.extend(summary.map(|summary| summary.f_to_kind(Kind::Double)).transpose()?);
        let values: Vec<f64> = Vec::try_from(Tensor::f_cat(&parts, 0)?.f_to_device(Device::Cpu)?)?;
        let count = rows.losses.size()[0] as usize;
        let (row_losses, rest) = values.split_at(count);
        let (row_divergences, rest) = rest.split_at(if rows.divergences.is_some() { count } else { 0 });
        let (squares, rest) = rest.split_at(squares.len());
        let (verdict, rest) = rest.split_at(2);
        let (router_counts, summary) = rest.split_at(router_counts.map_or(0, |counts| counts.size()[0] as usize));
        let summary: Vec<f32> = summary.iter().map(|value| *value as f32).collect();
        let root = |index: usize| squares.get(index).copied().map(f64::sqrt);
        Ok(StepLog {
            row_losses: row_losses.to_vec(),
            row_divergences: rows.divergences.as_ref().map(|_| row_divergences.to_vec()),
            norms: Norms {
                total: squares.iter().sum::<f64>().sqrt(),
                weights: root(0).unwrap_or(0.0),
                masks: root(1).filter(|_| lagrangian.is_some()),
                multipliers: root(2),
                routers: root(1).filter(|_| lagrangian.is_none()),
            },
            clip_scale: verdict[0],
            applied: verdict[1] == 0.0,
            router_counts: router_counts.to_vec(),
            constraints: lagrangian.map_or(Ok(Vec::new()), |lagrangian| lagrangian.constraints_from(&summary))?,
            expected: lagrangian.map(|lagrangian| lagrangian.expected(&summary)).transpose()?,
        })
    }
}

fn domain_steps(batch: &Batch, row_losses: &[f64], domains: usize, targets: usize) -> Vec<DomainStep> {
    let mut sums = vec![(0usize, 0.0f64); domains];
    for (domain, loss) in batch.domain.iter().zip(row_losses) {
        sums[*domain].0 += 1;
        sums[*domain].1 += loss;
    }
    let step = |(rows, sum): (usize, f64)| DomainStep { rows, loss: (rows > 0).then(|| sum / (rows * targets) as f64) };
    sums.into_iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(loss: f32, square: f32) -> (f64, f64) {
        let rows = RowSums { losses: Tensor::from_slice(&[loss]), divergences: None };
        let verdict = GradientVerdict::new(&rows, &[Tensor::from(square)], None, false, 1.0).unwrap();
        (verdict.scale.double_value(&[]), verdict.skip.double_value(&[]))
    }

    #[test]
    fn clipping_leaves_small_gradients_alone() {
        assert_eq!(verdict(1.0, 0.25), (1.0, 0.0));
        assert_eq!(verdict(1.0, 16.0), (0.25, 0.0));
        assert_eq!(verdict(1.0, 0.0), (1.0, 0.0));
    }

    #[test]
    fn what_is_not_finite_is_skipped() {
        assert_eq!(verdict(f32::NAN, 1.0).1, 1.0);
        assert_eq!(verdict(f32::INFINITY, 1.0).1, 1.0);
        assert_eq!(verdict(1.0, f32::NAN).1, 1.0);
        assert_eq!(verdict(1.0, f32::INFINITY).1, 1.0);
        let divergences = Some(Tensor::from_slice(&[f32::NAN]));
        let broken_teacher = RowSums { losses: Tensor::from_slice(&[1.0f32]), divergences };
        let verdict = GradientVerdict::new(&broken_teacher, &[Tensor::from(1.0f32)], None, false, 1.0).unwrap();
        assert_eq!(verdict.skip.double_value(&[]), 1.0);
    }

    #[test]
    fn a_domain_without_rows_has_no_loss() {
        let batch = Batch {
            index: 0,
            tokens: vec![0; 6],
            rows: 3,
            sequence_length: 2,
            domain: vec![0, 2, 0],
            row: vec![0, 0, 1],
            exhausted: Vec::new(),
        };
        let steps = domain_steps(&batch, &[1.0, 5.0, 3.0], 3, 1);
        assert_eq!(steps.iter().map(|d| d.rows).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(steps.iter().map(|d| d.loss).collect::<Vec<_>>(), [Some(2.0), None, Some(5.0)]);
    }
}
