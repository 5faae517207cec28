//! From log-odds to gates: which of the parametrisations a mask set has, and what each says of a row's units at a step.
//!
//! [`HardConcrete`] draws gates and meets its targets by a Lagrangian; [`Deterministic`] trains the gates themselves under the same
//! Lagrangian; [`TopK`] computes gates whose sum is the target of the step, so that it needs neither noise nor multipliers.

use crate::deterministic::Deterministic;
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
    /// Gates that are trained numbers themselves, without noise and above 1 if that helps, under a Lagrangian.
    Deterministic,
    /// Gates with an exact sum by a threshold per row, hard at the end.
    TopK,
}

/// How log-odds become gates.
#[derive(Clone, Debug, PartialEq)]
pub enum Gating {
    /// Drawn from the hard-concrete distribution.
    HardConcrete(HardConcrete),
    /// Trained themselves.
    Deterministic(Deterministic),
    /// Computed with an exact sum.
    TopK(TopK),
}

impl From<HardConcrete> for Gating {
    fn from(constants: HardConcrete) -> Gating {
        Gating::HardConcrete(constants)
    }
}

impl From<Deterministic> for Gating {
    fn from(constants: Deterministic) -> Gating {
        Gating::Deterministic(constants)
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
            Gating::Deterministic(constants) => constants.check(),
            Gating::TopK(schedule) => schedule.check(),
        }
    }

    /// Whether a Lagrangian holds the masks to their targets; top-k gates meet them by construction.
    pub fn is_constrained(&self) -> bool {
        !matches!(self, Gating::TopK(_))
    }

    /// Whether gates depend on how many steps are done.
    pub(crate) fn has_schedule(&self) -> bool {
        !matches!(self, Gating::HardConcrete(_))
    }

    /// Whether multipliers that push beyond a target are halved.
    pub(crate) fn unwinds(&self) -> bool {
        match self {
            Gating::HardConcrete(constants) => constants.options.anti_windup,
            Gating::Deterministic(_) => true,
            Gating::TopK(_) => false,
        }
    }

    /// The range that optimiser steps may not leave. Top-k has none: only differences count there.
    pub(crate) fn range(&self) -> Option<(f64, f64)> {
        match self {
            Gating::HardConcrete(constants) => Some((constants.clamp_low, constants.clamp_high)),
            Gating::Deterministic(constants) => Some((constants.lowest, constants.largest.unwrap_or(f64::INFINITY))),
            Gating::TopK(_) => None,
        }
    }

    /// Where the trained number of a unit starts for a standard normal one, rounded to fp32 after the clamp like any later value.
    pub(crate) fn initial(&self, normal: f64) -> f32 {
        match self {
            Gating::HardConcrete(constants) => {
                let value = constants.init_mean + constants.init_std * normal;
                value.clamp(constants.clamp_low, constants.clamp_high) as f32
            }
            Gating::Deterministic(constants) => constants.initial(normal),
            Gating::TopK(_) => normal as f32,
        }
    }
}
