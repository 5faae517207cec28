//! Losses on held-out rows, and which rows they are of. Two are comparable where they are of the same rows: of the same
//! data, by the fingerprint that a run (or a file of reference losses) records, and of as many rows.

use super::evaluations::{DomainEval, Evaluation};
use crate::run_dir::record::ReferenceRows;
use serde::Serialize;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The held-out rows that a loss is of: equal for equal rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSet {
    /// Hash of the data's fingerprint; of a run that records none, of its path, so that it equals nothing but itself. None
    /// where nobody recorded of which data reference losses are.
    pub(super) data: Option<u64>,
    pub(super) rows: Option<u64>,
    pub(super) tokens: Option<u64>,
}

/// Whether two losses are of the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowsAgainst {
    /// They are.
    Same,
    /// They are not.
    Other,
    /// Nobody recorded it.
    NotRecorded,
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
    /// Its rows; none for a reference loss whose rows nobody recorded.
    #[serde(skip)]
    pub rows: Option<RowSet>,
}

/// What stands for data in a [`RowSet`], by its fingerprint.
pub(super) fn data_of_fingerprint(fingerprint: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    fingerprint.hash(&mut hasher);
    hasher.finish()
}

impl HeldOutLoss {
    /// How many rows it is of, where that was recorded.
    pub fn held_out_rows(&self) -> Option<u64> {
        self.rows?.rows
    }

    /// Whether both are of the same rows, so that their difference is one of the models.
    pub fn is_comparable_with(&self, other: &HeldOutLoss) -> bool {
        self.rows_against(other) == RowsAgainst::Same
    }

    /// Whether both are of the same rows, as far as that was recorded.
    pub(super) fn rows_against(&self, other: &HeldOutLoss) -> RowsAgainst {
        let (Some(own), Some(other)) = (self.rows, other.rows) else { return RowsAgainst::NotRecorded };
        let differ = |a: Option<u64>, b: Option<u64>| a.zip(b).is_some_and(|(a, b)| a != b);
        if differ(own.rows, other.rows) || differ(own.tokens, other.tokens) || differ(own.data, other.data) {
            return RowsAgainst::Other;
        }
        match own.data.is_some() && own == other {
            true => RowsAgainst::Same,
            false => RowsAgainst::NotRecorded,
        }
    }

    /// The reference loss of a domain, with what was recorded of its rows.
    pub(super) fn reference(loss: f64, name: &str, measured: Option<&ReferenceRows>) -> HeldOutLoss {
        let domain = measured.and_then(|measured| measured.domains.iter().find(|(domain, _)| *domain == name));
        let domain = domain.map(|(_, domain)| domain);
        let data = measured.and_then(|measured| measured.data_fingerprint.as_deref()).map(data_of_fingerprint);
        let rows = domain.map(|domain| RowSet { data, rows: domain.rows, tokens: domain.tokens });
        HeldOutLoss { loss, standard_error: domain.and_then(|domain| domain.standard_error), step: None, rows }
    }

    /// A domain in an evaluation of a run; `data` is [`data_of`] the run.
    pub(super) fn of(evaluation: &Evaluation, name: &str, data: u64) -> Option<HeldOutLoss> {
        let DomainEval { loss, standard_error, rows, tokens, .. } = evaluation.domain(name)?;
        let rows = RowSet { data: Some(data), rows: *rows, tokens: *tokens };
        Some(HeldOutLoss {
            loss: (*loss)?,
            standard_error: *standard_error,
            step: Some(evaluation.step),
            rows: Some(rows),
        })
    }
}
