//! The hard-concrete distribution (Louizos et al. 2018), as Sheared LLaMA uses it: a gate in [0, 1] that is exactly 0 or 1
//! with positive probability and still has a gradient in its log-odds `a`.
//!
//! ```text
//! s = σ((ln u − ln(1−u) + a) / β)            u ~ U(ε, 1−ε)
//! z = clamp(s·(ζ−γ) + γ, 0, 1)
//! P(z=0) = clamp(σ(β·logit(−γ/(ζ−γ)) − a), ε, 1−ε)        score(a) = 1 − P(z=0)
//! soft(a) = σ(slope·a)                        the gate of a kept unit outside training
//! calm(a) = clamp(σ(a/β)·(ζ−γ) + γ, 0, 1)     the gate without noise, u = ½; soft(a) where noise is annealed or off
//! ```
//!
//! Elementwise formulas only: noise comes from `noise`, sums over rows are taken by `mask_set`.

use crate::error::{Error, Result};
use crate::options::{OpenCount, Options};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Constants of the parametrisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardConcrete {
    /// Lower stretch limit γ, below 0.
    pub gamma: f64,
    /// Upper stretch limit ζ, above 1.
    pub zeta: f64,
    /// Temperature β.
    pub temperature: f64,
    /// Distance ε that uniforms and probabilities keep from 0 and 1.
    pub epsilon: f64,
    /// Mean of the initial log-odds.
    pub init_mean: f64,
    /// Standard deviation of the initial log-odds.
    pub init_std: f64,
    /// Smallest log-odds after an optimiser step.
    pub clamp_low: f64,
    /// Largest log-odds after an optimiser step.
    pub clamp_high: f64,
    /// Slope of the deterministic gate σ(slope·a); the original's 0.8/β.
    pub soft_slope: f64,
    /// What is done otherwise than in the original.
    #[serde(default, skip_serializing_if = "Options::are_published")]
    pub options: Options,
}

impl HardConcrete {
    /// The original's constants (its code; the paper's appendix says β = 0.83).
    ///
    /// Two of their properties are worth knowing. The initial Normal(5, 0.01) lies above the clamp ln 100 ≈ 4.605, so every
    /// unit starts at the same value and only the gate noise and the data break the symmetry. And at the lower clamp a unit
    /// still scores 0.047, so that polarised masks meet the constraint with fewer open units than the target: the missing
    /// ones are kept half-alive, which [`crate::MaskReport`] counts.
    pub fn llm_shearing() -> HardConcrete {
        HardConcrete {
            gamma: -0.1,
            zeta: 1.1,
            temperature: 2.0 / 3.0,
            epsilon: 1e-6,
            init_mean: 5.0,
            init_std: 0.01,
            clamp_low: 0.01f64.ln(),
            clamp_high: 100f64.ln(),
            soft_slope: 1.2,
            options: Options::default(),
        }
    }
}

impl Default for HardConcrete {
    fn default() -> HardConcrete {
        HardConcrete::llm_shearing()
    }
}

impl HardConcrete {
    /// Refuses constants for which the formulas have no meaning.
    ///
    /// # Errors
    /// [`Error::Constant`] with the field, its value and what it must satisfy.
    pub fn check(&self) -> Result<()> {
        let rules = [
            ("gamma", self.gamma, self.gamma < 0.0, "must be below 0, so that gates can be exactly 0"),
            ("zeta", self.zeta, self.zeta > 1.0, "must be above 1, so that gates can be exactly 1"),
            ("temperature", self.temperature, self.temperature > 0.0, "must be above 0"),
            (
                "epsilon",
                self.epsilon,
                (1e-7..0.5).contains(&self.epsilon),
                "must be in [1e-7, 0.5): fp32 resolves no less",
            ),
            ("init_mean", self.init_mean, true, "must be finite"),
            ("init_std", self.init_std, self.init_std >= 0.0, "must not be negative"),
            ("clamp_low", self.clamp_low, self.clamp_low < self.clamp_high, "must be below clamp_high"),
            ("clamp_high", self.clamp_high, true, "must be finite"),
            ("soft_slope", self.soft_slope, self.soft_slope > 0.0, "must be above 0"),
        ];
        for (key, value, holds, requirement) in rules {
            if !(holds && value.is_finite()) {
                return Err(Error::Constant { key, value, requirement });
            }
        }
        Ok(())
    }

    /// Gates for given noise, elementwise and differentiable in `log_alpha`: both of one shape, result of that shape.
    ///
    /// # Errors
    /// libtorch's, for shapes or devices that do not go together; so too below.
    pub fn sample(&self, log_alpha: &Tensor, uniform: &Tensor) -> Result<Tensor> {
        let noise = uniform.f_log()?.f_sub(&uniform.f_rsub_scalar(1.0)?.f_log()?)?;
        let concrete = noise.f_add(log_alpha)?.f_div_scalar(self.temperature)?.f_sigmoid()?;
        self.stretched(&concrete)
    }

    /// P(z = 0), elementwise, kept ε away from 0 and 1.
    ///
    /// # Errors
    /// libtorch's.
    pub fn probability_of_zero(&self, log_alpha: &Tensor) -> Result<Tensor> {
        self.bounded(&log_alpha.f_rsub_scalar(self.log_odds_at(0.0))?)
    }

    /// P(z = 1), elementwise, kept ε away from 0 and 1.
    ///
    /// # Errors
    /// libtorch's.
    pub fn probability_of_one(&self, log_alpha: &Tensor) -> Result<Tensor> {
        self.bounded(&log_alpha.f_sub_scalar(self.log_odds_at(1.0))?)
    }

    /// The expected score P(z ≠ 0), elementwise and differentiable.
    ///
    /// σ and its bounds are symmetric, so this is 1 − P(z = 0) without the subtraction and its rounding.
    ///
    /// # Errors
    /// libtorch's.
    pub fn score(&self, log_alpha: &Tensor) -> Result<Tensor> {
        let probability = self.bounded(&log_alpha.f_sub_scalar(self.log_odds_at(0.0))?)?;
        match self.options.count {
            OpenCount::Probability => Ok(probability),
            OpenCount::Unbiased => {
                let [low, high] = [self.clamp_low, self.clamp_high].map(|border| self.score_at(border));
                Ok(probability.f_sub_scalar(low)?.f_div_scalar(high - low)?)
            }
        }
    }

    /// P(z ≠ 0) of one log-odds value.
    fn score_at(&self, log_alpha: f64) -> f64 {
        1.0 / (1.0 + (self.log_odds_at(0.0) - log_alpha).exp())
    }

    /// The deterministic value of a kept unit, elementwise: σ(slope·a), never quite 1; without noise the gate itself.
    ///
    /// # Errors
    /// libtorch's.
    pub fn soft(&self, log_alpha: &Tensor) -> Result<Tensor> {
        if self.options.ends_without_noise() {
            return self.stretched(&log_alpha.f_div_scalar(self.temperature)?.f_sigmoid()?);
        }
        Ok(log_alpha.f_mul_scalar(self.soft_slope)?.f_sigmoid()?)
    }

    /// clamp(s·(ζ−γ) + γ, 0, 1).
    fn stretched(&self, concrete: &Tensor) -> Result<Tensor> {
        let stretched = concrete.f_mul_scalar(self.zeta - self.gamma)?.f_add_scalar(self.gamma)?;
        Ok(stretched.f_clamp(0.0, 1.0)?)
    }

    /// clamp(σ(log-odds), ε, 1−ε).
    fn bounded(&self, log_odds: &Tensor) -> Result<Tensor> {
        Ok(log_odds.f_sigmoid()?.f_clamp(self.epsilon, 1.0 - self.epsilon)?)
    }

    /// β·logit of the point whose stretched value is `gate`: the log-odds at which P(z ≤ gate) = ½.
    fn log_odds_at(&self, gate: f64) -> f64 {
        let point = (gate - self.gamma) / (self.zeta - self.gamma);
        self.temperature * (point.ln() - (1.0 - point).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::GateNoise;

    /// a, P(z=0), P(z=1), score, soft: computed from the formulas in double precision, to five decimals.
    const TABLE: [[f64; 5]; 6] = [
        [-4.60517, 0.95287, 0.00202, 0.04713, 0.00397],
        [-2.0, 0.59902, 0.02663, 0.40098, 0.08317],
        [-1.59860, 0.5, 0.03927, 0.5, 0.12805],
        [0.0, 0.16818, 0.16818, 0.83182, 0.5],
        [2.0, 0.02663, 0.59902, 0.97337, 0.91683],
        [4.60517, 0.00202, 0.95287, 0.99798, 0.99603],
    ];

    #[test]
    fn probabilities_and_soft_values() {
        let constants = HardConcrete::llm_shearing();
        for [log_alpha, zero, one, score, soft] in TABLE {
            let a = Tensor::from(log_alpha as f32);
            let found = [
                (constants.probability_of_zero(&a).unwrap(), zero),
                (constants.probability_of_one(&a).unwrap(), one),
                (constants.score(&a).unwrap(), score),
                (constants.soft(&a).unwrap(), soft),
            ];
            for (value, expected) in found {
                assert!((value.double_value(&[]) - expected).abs() < 1e-5, "a = {log_alpha}: {value:?} {expected}");
            }
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let constants = HardConcrete::llm_shearing();
        let point = Tensor::from_slice(&[-3.0f64, -1.0, 0.2, 0.9, 2.5, 4.0]);
        let uniform = Tensor::from_slice(&[0.95f64, 0.8, 0.4, 0.3, 0.1, 0.03]);
        type Formula<'a> = &'a dyn Fn(&Tensor) -> Tensor;
        let functions: [(&str, Formula<'_>); 3] = [
            ("sample", &|a| constants.sample(a, &uniform).unwrap()),
            ("score", &|a| constants.score(a).unwrap()),
            ("soft", &|a| constants.soft(a).unwrap()),
        ];
        for (name, function) in functions {
            let a = point.copy().set_requires_grad(true);
            function(&a).sum(tch::Kind::Double).backward();
            let step = 1e-6;
            let numeric = (function(&(&point + step)) - function(&(&point - step))) / (2.0 * step);
            let error = (a.grad() - &numeric).abs().max().double_value(&[]);
            assert!(error < 1e-8, "{name}: {error}");
            assert!(numeric.abs().min().double_value(&[]) > 0.0, "{name}: a point without gradient checks nothing");
        }
    }

    #[test]
    fn units_that_have_decided_count_whole_or_not_at_all() {
        let mut constants = HardConcrete::llm_shearing();
        let borders = Tensor::from_slice(&[constants.clamp_low, constants.clamp_high]);
        let biased = Vec::<f64>::try_from(constants.score(&borders).unwrap()).unwrap();
        assert!((biased[0] - 0.04713).abs() < 1e-5 && (biased[1] - 0.99798).abs() < 1e-5, "{biased:?}");
        constants.options.count = OpenCount::Unbiased;
        let found = Vec::<f64>::try_from(constants.score(&borders).unwrap()).unwrap();
        assert!(found[0].abs() < 1e-12 && (found[1] - 1.0).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn without_noise_the_gate_outside_training_is_that_of_the_last_steps() {
        let mut constants = HardConcrete::llm_shearing();
        constants.options.noise = GateNoise::Annealed;
        let a = Tensor::linspace(-4.605, 4.605, 41, (tch::Kind::Double, tch::Device::Cpu));
        let gates = constants.sample(&a, &a.full_like(0.5)).unwrap();
        let soft = constants.soft(&a).unwrap();
        assert!((&gates - &soft).abs().max().double_value(&[]) < 1e-12);
        // What has decided is closed and open for good.
        assert_eq!((soft.double_value(&[0]), soft.double_value(&[40])), (0.0, 1.0));
    }

    #[test]
    fn scores_and_closed_probabilities_add_up_to_one() {
        let constants = HardConcrete::llm_shearing();
        let a = Tensor::linspace(-30.0, 30.0, 121, (tch::Kind::Double, tch::Device::Cpu));
        let sum = constants.score(&a).unwrap() + constants.probability_of_zero(&a).unwrap();
        assert!((sum - 1.0).abs().max().double_value(&[]) < 1e-15);
    }

    #[test]
    fn shapes_that_do_not_go_together_are_an_error() {
        let (a, uniform) = (Tensor::from_slice(&[0f32, 1.0]), Tensor::from_slice(&[0.5f32, 0.5, 0.5]));
        assert!(matches!(HardConcrete::llm_shearing().sample(&a, &uniform), Err(Error::Torch(_))));
    }

    #[test]
    fn the_gate_has_no_gradient_where_it_is_clipped() {
        let a = Tensor::from_slice(&[-4.0f32, 4.0]).set_requires_grad(true);
        let gate = HardConcrete::llm_shearing().sample(&a, &Tensor::from_slice(&[0.1f32, 0.9])).unwrap();
        gate.sum(tch::Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(gate).unwrap(), [0.0, 1.0]);
        assert_eq!(Vec::<f32>::try_from(a.grad()).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn meaningless_constants_are_refused_by_name() {
        type Change = fn(&mut HardConcrete);
        let changes: [(&str, Change); 8] = [
            ("gamma", |c| c.gamma = 0.0),
            ("zeta", |c| c.zeta = 1.0),
            ("temperature", |c| c.temperature = 0.0),
            ("epsilon", |c| c.epsilon = 0.5),
            ("init_mean", |c| c.init_mean = f64::NAN),
            ("init_std", |c| c.init_std = -1.0),
            ("clamp_low", |c| c.clamp_low = 9.0),
            ("soft_slope", |c| c.soft_slope = f64::INFINITY),
        ];
        for (key, change) in changes {
            let mut constants = HardConcrete::llm_shearing();
            assert!(constants.check().is_ok());
            change(&mut constants);
            assert!(constants.check().unwrap_err().to_string().contains(&format!("`{key}`")), "{key}");
        }
    }
}
