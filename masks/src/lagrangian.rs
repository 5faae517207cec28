//! The constraint: an augmented Lagrangian per kind of unit, minimised over the masks and maximised over the multipliers.
//!
//! ```text
//! L = Σ_M mean_rows[ λ1_M·(s_row − t_M) + λ2_M·(s_row − t_M)² ],    t_M(step) = target_M · min(1, step/W)
//! ```
//!
//! s is the expected sparsity of a row, 1 − mean score. λ1 and λ2 are two scalars per module, shared by its rows: the linear
//! term holds the average over layers, the quadratic term each layer. The training loop adds the loss to the cross entropy.
//!
//! Everything that logs want to know follows from a few hundred numbers, the [`Lagrangian::summary`]. It stays on the masks'
//! device until the caller brings it over, together with whatever else it logs; the rest is arithmetic on the host.

use crate::constraint_rows::ConstraintRows;
use crate::error::{Error, Result};
use crate::expected_size::ExpectedSize;
use crate::shape::UnitKind;
use crate::spec::{MaskSpec, ModuleSpec};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// The constraint at one step.
#[derive(Debug)]
pub struct Lagrangian {
    /// Scalar with a graph to the log-odds and the multipliers; 0 if nothing is pruned.
    pub loss: Tensor,
    spec: MaskSpec,
    progress: f64,
    /// Expected number of open units of every row `[R]`, without graph; none if nothing is pruned.
    open: Option<Tensor>,
    /// The parts of the summary, one after the other; none of them shares storage with a leaf.
    parts: Vec<Tensor>,
    device: Device,
}

/// The state of one module's constraint, for logs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleConstraint {
    /// The kind of unit.
    pub module: UnitKind,
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
    /// The constraint for the scores of all masks in one vector `[U]` and the multipliers `[2, M]`, both with graph and no
    /// views of leaves, in the order of the spec. `progress` is the share of the targets that holds at this step. Without
    /// `rows` the scores meet their targets by construction: there is a state to log, and no loss.
    pub(crate) fn new(
        spec: &MaskSpec,
        rows: Option<&ConstraintRows>,
        scores: &Tensor,
        multipliers: &Tensor,
        progress: f64,
    ) -> Result<Lagrangian> {
        let units: Vec<i64> = spec.modules().iter().map(ModuleSpec::units).collect();
        let scores = scores.f_split_with_sizes(&units[..], 0)?;
        let row_sums = spec.modules().iter().zip(&scores).map(|(module, scores)| -> Result<Tensor> {
            Ok(scores.f_view([module.rows, module.size])?.f_sum_dim_intlist(-1, false, Kind::Float)?)
        });
        let open = Tensor::f_cat(&row_sums.collect::<Result<Vec<_>>>()?, 0)?;
        let with_layers = spec.modules().iter().zip(&scores).filter(|(module, _)| module.module == UnitKind::Layer);
        let mut parts = with_layers.map(|(_, scores)| scores.f_detach()).collect::<std::result::Result<Vec<_>, _>>()?;
        parts.extend([open.f_detach()?, multipliers.f_detach()?.f_view([-1])?]);
        let device = open.device();
        let loss = match rows {
            Some(rows) => rows.loss(&open, multipliers, progress)?,
            None => Tensor::f_zeros([0i64; 0], (Kind::Float, device))?,
        };
        Ok(Lagrangian { loss, spec: spec.clone(), progress, open: Some(open.f_detach()?), parts, device })
    }

    /// The constraint when nothing is pruned.
    pub(crate) fn of_nothing(spec: &MaskSpec, device: Device) -> Result<Lagrangian> {
        let loss = Tensor::f_zeros([0i64; 0], (Kind::Float, device))?;
        Ok(Lagrangian { loss, spec: spec.clone(), progress: 1.0, open: None, parts: Vec::new(), device })
    }

    /// The mean violation of every module, `[M]`, if anything is pruned under `rows`.
    pub(crate) fn violations(&self, rows: &ConstraintRows) -> Result<Option<Tensor>> {
        self.open.as_ref().map(|open| rows.violations(open, self.progress)).transpose()
    }

    /// Everything there is to log as of the call that made this: fp32, one dimension of [`summary_len`](Self::summary_len)
    /// numbers, on the masks' device and without graph. [`constraints_from`](Self::constraints_from) and
    /// [`expected`](Self::expected) read it once it is on the host.
    ///
    /// # Errors
    /// libtorch's.
    pub fn summary(&self) -> Result<Tensor> {
        match self.parts.is_empty() {
            true => Ok(Tensor::f_zeros([0], (Kind::Float, self.device))?),
            false => Ok(Tensor::f_cat(&self.parts, 0)?),
        }
    }

    /// How many numbers the summary has: at most 4·L + 12.
    pub fn summary_len(&self) -> usize {
        let of_module = |module: &ModuleSpec| {
            let single_scores = if module.module == UnitKind::Layer { module.size } else { 0 };
            (single_scores + module.rows + 2) as usize
        };
        self.spec.modules().iter().map(of_module).sum()
    }

    /// The state of every module, from the values of the summary.
    ///
    /// # Errors
    /// Another number of values than the summary has.
    pub fn constraints_from(&self, summary: &[f32]) -> Result<Vec<ModuleConstraint>> {
        let summary = self.read(summary)?;
        Ok((0..self.spec.modules().len()).map(|at| self.constraint(at, &summary)).collect())
    }

    /// The expected size of the model, from the values of the summary.
    ///
    /// # Errors
    /// Another number of values than the summary has.
    pub fn expected(&self, summary: &[f32]) -> Result<ExpectedSize> {
        let summary = self.read(summary)?;
        let of = |module: UnitKind| self.spec.modules().iter().position(|spec| spec.module == module);
        // What is not pruned is open in full.
        let sums = |module: UnitKind| match of(module) {
            Some(at) => summary.rows[at].clone(),
            None => vec![module.size_in(self.spec.source()) as f64; self.spec.layout(module).rows as usize],
        };
        let layers = match of(UnitKind::Layer) {
            Some(_) => summary.layers.clone(),
            None => vec![1.0; self.spec.source().num_hidden_layers as usize],
        };
        let per_layer = [UnitKind::KvHead, UnitKind::QueryHead, UnitKind::Intermediate].map(sums);
        Ok(ExpectedSize::new(&self.spec, &layers, per_layer, sums(UnitKind::Hidden).iter().sum()))
    }

    fn constraint(&self, at: usize, summary: &Summary) -> ModuleConstraint {
        let spec = &self.spec.modules()[at];
        let target_sparsity = spec.target_sparsity() * self.progress;
        let sparsity = summary.rows[at].iter().map(|open| 1.0 - open / spec.size as f64);
        let excess: Vec<f64> = sparsity.map(|sparsity| sparsity - target_sparsity).collect();
        let mean = |power: i32| excess.iter().map(|e| e.powi(power)).sum::<f64>() / excess.len() as f64;
        let [lambda_1, lambda_2] = summary.multipliers[at];
        ModuleConstraint {
            module: spec.module,
            expected_sparsity: target_sparsity + mean(1),
            target_sparsity,
            violation: mean(1),
            // The total order puts NaN last, so that a diverged row shows.
            worst_row_violation: excess.iter().map(|e| e.abs()).max_by(f64::total_cmp).unwrap_or(0.0),
            lambda_1,
            lambda_2,
            loss: lambda_1 * mean(1) + lambda_2 * mean(2),
        }
    }

    fn read(&self, summary: &[f32]) -> Result<Summary> {
        let (expected, found) = (self.summary_len(), summary.len());
        if found != expected {
            return Err(Error::SummaryLength { expected, found });
        }
        let mut rest = summary.iter().map(|&value| f64::from(value));
        let mut take = |count: i64| rest.by_ref().take(count as usize).collect::<Vec<f64>>();
        let layers = take(self.spec.get(UnitKind::Layer).map_or(0, |spec| spec.size));
        let rows = self.spec.modules().iter().map(|spec| take(spec.rows)).collect();
        let count = self.spec.modules().len() as i64;
        let multipliers = take(count).into_iter().zip(take(count)).map(|(one, two)| [one, two]).collect();
        Ok(Summary { layers, rows, multipliers })
    }
}

/// The parts of a summary, on the host.
struct Summary {
    /// Score of every layer, if layers are pruned.
    layers: Vec<f64>,
    /// Per module, the sum of the scores of every row.
    rows: Vec<Vec<f64>>,
    /// Per module, λ1 and λ2.
    multipliers: Vec<[f64; 2]>,
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
}
