//! Log-odds that start from scores: the order of a one-shot score, on the scale of the log-odds.
//!
//! ```text
//! z_i = (ln s_i − mean_row ln s) / std_row ln s, in [−3, 3]
//! top-k          a_i = strength · z_i                      only differences within a row count
//! hard concrete  a_i = clamp_high − strength · (3 − z_i)   the best begin open, all begin more open than closed
//! deterministic  m_i = 1 + strength · z_i/100              near 1, so that the gated model begins as the source
//! ```
//!
//! Logarithms, because scores span orders of magnitude and their scale means nothing.

use crate::error::Result;
use crate::gates::{Gates, finite_values};
use crate::gating::Gating;
use crate::spec::ModuleSpec;

/// Standard deviations beyond which a unit is no better or worse.
const FURTHEST: f64 = 3.0;

/// Initial log-odds of a mask from `scores`, which hold a tensor in the place of its gate.
///
/// # Errors
/// Scores that are missing, of another shape or not finite.
pub(crate) fn initial_log_alpha(spec: &ModuleSpec, gating: &Gating, scores: &Gates, strength: f64) -> Result<Vec<f32>> {
    let values = finite_values(spec, scores.require(spec)?)?;
    let value = |z: f64| match gating {
        Gating::TopK(_) => strength * z,
        Gating::Deterministic(constants) => f64::from(constants.initial(strength * z)),
        Gating::HardConcrete(constants) => {
            (constants.clamp_high - strength * (FURTHEST - z)).clamp(constants.clamp_low, constants.clamp_high)
        }
    };
    let rows = values.chunks_exact(spec.size as usize);
    Ok(rows.flat_map(standardised).map(|z| value(z) as f32).collect())
}

/// Standardised logarithms of a row; zeros where all are alike.
fn standardised(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().copied().fold(0f32, f32::max);
    // A unit that never does anything has a score of 0.
    let least = (f64::from(largest) * 1e-9).max(f64::MIN_POSITIVE);
    let logs: Vec<f64> = row.iter().map(|score| f64::from(*score).max(least).ln()).collect();
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let deviation = (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / count).sqrt();
    let scale = if deviation > 0.0 { deviation.recip() } else { 0.0 };
    logs.into_iter().map(|log| ((log - mean) * scale).clamp(-FURTHEST, FURTHEST)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hard_concrete::HardConcrete;
    use crate::shape::UnitKind;
    use crate::top_k::TopK;
    use tch::Tensor;

    fn log_alpha(gating: &Gating, strength: f64, scores: &[f32]) -> Vec<f32> {
        let spec = ModuleSpec { module: UnitKind::Hidden, rows: 1, size: scores.len() as i64, target: 1 };
        let scores = Gates { hidden: Some(Tensor::from_slice(scores)), ..Gates::none() };
        initial_log_alpha(&spec, gating, &scores, strength).unwrap()
    }

    #[test]
    fn the_order_is_that_of_the_scores_and_the_scale_that_of_the_log_odds() {
        let top_k = log_alpha(&TopK::over(10).into(), 2.0, &[1.0, 10.0, 100.0]);
        let expected = 2.0 * 1.5f32.sqrt();
        for (found, expected) in top_k.iter().zip([-expected, 0.0, expected]) {
            assert!((found - expected).abs() < 1e-5, "{top_k:?}");
        }
        let hard = log_alpha(&HardConcrete::default().into(), 0.5, &[1.0, 10.0, 100.0]);
        assert!(hard[0] < hard[1] && hard[1] < hard[2] && hard[0] > 0.0 && hard[2] <= 100f32.ln(), "{hard:?}");
    }

    #[test]
    fn zeros_and_equal_scores_stay_finite() {
        let gating = TopK::over(10).into();
        assert_eq!(log_alpha(&gating, 1.0, &[0.0, 0.0]), [0.0, 0.0]);
        assert_eq!(log_alpha(&gating, 1.0, &[7.0, 7.0, 7.0]), [0.0, 0.0, 0.0]);
        let one_dead = log_alpha(&gating, 1.0, &[0.0, 5.0, 6.0]);
        assert!(one_dead.iter().all(|value| value.is_finite()) && one_dead[0] < one_dead[1]);
    }
}
