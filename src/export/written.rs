//! A model folder that was written, and its line in the metrics of the run that it ends.

use super::Error;
use crate::files::DType;
use crate::hf::CardShape;
use crate::prune::Equivalence;
use crate::train::Outcome;
use crate::train::journal::Journal;
use crate::train::metrics;
use serde_json::{Value, json};
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
        let fields = json!({
            "path": self.path.strip_prefix(&outcome.run).unwrap_or(&self.path),
            "parameters_before": self.parameters_before,
            "parameters_after": self.shape.parameters,
            "shape": self.shape,
            "dtype": self.dtype,
            "equivalence": self.equivalence.as_ref().map(comparison),
        });
        let mut journal = Journal::after(&outcome.run, outcome.step, tensorboard)?;
        journal.write(&metrics::event("written", outcome.step, fields))?;
        Ok(journal.take_warning().into_iter().collect())
    }
}

fn comparison(check: &Equivalence) -> Value {
    json!({
        "passed": check.passed(),
        "folded": check.folded,
        "folded_bound": check.folded_bound,
        "worst": check.worst,
        "weights": check.weights,
        "rounding": check.rounding,
        "rows": check.rows,
        "tokens": check.tokens,
    })
}
