//! The constraint: an augmented Lagrangian per kind of unit, minimised over the masks and maximised over the multipliers.
//!
//! ```text
//! L = Σ_M mean_rows[ λ1_M·(s_row − t_M) + λ2_M·(s_row − t_M)² ],    t_M(step) = target_M · min(1, step/W)
//! ```
//!
//! s is the expected sparsity of a row, 1 − mean score. λ1 and λ2 are two scalars per module, shared by its rows: the linear
//! term holds the average over layers, the quadratic term each layer. The training loop adds the loss to the cross entropy.

use crate::error::Result;
use crate::gates::cpu_values;
use crate::shape::Module;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The constraint of one module: what [`Lagrangian`] is made of.
pub(crate) struct Constraint<'a> {
    pub module: Module,
    /// Expected sparsity per row, `[rows]`.
    pub sparsity: Tensor,
    /// Target sparsity at this step.
    pub target: f64,
    /// λ1, a scalar.
    pub lambda_1: &'a Tensor,
    /// λ2, a scalar.
    pub lambda_2: &'a Tensor,
}

impl Constraint<'_> {
    /// λ1·mean(s − t) + λ2·mean((s − t)²), a scalar.
    fn penalty(&self) -> Tensor {
        let excess = &self.sparsity - self.target;
        (self.lambda_1 * &excess + self.lambda_2 * excess.square()).mean(Kind::Float)
    }

    /// Mean sparsity, largest deviation of a row, λ1, λ2 and the penalty as a tensor `[5]`.
    fn summary(&self, penalty: &Tensor) -> Tensor {
        let worst = (&self.sparsity - self.target).abs().max();
        let mean = self.sparsity.mean(Kind::Float);
        Tensor::stack(&[&mean, &worst, self.lambda_1, self.lambda_2, penalty], 0)
    }
}

/// The constraint at one step.
pub struct Lagrangian {
    /// Scalar with a graph to the log-odds and the multipliers; 0 if nothing is pruned.
    pub loss: Tensor,
    targets: Vec<(Module, f64)>,
    summaries: Vec<Tensor>,
}

/// The state of one module's constraint, for logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleConstraint {
    /// The kind of unit.
    pub module: Module,
    /// Expected sparsity, mean over rows.
    pub expected_sparsity: f64,
    /// Target sparsity at this step.
    pub target_sparsity: f64,
    /// Expected minus target: positive when too much is closed. The gradient of λ1.
    pub violation: f64,
    /// Largest |expected − target| of a single row.
    pub worst_row_violation: f64,
    /// Multiplier of the linear term.
    pub lambda_1: f64,
    /// Multiplier of the quadratic term.
    pub lambda_2: f64,
    /// This module's share of the loss; may be negative.
    pub loss: f64,
}

impl Lagrangian {
    /// The sum over modules; `zero` is a scalar on the masks' device.
    pub(crate) fn new(constraints: &[Constraint<'_>], zero: Tensor) -> Lagrangian {
        let penalties: Vec<Tensor> = constraints.iter().map(Constraint::penalty).collect();
        let summaries = tch::no_grad(|| constraints.iter().zip(&penalties).map(|(c, p)| c.summary(p)).collect());
        Lagrangian {
            loss: penalties.iter().fold(zero, |sum, penalty| sum + penalty),
            targets: constraints.iter().map(|constraint| (constraint.module, constraint.target)).collect(),
            summaries,
        }
    }

    /// The state of every module as of the call that made this, in one transfer from the device.
    ///
    /// # Errors
    /// libtorch's, if the transfer fails.
    pub fn constraints(&self) -> Result<Vec<ModuleConstraint>> {
        if self.summaries.is_empty() {
            return Ok(Vec::new());
        }
        let values = cpu_values(&Tensor::f_cat(&self.summaries, 0)?)?;
        Ok(self
            .targets
            .iter()
            .zip(values.chunks_exact(5))
            .map(|(&(m, t), row)| ModuleConstraint::new(m, t, row))
            .collect())
    }
}

impl ModuleConstraint {
    fn new(module: Module, target_sparsity: f64, summary: &[f32]) -> ModuleConstraint {
        let value = |at: usize| f64::from(summary[at]);
        ModuleConstraint {
            module,
            expected_sparsity: value(0),
            target_sparsity,
            violation: value(0) - target_sparsity,
            worst_row_violation: value(1),
            lambda_1: value(2),
            lambda_2: value(3),
            loss: value(4),
        }
    }
}

/// The warmed-up target: linear from 0 to `target` over `warmup_steps`, constant if there is no warm-up.
pub(crate) fn warmed_up(target: f64, step: u64, warmup_steps: u64) -> f64 {
    if step >= warmup_steps { target } else { target * (step as f64 / warmup_steps as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_rise_linearly_and_stay() {
        let at = |step| warmed_up(0.5, step, 20);
        assert_eq!([at(0), at(5), at(10), at(20), at(1000)], [0.0, 0.125, 0.25, 0.5, 0.5]);
        assert_eq!(warmed_up(0.5, 0, 0), 0.5);
    }

    #[test]
    fn the_loss_and_its_gradients_are_those_of_the_formula() {
        let leaf = |value: f32| Tensor::from(value).set_requires_grad(true);
        let (lambda_1, lambda_2) = (leaf(2.0), leaf(3.0));
        let sparsity = Tensor::from_slice(&[0.5f32, 0.1]).set_requires_grad(true);
        let constraint = Constraint {
            module: Module::KvHead,
            sparsity: sparsity.shallow_clone(),
            target: 0.25,
            lambda_1: &lambda_1,
            lambda_2: &lambda_2,
        };
        let lagrangian = Lagrangian::new(&[constraint], Tensor::from(0f32));
        lagrangian.loss.backward();
        let expected = 2.0 * 0.05 + 3.0 * (0.0625 + 0.0225) / 2.0;
        assert!((lagrangian.loss.double_value(&[]) - expected).abs() < 1e-6);
        assert!((lambda_1.grad().double_value(&[]) - 0.05).abs() < 1e-6);
        assert!((lambda_2.grad().double_value(&[]) - 0.0425).abs() < 1e-6);
        assert!((sparsity.grad().double_value(&[0]) - (2.0 + 6.0 * 0.25) / 2.0).abs() < 1e-6);

        tch::no_grad(|| _ = lambda_1.shallow_clone().fill_(9.0));
        let state = &lagrangian.constraints().unwrap()[0];
        assert_eq!(state.module, Module::KvHead);
        assert_eq!(state.lambda_1, 2.0, "the state is that of the forward, not of later updates");
        assert!((state.violation - 0.05).abs() < 1e-6 && (state.worst_row_violation - 0.25).abs() < 1e-6);
        assert!((state.loss - expected).abs() < 1e-6);
    }
}
