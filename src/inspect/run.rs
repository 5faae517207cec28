//! A run folder in numbers, from its `metrics.jsonl` and checkpoints. Works on a run that is still going on or was
//! cut short: it says what is there.

use crate::checkpoint::RunDir;
use crate::train::Error;
use crate::train::metrics::{FILE_NAME, read};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// What happened in a run.
#[derive(Debug, Serialize)]
pub struct RunSummary {
    /// `prune` or `pretrain`.
    pub stage: Option<String>,
    /// Finished steps.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: Option<u64>,
    /// Tokens seen.
    pub tokens: Option<u64>,
    /// Seconds spent in steps.
    pub seconds: f64,
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
    pub constraints: Vec<Value>,
    /// Steps with a checkpoint.
    pub checkpoints: Vec<u64>,
    /// What is missing or odd.
    pub notes: Vec<String>,
}

/// A domain's part of a run.
#[derive(Debug, Serialize)]
pub struct DomainSummary {
    /// Domain.
    pub domain: String,
    /// Validation loss at the first evaluation.
    pub first_loss: Option<f64>,
    /// Validation loss at the last evaluation of the same kind: while pruning, with as many units open as expected.
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

impl RunSummary {
    /// Reads a run folder.
    pub fn read(run: &Path) -> Result<RunSummary, Error> {
        let records = read(&run.join(FILE_NAME))?;
        let of = |kind: &str| records.iter().filter(|record| record["type"] == kind).collect::<Vec<_>>();
        let (starts, steps, evals) = (of("start"), of("step"), of("eval"));
        let last = steps.last();
        let number = |record: Option<&&Value>, path: &str| record.and_then(|record| record.pointer(path)?.as_f64());
        let seconds: f64 = steps.iter().filter_map(|step| step["seconds"].as_f64()).sum();
        let tokens = last.and_then(|step| step["tokens"].as_u64());
        let mut notes = Vec::new();
        if steps.is_empty() {
            notes.push("no finished step is recorded".to_string());
        }
        if evals.is_empty() {
            notes.push("no evaluation is recorded".to_string());
        }
        Ok(RunSummary {
            stage: starts.first().and_then(|start| start["stage"].as_str().map(String::from)),
            step: last.and_then(|step| step["step"].as_u64()).unwrap_or(0),
            steps: starts.first().and_then(|start| start["steps"].as_u64()),
            tokens,
            seconds,
            tokens_per_second: tokens.filter(|_| seconds > 0.0).map(|tokens| tokens as f64 / seconds),
            first_loss: number(steps.first(), "/loss/cross_entropy"),
            last_loss: number(last, "/loss/cross_entropy"),
            skipped: steps.iter().filter(|step| step["applied"] == false).count(),
            resumed: of("resume").len(),
            domains: domains(&starts, &steps, &evals),
            constraints: last.and_then(|step| step["constraints"].as_array().cloned()).unwrap_or_default(),
            checkpoints: RunDir::open(run)?.list_steps()?,
            notes,
        })
    }
}

fn domains(starts: &[&Value], steps: &[&Value], evals: &[&Value]) -> Vec<DomainSummary> {
    let names = starts.first().and_then(|start| start["domains"].as_array());
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    let (cut, plain): (Vec<&Value>, Vec<&Value>) = evals.iter().partition(|eval| eval["gates"] == "target");
    let field = |record: Option<&&Value>, domain: &str, key: &str| record?["domains"][domain][key].as_f64();
    let summary = |domain: &str| DomainSummary {
        domain: domain.to_string(),
        first_loss: field(plain.first(), domain, "loss"),
        last_loss: field(plain.last(), domain, "loss"),
        cut_loss: field(cut.last(), domain, "loss"),
        standard_error: field(plain.last(), domain, "standard_error"),
        reference: field(plain.last(), domain, "reference"),
        first_proportion: field(steps.first(), domain, "proportion"),
        last_proportion: field(steps.last(), domain, "proportion"),
        rows: steps.last().and_then(|step| step["domains"][domain]["rows_total"].as_u64()),
        epochs: field(steps.last(), domain, "epochs"),
    };
    names.map(summary).collect()
}
