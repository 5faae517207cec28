//! From log-odds to gates: which of the parametrisations a mask set has, and what each says of a row's units at a step.
//!
//! [`HardConcrete`] draws gates and meets its targets by a Lagrangian; [`TopK`] computes gates whose sum is the target of the
//! step, so that it needs neither noise nor multipliers. `mask_set` asks here and knows no formula.

use crate::hard_concrete::HardConcrete;
use crate::top_k::TopK;
use serde::{Deserialize, Serialize};

/// Named parametrisations, for configurations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskPreset {
    /// The constants of the original code, princeton-nlp/LLM-Shearing: hard-concrete gates under a Lagrangian.
    #[default]
    LlmShearing,
    /// Gates with an exact sum by a threshold per row, hard at the end.
    TopK,
}

/// How log-odds become gates.
#[derive(Clone, Debug, PartialEq)]
pub enum Gating {
    /// Drawn from the hard-concrete distribution.
    HardConcrete(HardConcrete),
    /// Computed with an exact sum.
    TopK(TopK),
}

impl From<HardConcrete> for Gating {
    fn from(constants: HardConcrete) -> Gating {
        Gating::HardConcrete(constants)
    }
}

impl From<TopK> for Gating {
    fn from(schedule: TopK) -> Gating {
        Gating::TopK(schedule)
    }
}

impl Gating {
    /// Refuses constants for which the formulas have no meaning.
    ///
    /// # Errors
    /// [`crate::Error::Constant`] with the field, its value and what it must satisfy.
    pub fn check(&self) -> crate::Result<()> {
        match self {
            Gating::HardConcrete(constants) => constants.check(),
            Gating::TopK(schedule) => schedule.check(),
        }
    }
}
