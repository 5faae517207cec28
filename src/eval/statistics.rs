//! Means with their standard errors, alone and of paired differences.
//!
//! ```text
//! se = s / √n        s² = Σ (x_i − mean)² / (n − 1)
//! ```
//!
//! Two models that answer the same rows or questions are compared pair by pair: what makes a row hard for both cancels,
//! so the error of the difference is far below what the two errors alone would suggest.

use serde::Serialize;

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Standard error of the mean; `None` with fewer than two values.
    pub standard_error: Option<f64>,
}

/// Rows from which on a standard error is itself known well enough to count differences in it.
pub const FEW_ROWS: u64 = 8;

/// What to say of standard errors where some domain has so few rows that its error is no more than a guess; `rows` of each.
/// An error from n rows is itself off by about `1 / √(2 (n − 1))` of itself; from a single row there is none.
pub fn few_rows_said(rows: impl IntoIterator<Item = u64>) -> Option<String> {
    let fewest = rows.into_iter().filter(|rows| (2..FEW_ROWS).contains(rows)).min()?;
    let off = 100.0 / (2.0 * (fewest - 1) as f64).sqrt();
    Some(format!(
        "a standard error from {fewest} rows of a domain is itself off by {off:.0} % or so, and with it what is counted in \
         standard errors: {FEW_ROWS} rows or more of each domain make it reliable"
    ))
}

/// Mean of `values`; `None` without values.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some(Estimate { mean, standard_error: (values.len() > 1).then(|| (variance / count).sqrt()) })
}

/// Mean of `values[i] − reference[i]`; `None` if they cannot be paired.
pub fn paired_difference(values: &[f64], reference: &[f64]) -> Option<Estimate> {
    if values.len() != reference.len() {
        return None;
    }
    let differences: Vec<f64> = values.iter().zip(reference).map(|(value, reference)| value - reference).collect();
    estimate(&differences)
}

/// Mean of independent estimates, each counting alike; `None` without any. The standard error needs all of theirs.
pub fn mean_of(estimates: &[Estimate]) -> Option<Estimate> {
    let count = estimates.len() as f64;
    let mean = estimate(&estimates.iter().map(|estimate| estimate.mean).collect::<Vec<_>>())?.mean;
    let variance: Option<f64> = estimates.iter().map(|estimate| Some(estimate.standard_error?.powi(2))).sum();
    Some(Estimate { mean, standard_error: variance.map(|variance| variance.sqrt() / count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_standard_error() {
        let found = estimate(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(found.mean, 2.0);
        assert!((found.standard_error.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(estimate(&[5.0]), Some(Estimate { mean: 5.0, standard_error: None }));
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn an_error_of_few_rows_is_told_to_be_a_guess() {
        let said = few_rows_said([8, 2, 64, 3]).unwrap();
        assert!(
            said.contains("from 2 rows of a domain is itself off by 71 %") && said.contains("8 rows or more"),
            "{said}"
        );
        assert_eq!(few_rows_said([0, 1, 8]), None, "of one row there is no error, of eight a good one");
    }

    #[test]
    fn pairs_take_out_what_both_share() {
        let (hard, shift) = ([1.0, 9.0, 4.0, 16.0], [0.5, 0.6, 0.4, 0.5]);
        let other: Vec<f64> = hard.iter().zip(shift).map(|(a, b)| a + b).collect();
        let paired = paired_difference(&other, &hard).unwrap();
        assert!((paired.mean - 0.5).abs() < 1e-12);
        assert!((paired.standard_error.unwrap() - estimate(&shift).unwrap().standard_error.unwrap()).abs() < 1e-12);
        assert!(paired.standard_error.unwrap() < 0.02 * estimate(&hard).unwrap().standard_error.unwrap());
        assert_eq!(paired_difference(&hard[..3], &hard), None);
    }

    #[test]
    fn errors_of_independent_means_add_up_in_squares() {
        let estimates = [(1.0, 0.3), (3.0, 0.4)].map(|(mean, se)| Estimate { mean, standard_error: Some(se) });
        assert_eq!(mean_of(&estimates), Some(Estimate { mean: 2.0, standard_error: Some(0.25) }));
        let unknown = Estimate { mean: 5.0, standard_error: None };
        assert_eq!(mean_of(&[estimates[0], unknown]), Some(Estimate { mean: 3.0, standard_error: None }));
        assert_eq!(mean_of(&[]), None);
    }
}
