//! Which domain the next row comes from, so that the mix is exact rather than right on average.
//!
//! Largest deficit first: at every draw each domain's deficit grows by its proportion, the domain furthest behind is
//! taken, and its deficit shrinks by one. Deficits are carried from batch to batch, so after any number of draws the
//! rows of a domain differ from the sum of its proportions by less than two, also when the proportions change on the
//! way. Independent draws would be off by hundreds in a long run, and a small domain could miss whole batches.

/// Picks the domain of the next row and updates `deficits`. A domain whose weight is 0 is never picked.
///
/// `weights` are the proportions in effect (they sum to 1 over the domains that have rows left). `None` when all are 0.
pub(crate) fn draw(deficits: &mut [f64], weights: &[f64]) -> Option<usize> {
    let mut best = None;
    for (domain, (deficit, &weight)) in deficits.iter_mut().zip(weights).enumerate() {
        *deficit += weight;
        // Ties go to the domain listed first.
        if weight > 0.0 && best.is_none_or(|(_, most)| *deficit > most) {
            best = Some((domain, *deficit));
        }
    }
    let (domain, _) = best?;
    deficits[domain] -= 1.0;
    Some(domain)
}

/// Rows that `steps` batches of `batch_rows` rows take from each domain at fixed `proportions`.
///
/// The shares are rounded so that they add up to all rows (largest remainders); the loader's own counts, which must be
/// whole after every single batch, differ from these by less than 2.
pub fn rows_needed(proportions: &[f64], batch_rows: usize, steps: u64) -> Vec<u64> {
    let total = steps.saturating_mul(batch_rows as u64);
    let shares: Vec<f64> = proportions.iter().map(|proportion| proportion * total as f64).collect();
    let mut rows: Vec<u64> = shares.iter().map(|share| share.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..rows.len()).filter(|&domain| proportions[domain] > 0.0).collect();
    by_remainder.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()));
    let missing = total.saturating_sub(rows.iter().sum());
    for &domain in by_remainder.iter().take(missing as usize) {
        rows[domain] += 1;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn random_weights(numbers: &mut StdRng, domains: usize) -> Vec<f64> {
        let raw: Vec<f64> = (0..domains).map(|_| f64::from(numbers.random_range(1..=1000u32))).collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|value| value / sum).collect()
    }

    #[test]
    fn drift_stays_below_two_rows_also_when_proportions_change() {
        let mut numbers = StdRng::seed_from_u64(11);
        for domains in [2, 3, 7, 22, 50] {
            for change_every in [1, 10, 100_000] {
                let mut deficits = vec![0.0; domains];
                let (mut taken, mut wanted) = (vec![0.0; domains], vec![0.0; domains]);
                let mut weights = random_weights(&mut numbers, domains);
                for turn in 0..20_000 {
                    if turn % change_every == 0 {
                        weights = random_weights(&mut numbers, domains);
                    }
                    taken[draw(&mut deficits, &weights).unwrap()] += 1.0;
                    for domain in 0..domains {
                        wanted[domain] += weights[domain];
                        let drift: f64 = taken[domain] - wanted[domain];
                        assert!(drift.abs() < 2.0, "{drift} after {turn} draws of {domains}");
                    }
                }
            }
        }
    }

    #[test]
    fn round_numbers_give_exact_batches() {
        let mut deficits = vec![0.0; 3];
        for _ in 0..100 {
            let mut counts = [0; 3];
            (0..8).for_each(|_| counts[draw(&mut deficits, &[0.5, 0.25, 0.25]).unwrap()] += 1);
            assert_eq!(counts, [4, 2, 2]);
        }
    }

    #[test]
    fn zero_weight_is_never_drawn() {
        let mut deficits = vec![5.0, 0.0];
        assert!((0..50).all(|_| draw(&mut deficits, &[0.0, 1.0]) == Some(1)));
        assert_eq!(draw(&mut deficits, &[0.0, 0.0]), None);
    }

    #[test]
    fn planned_rows_add_up() {
        assert_eq!(rows_needed(&[0.67, 0.33], 256, 1000), [171_520, 84_480]);
        let proportions = [0.67, 0.045, 0.045, 0.02, 0.045, 0.025, 0.15];
        let rows = rows_needed(&proportions, 10, 7);
        assert_eq!(rows.iter().sum::<u64>(), 70);
        assert_eq!(rows_needed(&[1.0, 0.0], 3, 5), [15, 0]);
    }
}
