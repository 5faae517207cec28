//! Settings of a mixer: which rule, how fast it moves the proportions, and within what bounds.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Factor on a domain's odds in one update of `bounded`: as fast as the fastest domain of the paper's own run moved on
/// average (github, from 4.5 % to 0.02 % in 64 updates: e^0.085 each).
pub const MAX_CHANGE: f64 = 1.1;
/// Factor on a domain's odds in all updates of `bounded`: what the paper's 1.3B run drew of every domain lies within 5.9
/// of the shares it began with.
pub const MAX_DRIFT: f64 = 6.0;

/// How proportions follow losses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixerKind {
    /// They stay what they are.
    Static,
    /// The paper's rule: a domain below its reference counts as being at it.
    #[default]
    Dynamic,
    /// The rule of the released code: a domain below its reference is weighted down.
    Signed,
    /// The paper's rule on what stands out of noise and common excess, a bounded step at a time.
    Bounded,
}

impl MixerKind {
    /// Its name, as in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            MixerKind::Static => "static",
            MixerKind::Dynamic => "dynamic",
            MixerKind::Signed => "signed",
            MixerKind::Bounded => "bounded",
        }
    }
}

/// Settings of a [`Mixer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixerConfig {
    /// The rule.
    pub kind: MixerKind,
    /// η: weight of a gap of one nat.
    pub eta: f64,
    /// c: share of the weight that is spread evenly after each update; 0 switches it off.
    pub smoothing: f64,
    /// No proportion falls below this.
    pub floor: f64,
    /// No proportion rises above this.
    pub cap: Option<f64>,
    /// Largest factor on a domain's odds in one update; `bounded` has [`MAX_CHANGE`] when none is given.
    pub max_change: Option<f64>,
    /// Largest factor between a domain's odds and its initial ones; `bounded` has [`MAX_DRIFT`] when none is given.
    pub max_drift: Option<f64>,
}

impl Default for MixerConfig {
    fn default() -> Self {
        let kind = MixerKind::default();
        Self { kind, eta: 1.0, smoothing: 1e-4, floor: 0.0, cap: None, max_change: None, max_drift: None }
    }
}

impl MixerConfig {
    /// Checks the values by themselves and for `domains` domains.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value that cannot be used, a floor or cap that no proportions can meet included.
    pub fn validate(&self, domains: usize) -> Result<()> {
        if !self.eta.is_finite() || self.eta < 0.0 {
            return Err(Error::config("eta", self.eta, "expected a number of at least 0"));
        }
        if !(0.0..=1.0).contains(&self.smoothing) {
            return Err(Error::config("smoothing", self.smoothing, "expected a number from 0 to 1"));
        }
        let even = 1.0 / domains as f64;
        // A floor of exactly 1/k, typed in decimal, may be a hair above it.
        if !(0.0..=even * (1.0 + 1e-9)).contains(&self.floor) {
            let problem = format!("{domains} domains can each have from 0 to {even}");
            return Err(Error::config("floor", self.floor, problem));
        }
        if let Some(cap) = self.cap.filter(|cap| !(even * (1.0 - 1e-9)..=1.0).contains(cap)) {
            return Err(Error::config("cap", cap, format!("{domains} domains need a cap from {even} to 1")));
        }
        for (key, value) in [("max_change", self.max_change), ("max_drift", self.max_drift)] {
            // NaN is not above 1 either.
            if let Some(factor) = value.filter(|factor| !matches!(factor.partial_cmp(&1.0), Some(Ordering::Greater))) {
                return Err(Error::config(key, factor, "expected a factor above 1, such as 1.1"));
            }
        }
        Ok(())
    }

    /// The largest factor on a domain's odds in one update, if there is one.
    pub fn max_change(&self) -> Option<f64> {
        self.max_change.or((self.kind == MixerKind::Bounded).then_some(MAX_CHANGE))
    }

    /// The largest factor between a domain's odds and its initial ones, if there is one.
    pub fn max_drift(&self) -> Option<f64> {
        self.max_drift.or((self.kind == MixerKind::Bounded).then_some(MAX_DRIFT))
    }
}
