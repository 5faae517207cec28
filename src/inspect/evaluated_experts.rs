//! Which experts ran in an evaluation of `lte train`, from its record.

use super::lines::{MOST_GROUPS, shown};
use crate::run_dir::record::{ExpertState, Named};
use serde::Serialize;

/// Which experts ran in an evaluation: shares of intermediate units, means over tokens and layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct EvaluatedExperts {
    /// Share that ran.
    pub density: Option<f64>,
    /// Share of scores within 0.1 of the threshold.
    pub near_threshold: Option<f64>,
    /// Share of experts that ran for more than 99 % of the tokens.
    pub always_on: Option<f64>,
    /// Share of experts that ran for less than 1 %.
    pub always_off: Option<f64>,
    /// Share that 2, 4, 8 rows needed together.
    pub unions: Vec<NamedShare>,
    /// By layer with a router.
    pub layers: Vec<NamedShare>,
    /// By domain.
    pub domains: Vec<NamedShare>,
}

/// The share of units that ran in a layer, for a domain, or for some rows together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NamedShare {
    /// Number of the layer, name of the domain, number of rows.
    pub name: String,
    /// Share of intermediate units.
    pub density: Option<f64>,
}

impl EvaluatedExperts {
    pub(super) fn of(record: &ExpertState) -> EvaluatedExperts {
        EvaluatedExperts {
            density: record.density,
            near_threshold: record.near_threshold,
            always_on: record.always_on,
            always_off: record.always_off,
            unions: shares(&record.unions),
            layers: shares(&record.layers),
            domains: shares(&record.domains),
        }
    }

    /// Share of experts whose choice does not depend on the token.
    pub fn static_share(&self) -> Option<f64> {
        Some(self.always_on? + self.always_off?)
    }

    /// The share for a domain.
    pub fn domain(&self, name: &str) -> Option<f64> {
        self.domains.iter().find(|domain| domain.name == name)?.density
    }

    /// About as many numbers as it takes to keep.
    pub(super) fn cells(&self) -> usize {
        8 * (1 + self.unions.len() + self.layers.len() + self.domains.len())
    }
}

fn shares(record: &Named<Option<f64>>) -> Vec<NamedShare> {
    let known = record.iter().take(MOST_GROUPS);
    known.map(|(name, density)| NamedShare { name: shown(name), density: *density }).collect()
}
