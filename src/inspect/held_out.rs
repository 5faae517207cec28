//! Losses on held-out rows, and which rows they are of. Two are comparable where they are of the same rows: of the same
//! data, by the fingerprint that a run records, and of as many rows.

use super::evaluations::{DomainEval, Evaluation};
use serde::Serialize;

/// The held-out rows that a loss is of: equal for equal rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSet {
    /// Hash of the data's fingerprint; of a run that records none, of its path, so that it equals nothing but itself.
    pub(super) data: u64,
    pub(super) rows: Option<u64>,
    pub(super) tokens: Option<u64>,
}

/// A loss on held-out rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOutLoss {
    /// Nats per target token.
    pub loss: f64,
    /// Of the mean over rows, where it is known.
    pub standard_error: Option<f64>,
    /// Finished steps of the run that evaluated it; none for a reference loss from a file.
    pub step: Option<u64>,
    /// Its rows; none for a reference loss, whose rows nobody recorded.
    #[serde(skip)]
    pub rows: Option<RowSet>,
}

impl HeldOutLoss {
    /// Whether both are of the same rows, so that their difference is one of the models.
    pub fn is_comparable_with(&self, other: &HeldOutLoss) -> bool {
        self.rows.is_some() && self.rows == other.rows
    }

    /// A domain in an evaluation of a run; `data` is [`data_of`] the run.
    pub(super) fn of(evaluation: &Evaluation, name: &str, data: u64) -> Option<HeldOutLoss> {
        let DomainEval { loss, standard_error, rows, tokens, .. } = evaluation.domain(name)?;
        let rows = RowSet { data, rows: *rows, tokens: *tokens };
        Some(HeldOutLoss {
            loss: (*loss)?,
            standard_error: *standard_error,
            step: Some(evaluation.step),
            rows: Some(rows),
        })
    }
}
