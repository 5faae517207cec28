//! What storing the weights in their dtype costs: the change of the loss and of the distribution of the next token,
//! beside what as much rounding does to the masked model.
//!
//! ```text
//! Δloss = mean over rows of (loss of the row − loss of the row, masked in fp64), with its standard error
//! KL_t  = Σ_v p_t(v) · (log p_t(v) − log q_t(v))        p: masked model in fp64, q: the rounded one
//! ```
//!
//! Differences of single logits say little: real models have first tokens with activations a thousand times the
//! others', at which even fp32 moves logits by 1e-4 of the largest. What a user loses is loss, and other next tokens.

use super::position::{Position, exceeds};
use crate::eval::statistics::{Estimate, estimate};
use crate::files::DType;
use crate::prune::Error;
use serde::Serialize;
use tch::{Kind, TchError, Tensor};

/// A mean KL divergence (nats per token) up to which rounding is accepted whatever the source makes of it: a hundredth
/// of a nat is below what a few steps of training change.
pub const NEGLIGIBLE_KL: f64 = 0.01;

/// How many times the effect that the same rounding has on the masked model is still the effect of rounding. The two
/// round different numbers (weights before and after the gates), so they differ by chance.
pub const ROUNDING_FACTOR: f64 = 4.0;

/// A scale that no dtype's numbers are closed under.
const SCALE: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// `weight` (fp32) with the error of storing it in `dtype`, also where it is a number of that dtype already: a source in bf16,
/// or weights that stayed frozen in it, lose nothing by it themselves, but what is folded into them does.
pub(super) fn rounded_anew(weight: &Tensor, dtype: DType) -> Result<Tensor, TchError> {
    let scaled = weight.f_mul_scalar(SCALE)?.f_to_kind(dtype.kind())?;
    scaled.f_to_kind(Kind::Float)?.f_div_scalar(SCALE)
}

/// The effect of rounding on one model.
#[derive(Clone, Debug, Serialize)]
pub struct RoundingEffect {
    /// Mean change of the loss, nats per token.
    pub loss_change: f64,
    /// Standard error of it over the rows; `None` with fewer than two rows.
    pub loss_change_error: Option<f64>,
    /// Mean KL divergence of the next token, nats.
    pub mean_kl: f64,
    /// Largest KL divergence of a position, nats.
    pub worst_kl: f64,
    /// Where that is.
    pub worst: Position,
}

/// The effects on the written model and on the masked one.
#[derive(Clone, Debug, Serialize)]
pub struct Rounding {
    /// Dtype of the written weights.
    pub dtype: DType,
    /// Loss of the masked model on the check rows, fp64, nats per token.
    pub masked_loss: f64,
    /// What it did to the written model.
    pub written: RoundingEffect,
    /// What as much rounding does to the masked model, uncut.
    pub source: RoundingEffect,
}

impl Rounding {
    /// Whether the written model lost no more than rounding costs. NaN never passes.
    pub fn is_only_rounding(&self) -> bool {
        let (written, source) = (&self.written, &self.source);
        let allowed_kl = NEGLIGIBLE_KL.max(ROUNDING_FACTOR * source.mean_kl);
        let noise = ROUNDING_FACTOR * written.loss_change_error.unwrap_or(0.0);
        let allowed_loss = NEGLIGIBLE_KL.max(ROUNDING_FACTOR * source.loss_change.abs()).max(noise);
        written.mean_kl <= allowed_kl && written.loss_change <= allowed_loss
    }

    /// Whether the dtype costs more than is negligible: worth a word, and another dtype.
    pub fn is_costly(&self) -> bool {
        exceeds(self.written.mean_kl, NEGLIGIBLE_KL)
    }
}

/// Adds up what one rounded model does, row by row.
#[derive(Default)]
pub(super) struct EffectSum {
    loss_changes: Vec<f64>,
    kl: f64,
    positions: f64,
    worst: Option<(f64, i64, i64)>,
    row: RowSum,
}

/// Sums over the chunks of one row.
#[derive(Default)]
struct RowSum {
    loss: f64,
    targets: f64,
}

impl EffectSum {
    /// Positions `from..` of `row`: log-probabilities `[t, V]` of the reference and of the rounded model, and the next
    /// tokens `[n]` of the first n of them.
    pub(super) fn add(
        &mut self,
        row: i64,
        from: i64,
        reference: &Tensor,
        rounded: &Tensor,
        targets: &Tensor,
    ) -> Result<(), Error> {
        let difference = reference.f_sub(rounded)?;
        // A token of probability 0 in both adds nothing, where 0 · (−∞ + ∞) would be no number.
        let kl = reference.f_exp()?.f_mul(&difference)?.f_sum_dim_intlist(&[-1i64][..], false, Kind::Double)?;
        self.kl += kl.f_sum(Kind::Double)?.f_double_value(&[])?;
        self.positions += kl.numel() as f64;
        let (worst, at) = kl.f_max_dim(0, false)?;
        let (worst, at) = (worst.f_double_value(&[])?, from + at.f_int64_value(&[])?);
        if self.worst.is_none_or(|(before, _, _)| worst > before || worst.is_nan()) {
            self.worst = Some((worst, row, at));
        }
        let count = targets.numel() as i64;
        let chosen = difference.f_narrow(0, 0, count)?.f_gather(1, &targets.f_unsqueeze(1)?, false)?;
        self.row.loss += chosen.f_sum(Kind::Double)?.f_double_value(&[])?;
        self.row.targets += count as f64;
        Ok(())
    }

    /// All positions of a row were added.
    pub(super) fn end_row(&mut self) {
        let row = std::mem::take(&mut self.row);
        if row.targets > 0.0 {
            self.loss_changes.push(row.loss / row.targets);
        }
    }

    pub(super) fn finish(self, position: impl Fn(i64, i64) -> Position) -> RoundingEffect {
        let none = Estimate { mean: f64::NAN, standard_error: None };
        let change = estimate(&self.loss_changes).unwrap_or(none);
        let (worst_kl, row, token) = self.worst.unwrap_or((f64::NAN, 0, 0));
        RoundingEffect {
            loss_change: change.mean,
            loss_change_error: change.standard_error,
            mean_kl: self.kl / self.positions,
            worst_kl,
            worst: position(row, token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(row: i64, token: i64) -> Position {
        Position { row: row.to_string(), token }
    }

    /// Log-probabilities of a distribution per row.
    fn log(probabilities: &[f64]) -> Tensor {
        Tensor::from_slice(probabilities).view([-1, 2]).log()
    }

    #[test]
    fn what_is_of_a_dtype_already_is_rounded_like_anything_else() {
        let weight = Tensor::randn([4096], (Kind::Float, tch::Device::Cpu));
        let error = |weight: &Tensor| {
            let rounded = rounded_anew(weight, DType::BF16).unwrap();
            ((rounded - weight) / weight).square().mean(Kind::Float).sqrt().double_value(&[])
        };
        let stored = weight.to_kind(Kind::BFloat16).to_kind(Kind::Float);
        // Relative errors of a number with eight bits: at most 2⁻⁹, uniform between.
        for found in [error(&weight), error(&stored)] {
            assert!((0.0008..0.0020).contains(&found), "{found}");
        }
        assert!(
            rounded_anew(&Tensor::zeros([2], (Kind::Float, tch::Device::Cpu)), DType::BF16)
                .unwrap()
                .sum(Kind::Float)
                .double_value(&[])
                == 0.0
        );
    }

    #[test]
    fn loss_and_divergence_are_those_of_the_equations() {
        let (p, q) = (log(&[0.5, 0.5, 0.9, 0.1, 0.2, 0.8]), log(&[0.5, 0.5, 0.6, 0.4, 0.2, 0.8]));
        let mut sum = EffectSum::default();
        sum.add(3, 10, &p, &q, &Tensor::from_slice(&[0i64, 1])).unwrap();
        sum.end_row();
        let effect = sum.finish(place);
        let kl = 0.9 * (0.9f64 / 0.6).ln() + 0.1 * (0.1f64 / 0.4).ln();
        assert!((effect.mean_kl - kl / 3.0).abs() < 1e-12 && (effect.worst_kl - kl).abs() < 1e-12);
        assert_eq!((effect.worst.row.as_str(), effect.worst.token), ("3", 11));
        // Token 0 after the first position costs the same, token 1 after the second less.
        assert!((effect.loss_change - (0.1f64 / 0.4).ln() / 2.0).abs() < 1e-12);
        assert_eq!(effect.loss_change_error, None);
    }

    fn rounding(written: (f64, f64), source: (f64, f64), error: f64) -> Rounding {
        let effect = |(mean_kl, loss_change): (f64, f64)| RoundingEffect {
            loss_change,
            loss_change_error: Some(error),
            mean_kl,
            worst_kl: mean_kl,
            worst: place(0, 0),
        };
        Rounding { dtype: DType::BF16, masked_loss: 2.0, written: effect(written), source: effect(source) }
    }

    #[test]
    fn rounding_may_cost_what_it_costs_the_source() {
        assert!(rounding((0.005, 0.002), (0.0, 0.0), 0.0).is_only_rounding());
        assert!(rounding((0.3, 0.2), (0.2, 0.1), 0.01).is_only_rounding(), "a model that amplifies rounding");
        assert!(rounding((0.3, 0.2), (0.2, 0.1), 0.01).is_costly());
        assert!(!rounding((0.3, 0.0), (0.01, 0.0), 0.0).is_only_rounding());
        assert!(!rounding((0.005, 0.5), (0.005, 0.01), 0.02).is_only_rounding());
        assert!(!rounding((f64::NAN, 0.0), (0.0, 0.0), 0.0).is_only_rounding());
        assert!(!rounding((0.0, f64::NAN), (f64::NAN, f64::NAN), 0.0).is_only_rounding());
    }
}
