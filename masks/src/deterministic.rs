//! Deterministic gates: the trained number is the gate itself, without noise and without an upper limit, as in DDP
//! (arXiv 2603.08065). `z` stands where the other parametrisations have their log-odds.
//!
//! ```text
//! m = max(0, z),   ∂m/∂z = 1 everywhere                     a closed unit still hears what the loss says of it
//! s(m) = clamp(1.2·σ((2.4/μ)·(m − μ)) − 0.1, 0, 1)          the share of itself that a unit counts as open: 0 at 0, 1 from 2μ on
//! μ(p) = μ_0 + (μ_1 − μ_0)·√p,   p = step/steps             from 0.5 to 0.1: at the end a gate of 0.2 is open
//! z ∈ [lowest, largest], from Normal(1, 0.01)               the gated model begins as the source
//! ```
//!
//! Both clamps pass gradients through: a unit at 1 counts as open in full, and would hear nothing of the constraint otherwise, so
//! that none would ever close. The constraint is the Lagrangian of the other masks, on s, with multipliers that unwind. A gate
//! above 1 makes its unit louder, which the fold takes up into the weights like any other gate; `largest` = 1 forbids it. The
//! paper's third term, λ3·mean s·(1 − s), is left out: with μ falling the units decide without it
//! (`masks/tests/integration/deterministic.rs`).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Standard deviation of the initial gates around 1.
const INITIAL_DEVIATION: f64 = 0.01;

/// Constants of the parametrisation, and its schedule over the mask stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deterministic {
    /// Steps of the stage.
    pub steps: u64,
    /// μ_0: half of the gate from which a unit is open, at the first step.
    pub first_midpoint: f64,
    /// μ_1, at the last.
    pub last_midpoint: f64,
    /// Smallest z after an optimiser step; how far below 0 a closed unit may sink.
    pub lowest: f64,
    /// Largest z; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest: Option<f64>,
}

impl Deterministic {
    /// DDP's constants for a stage of `steps`.
    pub fn over(steps: u64) -> Deterministic {
        Deterministic { steps, first_midpoint: 0.5, last_midpoint: 0.1, lowest: -0.1, largest: None }
    }

    /// Refuses constants without meaning.
    ///
    /// # Errors
    /// [`Error::Constant`] with the field, its value and what it must satisfy.
    pub fn check(&self) -> Result<()> {
        let largest = self.largest.unwrap_or(f64::MAX);
        let rules = [
            ("steps", self.steps as f64, self.steps > 0, "must be at least 1"),
            ("last_midpoint", self.last_midpoint, self.last_midpoint > 0.0, "must be above 0"),
            (
                "first_midpoint",
                self.first_midpoint,
                self.first_midpoint >= self.last_midpoint,
                "must not be below last_midpoint",
            ),
            ("lowest", self.lowest, self.lowest <= 0.0, "must not be above 0, so that gates can be exactly 0"),
            ("largest", largest, largest >= 1.0, "must be at least 1: gates begin there"),
        ];
        for (key, value, holds, requirement) in rules {
            if !(holds && value.is_finite()) {
                return Err(Error::Constant { key, value, requirement });
            }
        }
        Ok(())
    }

    /// Gates of a training step, elementwise: max(0, z), with the gradient of z itself.
    ///
    /// # Errors
    /// libtorch's; so too below.
    pub fn gates(&self, z: &Tensor) -> Result<Tensor> {
        let value = z.f_detach()?;
        let below = value.f_clamp_min(0.0)?.f_sub(&value)?;
        Ok(z.f_add(&below)?)
    }

    /// Expected scores s(m) once `finished` steps are done, elementwise, with the gradient of the unclamped formula.
    ///
    /// # Errors
    /// libtorch's.
    pub fn score(&self, z: &Tensor, finished: u64) -> Result<Tensor> {
        let midpoint = self.midpoint(finished);
        let sigmoid = self.gates(z)?.f_sub_scalar(midpoint)?.f_mul_scalar(2.4 / midpoint)?.f_sigmoid()?;
        let score = sigmoid.f_mul_scalar(1.2)?.f_sub_scalar(0.1)?;
        let value = score.f_detach()?;
        Ok(score.f_add(&value.f_clamp(0.0, 1.0)?.f_sub(&value)?)?)
    }

    /// μ once `finished` steps are done.
    fn midpoint(&self, finished: u64) -> f64 {
        let done = (finished as f64 / self.steps as f64).min(1.0);
        self.first_midpoint + (self.last_midpoint - self.first_midpoint) * done.sqrt()
    }

    /// Where z starts for a standard normal number, in range.
    pub(crate) fn initial(&self, normal: f64) -> f32 {
        (1.0 + INITIAL_DEVIATION * normal).clamp(self.lowest, self.largest.unwrap_or(f64::MAX)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double)).unwrap()
    }

    #[test]
    fn a_gate_is_its_number_and_passes_its_gradient_below_zero_too() {
        let z = Tensor::from_slice(&[-0.1f32, 0.0, 0.4, 1.0, 2.5]).set_requires_grad(true);
        let gates = Deterministic::over(10).gates(&z).unwrap();
        for (found, expected) in values(&gates).into_iter().zip([0.0, 0.0, 0.4, 1.0, 2.5]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let weights = Tensor::from_slice(&[3f32, -1.0, 2.0, 5.0, 7.0]);
        (&gates * &weights).sum(Kind::Float).backward();
        assert_eq!(values(&z.grad()), values(&weights));
    }

    /// s at 0, μ/2, μ, 3μ/2 and 2μ, from the formula in double precision.
    #[test]
    fn a_unit_counts_as_open_from_twice_the_midpoint_on() {
        let expected = [0.0, 0.177_771, 0.5, 0.822_229, 1.0];
        let schedule = Deterministic::over(100);
        for (finished, midpoint) in [(0, 0.5), (25, 0.3), (100, 0.1), (1000, 0.1)] {
            assert!((schedule.midpoint(finished) - midpoint).abs() < 1e-12, "{finished}");
            let m = Tensor::from_slice(&[0.0, 0.5, 1.0, 1.5, 2.0]) * midpoint;
            for (found, expected) in values(&schedule.score(&m, finished).unwrap()).into_iter().zip(expected) {
                assert!((found - expected).abs() < 3e-4, "{finished}: {found} {expected}");
            }
        }
        let far = Tensor::from_slice(&[-0.1, 0.2, 1.0, 30.0]);
        for (found, expected) in values(&schedule.score(&far, 100).unwrap()).into_iter().zip([0.0, 1.0, 1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn a_unit_that_is_open_in_full_hears_the_constraint() {
        let z = Tensor::from_slice(&[1.01f32, 1.5]).set_requires_grad(true);
        Deterministic::over(10).score(&z, 0).unwrap().sum(Kind::Float).backward();
        assert!(values(&z.grad()).into_iter().all(|gradient| gradient > 0.0), "{:?}", values(&z.grad()));
    }

    #[test]
    fn the_gradient_of_the_score_is_that_of_differences() {
        let schedule = Deterministic::over(9);
        let z = Tensor::from_slice(&[0.07, 0.2, 0.31, 0.44]).set_requires_grad(true);
        schedule.score(&z, 4).unwrap().sum(Kind::Double).backward();
        let at = |shift: f64| values(&schedule.score(&(z.detach() + shift), 4).unwrap());
        let differences = at(1e-6).into_iter().zip(at(-1e-6)).map(|(above, below)| (above - below) / 2e-6);
        for (found, expected) in values(&z.grad()).into_iter().zip(differences) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn constants_without_meaning_are_named() {
        let wrong: [(&str, Deterministic); 5] = [
            ("steps", Deterministic::over(0)),
            ("last_midpoint", Deterministic { last_midpoint: 0.0, ..Deterministic::over(1) }),
            ("first_midpoint", Deterministic { first_midpoint: 0.01, ..Deterministic::over(1) }),
            ("lowest", Deterministic { lowest: 0.2, ..Deterministic::over(1) }),
            ("largest", Deterministic { largest: Some(0.5), ..Deterministic::over(1) }),
        ];
        for (expected, constants) in wrong {
            assert!(matches!(constants.check(), Err(Error::Constant { key, .. }) if key == expected), "{expected}");
        }
        Deterministic::over(1).check().unwrap();
    }
}
