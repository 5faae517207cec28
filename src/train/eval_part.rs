//! The parts of an evaluation after a step: `scheduled_evaluation` makes them, and a run's counters say which is due.

use serde::{Deserialize, Serialize};

/// The parts of an evaluation after a step, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalPart {
    /// The model as it is, after which the mixer moves.
    Model,
    /// Masks cut to the exact target.
    Cut,
    /// Experts multiplied by their scores.
    Soft,
}

impl EvalPart {
    /// All of them.
    pub(super) const ALL: [EvalPart; 3] = [EvalPart::Model, EvalPart::Cut, EvalPart::Soft];
}
