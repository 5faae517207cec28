//! What hard-concrete masks may do otherwise than the original: how noisy their gates are, how open units are counted, and
//! how multipliers come back once a target is passed. The defaults are the original's.
//!
//! ```text
//! noise       u ← ½ + r·(u − ½)                    r = 1, or 1 − min(1, step/W_n), or 0: the gate is then a function of a
//! count       ŝ(a) = (score(a) − score(a_min)) / (score(a_max) − score(a_min))         0 and 1 for units that have decided
//! windup      λ1 ← λ1/2 where λ1·(s − t) < 0       s: expected sparsity, t: its target
//! ```

use serde::{Deserialize, Serialize};

/// How much noise the gates of a training step have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateNoise {
    /// As much at every step.
    #[default]
    Sampled,
    /// Less from step to step, none for the last quarter.
    Annealed,
    /// None: gates are deterministic from the first step.
    None,
}

/// What of a unit counts as open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenCount {
    /// The probability that its gate is not 0, which never reaches 0 or 1 within the range of log α.
    #[default]
    Probability,
    /// The same, scaled so that a unit at a border of that range counts 0 or 1.
    Unbiased,
}

/// Options of hard-concrete masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Noise of the gates.
    pub noise: GateNoise,
    /// Steps after which annealed noise is gone.
    pub noise_steps: u64,
    /// What counts as open.
    pub count: OpenCount,
    /// Whether a multiplier that still pushes beyond its target is halved at every step.
    pub anti_windup: bool,
}

impl Options {
    /// Whether everything is as in the original.
    pub fn are_published(&self) -> bool {
        *self == Options::default()
    }

    /// The share r of the noise that the gates of a step have, counted from 0.
    pub fn noise_at(&self, step: u64) -> f64 {
        match self.noise {
            GateNoise::Sampled => 1.0,
            GateNoise::None => 0.0,
            GateNoise::Annealed if step >= self.noise_steps => 0.0,
            GateNoise::Annealed => 1.0 - step as f64 / self.noise_steps as f64,
        }
    }

    /// Whether gates end as functions of their log-odds, so that this is also what they are outside of training.
    pub fn ends_without_noise(&self) -> bool {
        self.noise != GateNoise::Sampled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_all_or_nothing_or_falls_to_nothing() {
        let at = |noise, step| Options { noise, noise_steps: 30, ..Options::default() }.noise_at(step);
        assert_eq!([0, 29, 1000].map(|step| at(GateNoise::Sampled, step)), [1.0; 3]);
        assert_eq!([0, 29, 1000].map(|step| at(GateNoise::None, step)), [0.0; 3]);
        assert_eq!([0, 15, 30, 40].map(|step| at(GateNoise::Annealed, step)), [1.0, 0.5, 0.0, 0.0]);
        let at_once = Options { noise: GateNoise::Annealed, ..Options::default() };
        assert_eq!(at_once.noise_at(0), 0.0);
    }
}
