//! Shares of the domains that prepared data can keep up to the end of a run.

use shearling_domains::{Dataset, Split};

/// Rows of the domains of prepared data, and their shares.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rows {
    domains: Vec<(String, u64)>,
    shares: Vec<f64>,
    alike: bool,
}

/// Digits of a share.
const UNIT: f64 = 1e4;
/// Part of a domain's rows that a share may ask for: shares are rounded, and rows are drawn in whole batches.
const SAFE: f64 = 0.95;

impl Rows {
    /// Of `dataset`, for a run of `needed` rows that sees each at most `epochs` times: all domains alike as far as their
    /// rows go; what a small one cannot give the others do.
    pub(super) fn new(dataset: &Dataset, needed: u64, epochs: f64) -> Rows {
        let names = dataset.domain_names().iter().enumerate();
        let domains: Vec<(String, u64)> =
            names.map(|(index, name)| (name.clone(), dataset.rows(index, Split::Train))).collect();
        let most: Vec<f64> =
            domains.iter().map(|(_, rows)| *rows as f64 * epochs * SAFE / needed.max(1) as f64).collect();
        let shares = rounded(&filled(&most));
        let alike = most.iter().all(|most| *most >= 1.0 / most_len(&shares));
        Rows { domains, shares, alike }
    }

    /// Training rows of all domains.
    pub(super) fn total(&self) -> u64 {
        self.domains.iter().map(|(_, rows)| rows).sum()
    }

    /// Share by domain; they sum to 1.
    pub(super) fn shares(&self) -> impl Iterator<Item = (&str, f64)> {
        self.domains.iter().zip(&self.shares).map(|((name, _), share)| (name.as_str(), *share))
    }

    /// Whether every domain can give as much as the others.
    pub(super) fn are_alike(&self) -> bool {
        self.alike
    }

    /// Why these shares, where they differ.
    pub(super) fn said(&self) -> &'static str {
        "Alike as far as their rows go (max_epochs): a small domain has less, the others share what is left."
    }
}

fn most_len(shares: &[f64]) -> f64 {
    shares.len().max(1) as f64
}

/// Equal shares under a limit each: water poured into vessels of those heights. If they cannot hold 1 together, shares are
/// in proportion to the limits.
fn filled(most: &[f64]) -> Vec<f64> {
    let all: f64 = most.iter().sum();
    if all <= 1.0 {
        return most.iter().map(|most| most / all.max(f64::MIN_POSITIVE)).collect();
    }
    let mut sorted = most.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (mut left, mut level) = (1.0, 0.0);
    for (index, limit) in sorted.iter().enumerate() {
        level = left / (sorted.len() - index) as f64;
        if *limit >= level {
            break;
        }
        left -= limit;
    }
    most.iter().map(|most| most.min(level)).collect()
}

/// Rounded to four digits; the largest takes what that leaves.
fn rounded(shares: &[f64]) -> Vec<f64> {
    let mut units: Vec<i64> = shares.iter().map(|share| (share * UNIT).round().max(1.0) as i64).collect();
    let missing = UNIT as i64 - units.iter().sum::<i64>();
    if let Some(largest) = units.iter_mut().max() {
        *largest += missing;
    }
    units.into_iter().map(|unit| unit as f64 / UNIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_domain_gives_what_it_has_and_the_others_share_the_rest() {
        assert_eq!(filled(&[1.0, 1.0, 1.0, 1.0]), [0.25; 4]);
        assert_eq!(filled(&[0.1, 1.0, 1.0]), [0.1, 0.45, 0.45]);
        assert_eq!(filled(&[0.1, 0.2, 5.0]), [0.1, 0.2, 0.7]);
        assert_eq!(filled(&[0.125, 0.375]), [0.25, 0.75], "too little in all: by size");
    }

    #[test]
    fn shares_sum_to_one_in_four_digits() {
        let shares = rounded(&filled(&[1.0 / 7.0; 7]));
        assert_eq!(shares.iter().map(|share| (share * UNIT).round() as i64).sum::<i64>(), 10_000);
        let eleven = rounded(&filled(&[1.0; 11]));
        assert!(eleven.iter().all(|share| (share - 1.0 / 11.0).abs() < 2e-3), "{eleven:?}");
    }
}
