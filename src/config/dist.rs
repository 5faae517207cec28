//! `[dist]`: how several processes do a run together; without effect for one alone.

use serde::{Deserialize, Serialize};

/// `[dist]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dist {
    /// What each rank holds.
    pub strategy: Strategy,
    /// How long ranks wait for each other: for all to come, and in every collective. Longer than a checkpoint takes to write.
    pub timeout_seconds: u64,
}

/// What each rank of a run holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The whole model; gradients are summed over ranks at every step.
    #[default]
    Ddp,
}

impl Default for Dist {
    fn default() -> Dist {
        Dist { strategy: Strategy::default(), timeout_seconds: 1800 }
    }
}
