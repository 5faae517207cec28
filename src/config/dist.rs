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
    /// The whole run; gradients are summed over ranks at every step.
    #[default]
    Ddp,
    /// Its shard of weights, gradients and moments: a layer is whole while it runs.
    Fsdp,
    /// The same, sharded within each machine and replicated on every machine.
    Hybrid,
}

impl Strategy {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Ddp => "ddp",
            Strategy::Fsdp => "fsdp",
            Strategy::Hybrid => "hybrid",
        }
    }

    /// Whether the state is sharded.
    pub fn shards(self) -> bool {
        self != Strategy::Ddp
    }

    /// Over how many of `ranks` it is sharded, with `on_machine` of them on each machine; 1 where each holds all of it.
    pub fn shard_ranks(self, ranks: usize, on_machine: usize) -> usize {
        match self {
            Strategy::Ddp => 1,
            Strategy::Fsdp => ranks,
            Strategy::Hybrid => on_machine,
        }
    }
}

impl Default for Dist {
    fn default() -> Dist {
        Dist { strategy: Strategy::default(), timeout_seconds: 1800 }
    }
}
