//! A model folder that was written, and its line in the metrics of the run that it ends.

use super::Error;
use crate::files::DType;
use crate::hf::CardShape;
use crate::prune::Equivalence;
use crate::prune::equivalence::rounding::{Rounding, RoundingEffect};
use crate::run_dir::record::{self, Comparison, Effect, Record, What};
use crate::train::Outcome;
use crate::train::journal::Journal;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// A model folder that was written.
#[derive(Debug)]
pub struct Written {
    /// The folder.
    pub path: PathBuf,
    /// Parameters of the model it was made from.
    pub parameters_before: i64,
    /// Its shape and parameters.
    pub shape: CardShape,
    /// Dtype of its weights.
    pub dtype: DType,
    /// How it was checked, if it was pruned.
    pub equivalence: Option<Equivalence>,
}

impl Written {
    /// Adds to a run's metrics that its model is written; what could not be shown beside them, as warnings.
    pub fn record(&self, outcome: &Outcome, tensorboard: bool) -> Result<Vec<String>, Error> {
        let written = record::Written {
            path: Some(self.path.strip_prefix(&outcome.run).unwrap_or(&self.path).display().to_string()),
            parameters_before: u64::try_from(self.parameters_before).ok(),
            parameters_after: self.shape.parameters,
            shape: value(&self.shape),
            dtype: Some(self.dtype.name().to_string()),
            equivalence: self.equivalence.as_ref().map(comparison),
        };
        let mut journal = Journal::after(&outcome.run, outcome.step, tensorboard)?;
        journal.write(&Record::new(outcome.step, What::Written(Box::new(written))))?;
        Ok(journal.take_warning().into_iter().collect())
    }
}

fn comparison(check: &Equivalence) -> Comparison {
    let Rounding { dtype, masked_loss, written, source } = &check.rounding;
    let rounding = record::Rounding {
        dtype: Some(dtype.name().to_string()),
        masked_loss: Some(*masked_loss),
        written: effect(written),
        source: effect(source),
    };
    Comparison {
        passed: Some(check.passed()),
        folded: Some(check.folded),
        folded_bound: Some(check.folded_bound),
        worst: value(&check.worst),
        weights: value(&check.weights),
        rounding: Some(rounding),
        rows: u64::try_from(check.rows).ok(),
        tokens: u64::try_from(check.tokens).ok(),
        ..Comparison::default()
    }
}

fn effect(found: &RoundingEffect) -> Effect {
    Effect {
        loss_change: Some(found.loss_change),
        loss_change_error: found.loss_change_error,
        mean_kl: Some(found.mean_kl),
        worst_kl: Some(found.worst_kl),
        worst: value(&found.worst),
    }
}

fn value(part: &impl Serialize) -> Value {
    serde_json::to_value(part).unwrap_or_default()
}
