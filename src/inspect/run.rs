//! The short form of a run's history: one number where the history has a column. For tables and for `demo`.

use super::columns::{Column, ends};
use super::evaluations::{DomainEval, Evaluation};
use super::history::RunHistory;
use serde::Serialize;

/// What happened in a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// `prune`, `pretrain` or `lte`.
    pub stage: Option<String>,
    /// Finished steps.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: Option<u64>,
    /// Tokens seen.
    pub tokens: Option<u64>,
    /// Seconds spent in steps.
    pub seconds: f64,
    /// Seconds spent in evaluations; `None` where not all of them were timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_seconds: Option<f64>,
    /// Mean tokens per second over the recorded steps.
    pub tokens_per_second: Option<f64>,
    /// Training loss of the first and the last step.
    pub first_loss: Option<f64>,
    /// See `first_loss`.
    pub last_loss: Option<f64>,
    /// Steps whose update was skipped.
    pub skipped: usize,
    /// Times the run was resumed.
    pub resumed: usize,
    /// Per domain.
    pub domains: Vec<DomainSummary>,
    /// Per mask module, from the last step.
    pub constraints: Vec<ConstraintSummary>,
    /// Steps with a checkpoint.
    pub checkpoints: Vec<u64>,
}

/// A domain's part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct DomainSummary {
    /// Domain.
    pub domain: String,
    /// Validation loss at the first evaluation of the kind that `last_loss` is of. What the source had before the first
    /// step of pruning is in [`super::DomainStory::source`].
    pub first_loss: Option<f64>,
    /// Validation loss at the last evaluation of the model in training: while pruning, with as many units open as expected;
    /// of `lte train`, with the chosen experts.
    pub last_loss: Option<f64>,
    /// Validation loss of the masks cut to their target, at the last such evaluation.
    pub cut_loss: Option<f64>,
    /// Its standard error.
    pub standard_error: Option<f64>,
    /// Reference loss.
    pub reference: Option<f64>,
    /// Proportion in the first step.
    pub first_proportion: Option<f64>,
    /// Proportion in the last step.
    pub last_proportion: Option<f64>,
    /// Rows seen.
    pub rows: Option<u64>,
    /// Epochs over its training rows.
    pub epochs: Option<f64>,
}

/// A mask module's constraint in the last step.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConstraintSummary {
    /// Which mask.
    pub module: String,
    /// Mean over rows.
    pub expected_sparsity: Option<f64>,
    /// Target of the step.
    pub target_sparsity: Option<f64>,
    /// Expected − target.
    pub violation: Option<f64>,
    /// Multiplier of the linear term.
    pub lambda_1: Option<f64>,
    /// Multiplier of the quadratic term.
    pub lambda_2: Option<f64>,
}

impl RunSummary {
    /// The summary of a history.
    pub fn of(history: &RunHistory) -> RunSummary {
        let (first_loss, last_loss) = ends(&history.steps.loss_cross_entropy);
        let rate = history.tokens.filter(|_| history.seconds > 0.0).map(|tokens| tokens / history.seconds);
        RunSummary {
            stage: history.stage.clone(),
            step: history.finished_steps,
            steps: history.planned_steps,
            tokens: history.tokens.map(|tokens| tokens as u64),
            seconds: history.seconds,
            evaluation_seconds: history.evaluation_seconds,
            tokens_per_second: rate,
            first_loss,
            last_loss,
            skipped: history.skipped_steps().len(),
            resumed: history.events.iter().filter(|event| event.kind == "resume").count(),
            domains: history.domains.iter().map(|domain| DomainSummary::of(history, domain)).collect(),
            constraints: constraints(history),
            checkpoints: history.checkpoints.clone(),
        }
    }
}

impl DomainSummary {
    fn of(history: &RunHistory, domain: &str) -> DomainSummary {
        let evaluations = &history.evaluations;
        let in_eval = |evaluation: Option<&Evaluation>| -> DomainEval {
            evaluation.and_then(|evaluation| evaluation.domain(domain)).cloned().unwrap_or_default()
        };
        let last = evaluations.iter().rfind(|evaluation| evaluation.is_as_run());
        // The source is evaluated before the first step of pruning, without masks: no beginning of the masked losses.
        let first = last.and_then(|last| evaluations.iter().find(|evaluation| evaluation.gates == last.gates));
        let cut = evaluations.iter().rfind(|evaluation| evaluation.is_cut());
        let (first, last) = (in_eval(first), in_eval(last));
        let steps = history.steps.domains.iter().find(|steps| steps.domain == domain);
        let last_of = |column: fn(&super::columns::DomainSteps) -> &Column| steps.and_then(|s| ends(column(s)).1);
        DomainSummary {
            domain: domain.to_string(),
            first_loss: first.loss,
            last_loss: last.loss,
            cut_loss: in_eval(cut).loss,
            standard_error: last.standard_error,
            reference: last.reference,
            first_proportion: steps.and_then(|steps| ends(&steps.proportion).0),
            last_proportion: last_of(|steps| &steps.proportion),
            rows: last_of(|steps| &steps.rows_total).map(|rows| rows as u64),
            epochs: last_of(|steps| &steps.epochs),
        }
    }
}

fn constraints(history: &RunHistory) -> Vec<ConstraintSummary> {
    let last = |column: &Column| ends(column).1;
    let modules = history.steps.modules.iter().map(|module| ConstraintSummary {
        module: module.module.clone(),
        expected_sparsity: last(&module.expected_sparsity),
        target_sparsity: last(&module.target_sparsity),
        violation: last(&module.violation),
        lambda_1: last(&module.lambda_1),
        lambda_2: last(&module.lambda_2),
    });
    modules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn losses_that_are_compared_are_of_one_kind() {
        let eval = |step: u64, gates: &str, loss: f64| {
            Evaluation::of_json(step, json!({ "gates": gates, "domains": { "a": { "loss": loss } } }))
        };
        let of = |evaluations: Vec<Evaluation>| {
            let summary = DomainSummary::of(&RunHistory { evaluations, ..RunHistory::default() }, "a");
            (summary.first_loss, summary.last_loss, summary.cut_loss)
        };
        let pruned = vec![
            eval(0, "plain", 1.0),
            eval(10, "expected", 2.0),
            eval(20, "target", 7.0),
            eval(20, "expected", 3.0),
            eval(30, "expected", 4.0),
            eval(30, "target", 5.0),
        ];
        assert_eq!(of(pruned.clone()), (Some(2.0), Some(4.0), Some(5.0)));
        assert_eq!(of(pruned[..1].to_vec()), (Some(1.0), Some(1.0), None));
        assert_eq!(of(vec![eval(0, "plain", 6.0), eval(9, "plain", 3.0)]), (Some(6.0), Some(3.0), None));
        assert_eq!(of(Vec::new()), (None, None, None));
    }
}
