//! A domain from the source to the last evaluation, as data. How it is put together is in [`story`](super::story).

use super::held_out::HeldOutLoss;
use serde::Serialize;

/// What is known of a domain after the cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Later {
    /// No evaluation since.
    #[default]
    Nothing,
    /// Evaluated since, on the rows on which the cut was.
    SameRows,
    /// Evaluated since, on other rows.
    OtherRows,
    /// The run that continued the model has no such domain.
    NotContinued,
}

/// A domain from the source to the last evaluation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DomainStory {
    /// Its name.
    pub domain: String,
    /// The model before pruning: evaluated before the first step, else the reference loss.
    pub source: Option<HeldOutLoss>,
    /// The model cut to its target, before any training without masks.
    pub cut: Option<HeldOutLoss>,
    /// At the last evaluation.
    pub last: Option<HeldOutLoss>,
    /// Standard error of cut − source: of the differences row by row where the losses of single rows are recorded
    /// (`paired`), else as if the two were independent. None where they are of other rows, as a reference loss is.
    pub damage_standard_error: Option<f64>,
    /// Whether that error is of paired rows. If not, the true one is likely much smaller.
    pub paired: bool,
    /// Cut − source in these standard errors.
    pub degradation: Option<f64>,
    /// Share of cut − source that was recovered since: 1 is all of it. Only after a cut that did damage, and only where
    /// all losses are of the same rows.
    pub recovered: Option<f64>,
    /// Proportion of the mix in the first and the last step.
    pub first_proportion: Option<f64>,
    /// See `first_proportion`.
    pub last_proportion: Option<f64>,
    /// Rows seen.
    pub rows: Option<f64>,
    /// Tokens seen, as its part of the rows of each run.
    pub tokens: Option<f64>,
    /// Epochs over its training rows; none over runs of different data.
    pub epochs: Option<f64>,
    /// What is known after the cut.
    #[serde(skip)]
    pub later: Later,
    /// The cut as the run that continued it evaluated it, before its first step.
    #[serde(skip)]
    pub continued_from: Option<HeldOutLoss>,
    /// Whether the losses are those of one evaluation of source, cut and small model (`shearling eval`), and of no run.
    #[serde(skip)]
    pub evaluated: bool,
    /// Loss of every row of `source` and of `cut`, where it is recorded.
    #[serde(skip)]
    pub(crate) source_rows: Vec<f64>,
    #[serde(skip)]
    pub(crate) cut_rows: Vec<f64>,
    /// Whether `epochs` are of more than one data set, so that they have no sum.
    #[serde(skip)]
    pub(crate) mixed_data: bool,
    #[serde(skip)]
    pub(crate) data: Option<u64>,
}
