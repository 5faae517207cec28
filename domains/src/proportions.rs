//! What counts as proportions: one finite number of at least 0 per domain, together 1.

use crate::{Error, Result};

/// How far from 1 the sum of given proportions may be: room for numbers typed with a few decimals.
const SUM_TOLERANCE: f64 = 1e-6;

/// Checks `proportions` for `domains` domains and returns them scaled to sum to 1 exactly (up to rounding).
pub(crate) fn checked(proportions: &[f64], domains: usize) -> Result<Vec<f64>> {
    let fail = |problem: String| Err(Error::Proportions { proportions: proportions.to_vec(), problem });
    if proportions.len() != domains {
        return fail(format!("{} were given for {domains} domains", proportions.len()));
    }
    if let Some(bad) = proportions.iter().find(|value| !value.is_finite() || **value < 0.0) {
        return fail(format!("{bad} is not a number of at least 0"));
    }
    let sum: f64 = proportions.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return fail(format!("they sum to {sum}, not to 1"));
    }
    Ok(proportions.iter().map(|value| value / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_distribution() {
        for (given, word) in [
            (vec![0.5, 0.4], "sum to 0.9"),
            (vec![0.5, f64::NAN], "NaN"),
            (vec![1.5, -0.5], "-0.5"),
            (vec![1.0], "1 were given for 2"),
        ] {
            let message = checked(&given, 2).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(checked(&[0.5, 0.5 + 1e-7], 2).unwrap().iter().sum::<f64>(), 1.0);
    }
}
