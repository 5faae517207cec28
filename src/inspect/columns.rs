//! The steps of a run as columns: one vector per quantity, all as long as `step`, with `None` where a record says
//! nothing (or `null`, which is how a number that is not finite is written). Filled line by line from `metrics.jsonl`.

use super::lines::{MOST_GROUPS, is_name};
use crate::run_dir::record::{Constraint, DomainStep, Named, Step};
use serde::Serialize;
use std::collections::BTreeMap;

/// One quantity over the recorded steps.
pub type Column = Vec<Option<f64>>;

/// Steps of a run; the fields of a `step` record, see docs/formats/metrics.md.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Steps {
    /// Number of the step, from 1, ascending.
    pub step: Vec<u64>,
    /// False where the update was skipped.
    pub applied: Vec<bool>,
    /// Tokens seen so far.
    pub tokens: Column,
    /// What is minimised: cross entropy or its blend with the divergence from a teacher, and the Lagrangian.
    pub loss_total: Column,
    /// Mean over the batch's target tokens, nats.
    pub loss_cross_entropy: Column,
    /// KL divergence from the teacher, nats; none without one.
    #[serde(skip_serializing_if = "is_blank")]
    pub loss_distillation: Column,
    /// The constraint's part; none in `pretrain`.
    pub loss_lagrangian: Column,
    /// Learning rate of the weights.
    pub learning_rate_weights: Column,
    /// Of the masks.
    pub learning_rate_masks: Column,
    /// Of the multipliers.
    pub learning_rate_multipliers: Column,
    /// Of the routers, 0 when they are frozen; none without them.
    #[serde(skip_serializing_if = "is_blank")]
    pub learning_rate_routers: Column,
    /// L2 norm of all gradients before clipping.
    pub gradient_norm_total: Column,
    /// Of the weights' gradients.
    pub gradient_norm_weights: Column,
    /// Of the masks'.
    pub gradient_norm_masks: Column,
    /// Of the multipliers'.
    pub gradient_norm_multipliers: Column,
    /// Of the routers'; none without them.
    #[serde(skip_serializing_if = "is_blank")]
    pub gradient_norm_routers: Column,
    /// Factor on all gradients; 1 when not clipped.
    pub clip_scale: Column,
    /// Seconds of the step.
    pub seconds: Column,
    /// Tokens of the step per second.
    pub tokens_per_second: Column,
    /// Model FLOPs per second.
    pub model_flops_per_second: Column,
    /// Peak memory so far.
    pub peak_memory_bytes: Column,
    /// Overall sparsity that the masks expect, before the step's update.
    pub sparsity_expected: Column,
    /// Its target at this step.
    pub sparsity_target: Column,
    /// Expected count of all parameters.
    pub expected_parameters: Column,
    /// Share of intermediate units that ran; none without routers, as the next three.
    #[serde(skip_serializing_if = "is_blank")]
    pub router_density: Column,
    /// The share asked for at this step.
    #[serde(skip_serializing_if = "is_blank")]
    pub router_density_target: Column,
    /// Share of scores within 0.1 of the threshold.
    #[serde(skip_serializing_if = "is_blank")]
    pub router_near_threshold: Column,
    /// 1 while routers train, 2 when they are frozen.
    #[serde(skip_serializing_if = "is_blank")]
    pub router_stage: Column,
    /// Per domain.
    pub domains: Vec<DomainSteps>,
    /// Per mask module; empty in `pretrain`.
    pub modules: Vec<ModuleSteps>,
}

/// A domain over the steps.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DomainSteps {
    /// Its name.
    pub domain: String,
    /// Mean loss of its rows in the batch.
    pub loss: Column,
    /// Its rows in the batch.
    pub rows: Column,
    /// Its rows so far.
    pub rows_total: Column,
    /// How often its training rows have been seen.
    pub epochs: Column,
    /// Rows left before `data.max_epochs`.
    pub rows_left: Column,
    /// The mixer's proportion.
    pub proportion: Column,
}

/// A mask module over the steps; the constraint is that before the step's update.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModuleSteps {
    /// `layer`, `kv_head`, `query_head`, `intermediate`, `hidden`.
    pub module: String,
    /// Mean over rows.
    pub expected_sparsity: Column,
    /// The warmed-up target of the step.
    pub target_sparsity: Column,
    /// Expected − target: positive when too much is closed.
    pub violation: Column,
    /// Largest |expected − target| of one row.
    pub worst_row_violation: Column,
    /// Multiplier of the linear term.
    pub lambda_1: Column,
    /// Multiplier of the quadratic term.
    pub lambda_2: Column,
    /// Its part of the Lagrangian.
    pub loss: Column,
}

/// Most numbers that are kept, of all columns together: 16 bytes each. A run of 100,000 steps with seven domains and five
/// modules has 10 million.
const MOST_CELLS: usize = 32 << 20;
/// Columns that every run has, of a domain, and of a module.
const RUN_COLUMNS: usize = 28;
const DOMAIN_COLUMNS: usize = 6;
const MODULE_COLUMNS: usize = 7;

/// A column, and where its number stands in a record.
type Source<'a, R> = (&'a mut Column, fn(&R) -> Option<f64>);

fn whole(number: Option<u64>) -> Option<f64> {
    number.map(|number| number as f64)
}

/// Whether a column says nothing at any step.
fn is_blank(column: &Column) -> bool {
    column.iter().all(Option::is_none)
}

impl Steps {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.step.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.step.is_empty()
    }

    /// Every column with its number in a record.
    fn numbers(&mut self) -> [Source<'_, Step>; RUN_COLUMNS - 2] {
        [
            (&mut self.tokens, |r| whole(r.tokens)),
            (&mut self.loss_total, |r| r.loss.total),
            (&mut self.loss_cross_entropy, |r| r.loss.cross_entropy),
            (&mut self.loss_distillation, |r| r.loss.distillation),
            (&mut self.loss_lagrangian, |r| r.loss.lagrangian),
            (&mut self.learning_rate_weights, |r| r.learning_rate.weights),
            (&mut self.learning_rate_masks, |r| r.learning_rate.masks),
            (&mut self.learning_rate_multipliers, |r| r.learning_rate.multipliers),
            (&mut self.learning_rate_routers, |r| r.learning_rate.routers),
            (&mut self.gradient_norm_total, |r| r.gradient_norm.total),
            (&mut self.gradient_norm_weights, |r| r.gradient_norm.weights),
            (&mut self.gradient_norm_masks, |r| r.gradient_norm.masks),
            (&mut self.gradient_norm_multipliers, |r| r.gradient_norm.multipliers),
            (&mut self.gradient_norm_routers, |r| r.gradient_norm.routers),
            (&mut self.clip_scale, |r| r.clip_scale),
            (&mut self.seconds, |r| r.seconds),
            (&mut self.tokens_per_second, |r| r.tokens_per_second),
            (&mut self.model_flops_per_second, |r| r.model_flops_per_second),
            (&mut self.peak_memory_bytes, |r| whole(r.peak_memory_bytes)),
            (&mut self.sparsity_expected, |r| r.sparsity.as_ref()?.expected),
            (&mut self.sparsity_target, |r| r.sparsity.as_ref()?.target),
            (&mut self.expected_parameters, |r| r.sparsity.as_ref()?.expected_parameters),
            (&mut self.router_density, |r| r.routers.as_ref()?.density),
            (&mut self.router_density_target, |r| r.routers.as_ref()?.target),
            (&mut self.router_near_threshold, |r| r.routers.as_ref()?.near_threshold),
            (&mut self.router_stage, |r| whole(r.routers.as_ref()?.stage)),
        ]
    }

    /// Whether one more step and `columns` more columns would keep to [`MOST_CELLS`].
    fn has_room_for(&self, columns: usize) -> bool {
        let groups = DOMAIN_COLUMNS * self.domains.len() + MODULE_COLUMNS * self.modules.len();
        (self.len() + 1).saturating_mul(RUN_COLUMNS + groups + columns) <= MOST_CELLS
    }

    /// Whether there is room for one more step: a short line takes a cell in every column that any line before it made.
    pub(super) fn has_room(&self) -> bool {
        self.has_room_for(0)
    }

    /// Appends a `step` record.
    pub(super) fn push(&mut self, step: u64, record: &Step) {
        let before = self.len();
        self.step.push(step);
        self.applied.push(record.applied.unwrap_or(true));
        self.numbers().into_iter().for_each(|(column, number)| column.push(number(record)));
        self.push_domains(before, &record.domains);
        self.push_modules(before, record.constraints.iter().flat_map(|constraints| &constraints.0));
    }

    fn push_domains(&mut self, before: usize, domains: &Named<DomainStep>) {
        for (name, _) in domains.iter().take(MOST_GROUPS) {
            self.add_domain(name, before);
        }
        let by_name: BTreeMap<&str, &DomainStep> = domains.iter().collect();
        for domain in &mut self.domains {
            let record = by_name.get(domain.domain.as_str()).copied();
            domain.numbers().into_iter().for_each(|(column, number)| column.push(record.and_then(number)));
        }
    }

    /// Makes room for a domain, absent in the first `before` steps.
    pub(super) fn add_domain(&mut self, name: &str, before: usize) {
        let known = self.domains.iter().any(|domain| domain.domain == name);
        if known || self.domains.len() >= MOST_GROUPS || !is_name(name) || !self.has_room_for(DOMAIN_COLUMNS) {
            return;
        }
        let mut domain = DomainSteps { domain: name.to_string(), ..DomainSteps::default() };
        domain.numbers().into_iter().for_each(|(column, _)| column.resize(before, None));
        self.domains.push(domain);
    }

    fn push_modules<'r>(&mut self, before: usize, constraints: impl Iterator<Item = &'r Constraint>) {
        let named = constraints.take(MOST_GROUPS).filter_map(|record| Some((record.module.as_deref()?, record)));
        let named: Vec<(&str, &Constraint)> = named.collect();
        named.iter().for_each(|(name, _)| self.add_module(name, before));
        // From the back: of two records of a name the first counts.
        let by_name: BTreeMap<&str, &Constraint> = named.into_iter().rev().collect();
        for module in &mut self.modules {
            let record = by_name.get(module.module.as_str()).copied();
            module.numbers().into_iter().for_each(|(column, number)| column.push(record.and_then(number)));
        }
    }

    fn add_module(&mut self, name: &str, before: usize) {
        let known = self.modules.iter().any(|module| module.module == name);
        if known || self.modules.len() >= MOST_GROUPS || !is_name(name) || !self.has_room_for(MODULE_COLUMNS) {
            return;
        }
        let mut module = ModuleSteps { module: name.to_string(), ..ModuleSteps::default() };
        module.numbers().into_iter().for_each(|(column, _)| column.resize(before, None));
        self.modules.push(module);
    }

    /// Keeps the first `length` steps.
    pub(super) fn truncate(&mut self, length: usize) {
        self.step.truncate(length);
        self.applied.truncate(length);
        self.numbers().into_iter().for_each(|(column, _)| column.truncate(length));
        let domains = self.domains.iter_mut().flat_map(|domain| domain.numbers());
        domains.for_each(|(column, _)| column.truncate(length));
        let modules = self.modules.iter_mut().flat_map(|module| module.numbers());
        modules.for_each(|(column, _)| column.truncate(length));
    }
}

impl DomainSteps {
    fn numbers(&mut self) -> [Source<'_, DomainStep>; DOMAIN_COLUMNS] {
        [
            (&mut self.loss, |r| r.loss),
            (&mut self.rows, |r| whole(r.rows)),
            (&mut self.rows_total, |r| whole(r.rows_total)),
            (&mut self.epochs, |r| r.epochs),
            (&mut self.rows_left, |r| whole(r.rows_left)),
            (&mut self.proportion, |r| r.proportion),
        ]
    }
}

impl ModuleSteps {
    fn numbers(&mut self) -> [Source<'_, Constraint>; MODULE_COLUMNS] {
        [
            (&mut self.expected_sparsity, |r| r.expected_sparsity),
            (&mut self.target_sparsity, |r| r.target_sparsity),
            (&mut self.violation, |r| r.violation),
            (&mut self.worst_row_violation, |r| r.worst_row_violation),
            (&mut self.lambda_1, |r| r.lambda_1),
            (&mut self.lambda_2, |r| r.lambda_2),
            (&mut self.loss, |r| r.loss),
        ]
    }
}

/// The first and the last number of a column.
pub fn ends(column: &Column) -> (Option<f64>, Option<f64>) {
    let mut known = column.iter().copied().flatten();
    let first = known.next();
    (first, known.next_back().or(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::record::{Record, What};
    use serde_json::{Value, json};

    fn record(mut fields: Value) -> Step {
        fields["type"] = json!("step");
        let What::Step(step) = Record::from(fields).what else { panic!("a step") };
        *step
    }

    #[test]
    fn columns_stay_as_long_as_the_steps() {
        let mut steps = Steps::default();
        steps.push(1, &record(json!({ "loss": { "total": 2.0 }, "domains": { "a": { "loss": 1.0 } } })));
        steps.push(2, &record(json!({ "loss": { "total": null }, "applied": false, "domains": "none" })));
        let constraints = json!([{ "module": "layer", "violation": 0.5 }, { "no": "module" }, 3]);
        steps.push(3, &record(json!({ "domains": { "b": { "rows": 4 }, "a": 7 }, "constraints": constraints })));
        assert_eq!(steps.loss_total, [Some(2.0), None, None]);
        assert_eq!(steps.applied, [true, false, true]);
        assert_eq!(steps.domains[0].loss, [Some(1.0), None, None]);
        assert_eq!(steps.domains[1].rows, [None, None, Some(4.0)]);
        assert_eq!(steps.modules[0].violation, [None, None, Some(0.5)]);
        steps.truncate(1);
        assert!(steps.numbers().iter().all(|(column, _)| column.len() == 1));
        assert!(steps.domains[1].rows.len() == 1 && steps.modules[0].lambda_1.len() == 1);
    }

    #[test]
    fn columns_that_one_line_made_are_counted_for_all_others() {
        // 2575 steps × (28 + 1000·6 + 1000·7) cells are just below the bound.
        let full = |steps: u64| Steps {
            step: (1..=steps).collect(),
            domains: vec![DomainSteps::default(); 1000],
            modules: vec![ModuleSteps::default(); 1000],
            ..Steps::default()
        };
        assert!(full(2574).has_room() && !full(2575).has_room());
        let mut few = Steps { step: vec![0; 1_100_000], ..Steps::default() };
        assert!(few.has_room());
        few.add_domain("six more columns are too many", 0);
        assert!(few.domains.is_empty());
    }

    #[test]
    fn ends_pass_over_gaps() {
        assert_eq!(ends(&vec![None, Some(1.0), None, Some(3.0), None]), (Some(1.0), Some(3.0)));
        assert_eq!(ends(&vec![Some(2.0)]), (Some(2.0), Some(2.0)));
        assert_eq!(ends(&vec![None]), (None, None));
    }
}
