//! One optimiser step: micro-batches forward and backward, the Lagrangian, the norms, one decision, the update.
//!
//! ```text
//! loss = Σ_rows Σ_tokens CE / (target tokens of the batch) + L_lag
//! ```
//!
//! The cross entropy is divided by the target tokens of the whole batch, so the number of micro-batches does not
//! change the gradient. The Lagrangian has no noise and is added once.

use super::Error;
use super::adamw::Group;
use super::trainer::Trainer;
use crate::model::loss;
use serde::{Deserialize, Serialize};
use shearling_domains::Batch;
use shearling_masks::{ModuleConstraint, NoiseKey};
use tch::{Kind, Tensor};

/// What one step did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepReport {
    /// Finished steps, this one included.
    pub step: u64,
    /// Mean cross entropy, nats per target token.
    pub cross_entropy: f64,
    /// Lagrangian; `None` without masks.
    pub lagrangian: Option<f64>,
    /// Per domain: rows in this batch and their mean loss (`None` without rows).
    pub domains: Vec<DomainStep>,
    /// State of the constraint before the update, by module.
    pub constraints: Vec<ModuleConstraint>,
    /// L2 norm of the gradients before clipping.
    pub norms: Norms,
    /// Factor on the gradients (1 when not clipped).
    pub clip_scale: f64,
    /// Factor on all peak learning rates.
    pub learning_rate_factor: f64,
    /// Whether the update was applied; false after a non-finite loss or gradient.
    pub applied: bool,
    /// Domains that ran out of rows and left the mix.
    pub exhausted: Vec<String>,
    /// Tokens in this batch.
    pub tokens: usize,
}

/// A domain's part of a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DomainStep {
    /// Rows in the batch.
    pub rows: usize,
    /// Their mean loss.
    pub loss: Option<f64>,
}

/// L2 norms of gradients.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Norms {
    /// Over all groups together.
    pub total: f64,
    /// Of the weights.
    pub weights: f64,
    /// Of the masks.
    pub masks: Option<f64>,
    /// Of the multipliers.
    pub multipliers: Option<f64>,
}

impl Trainer {
    /// Draws a batch and takes one step.
    pub fn step(&mut self) -> Result<StepReport, Error> {
        let index = self.counters.step;
        let batch = self.loader.next_batch()?;
        let row_losses = self.accumulate(&batch, index)?;
        let (lagrangian, constraints) = self.constrain(index)?;
        let targets = loss::targets_per_row(batch.sequence_length);
        let cross_entropy = row_losses.iter().sum::<f64>() / (row_losses.len() * targets) as f64;
        let norms = self.norms()?;
        let finite = cross_entropy.is_finite() && norms.total.is_finite() && lagrangian.is_none_or(f64::is_finite);
        let clip_scale = clip_scale(norms.total, self.config.train.clip_norm);
        let learning_rate_factor = self.schedule.factor(index);
        self.update(clip_scale, finite, learning_rate_factor)?;
        self.counters.count(&batch, finite);
        Ok(StepReport {
            step: self.counters.step,
            cross_entropy,
            lagrangian,
            domains: domain_steps(&batch, &row_losses, self.domains.len(), targets),
            constraints,
            norms,
            clip_scale,
            learning_rate_factor,
            applied: finite,
            exhausted: batch.exhausted,
            tokens: batch.tokens.len(),
        })
    }

    /// Forward and backward of all micro-batches; the summed loss of every row, in one transfer at the end.
    fn accumulate(&mut self, batch: &Batch, step: u64) -> Result<Vec<f64>, Error> {
        let tokens = batch.sequence_length;
        let total_targets = (batch.rows * loss::targets_per_row(tokens)) as f64;
        let micro = self.config.train.micro_batch();
        let mut row_losses = Vec::new();
        for (micro_batch, ids) in batch.tokens.chunks(micro * tokens).enumerate() {
            let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
            let ids = Tensor::f_from_slice(&ids)?.f_view([-1, tokens as i64])?.f_to_device(self.device)?;
            if let Some(masks) = &self.masks {
                let key = NoiseKey { seed: self.config.run.seed, step, micro_batch: micro_batch as u64 };
                self.context.set_gates(masks.set.sample(&key)?)?;
            }
            let rows = loss::row_losses(&self.decoder.forward(&ids, &self.context)?, &ids)?;
            rows.f_sum(Kind::Float)?.f_div_scalar(total_targets)?.f_backward()?;
            row_losses.push(rows.f_detach()?);
        }
        let all = Tensor::f_cat(&row_losses, 0)?.f_to_kind(Kind::Double)?.f_to_device(tch::Device::Cpu)?;
        Ok(Vec::try_from(all)?)
    }

    /// Backward of the Lagrangian.
    fn constrain(&mut self, step: u64) -> Result<(Option<f64>, Vec<ModuleConstraint>), Error> {
        let Some(masks) = &mut self.masks else { return Ok((None, Vec::new())) };
        if masks.set.spec().modules().is_empty() {
            return Ok((Some(0.0), Vec::new()));
        }
        let lagrangian = masks.set.lagrangian(step);
        lagrangian.loss.f_backward()?;
        let constraints = lagrangian.constraints()?;
        Ok((Some(constraints.iter().map(|constraint| constraint.loss).sum()), constraints))
    }

    /// Norms by group and over all.
    fn norms(&mut self) -> Result<Norms, Error> {
        let squares = self.groups().map(|group| group.squared_norm()).collect::<Result<Vec<_>, _>>()?;
        let squares: Vec<Option<f64>> =
            squares.iter().map(|square| square.f_double_value(&[]).map(Some)).collect::<Result<_, _>>()?;
        let root = |index: usize| squares.get(index).copied().flatten().map(f64::sqrt);
        Ok(Norms {
            total: squares.iter().flatten().sum::<f64>().sqrt(),
            weights: root(0).unwrap_or(0.0),
            masks: root(1),
            multipliers: root(2),
        })
    }

    fn update(&mut self, clip_scale: f64, finite: bool, learning_rate_factor: f64) -> Result<(), Error> {
        let on_device = |value: f64| Tensor::from(value as f32).f_to_device(self.device);
        let (scale, skip) = (on_device(clip_scale)?, on_device(if finite { 0.0 } else { 1.0 })?);
        self.groups().try_for_each(|group| group.update(&scale, &skip, learning_rate_factor))?;
        self.groups().for_each(|group| group.finish(finite));
        if let Some(masks) = &mut self.masks {
            masks.set.clamp();
        }
        Ok(())
    }

    /// Weights, then masks and multipliers if there are any.
    pub(super) fn groups(&mut self) -> impl Iterator<Item = &mut Group> {
        let masks = self.masks.iter_mut().flat_map(|masks| [&mut masks.log_alpha, &mut masks.multipliers]);
        std::iter::once(&mut self.weights).chain(masks)
    }
}

/// Factor that brings a gradient of L2 norm `norm` to at most `limit`.
fn clip_scale(norm: f64, limit: f64) -> f64 {
    if norm > limit { limit / norm } else { 1.0 }
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

    #[test]
    fn clipping_leaves_small_gradients_alone() {
        assert_eq!(clip_scale(0.5, 1.0), 1.0);
        assert_eq!(clip_scale(4.0, 1.0), 0.25);
        assert_eq!(clip_scale(0.0, 1.0), 1.0);
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
