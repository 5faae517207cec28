//! Which token comes next: pure functions of logits and one uniform number.
//!
//! In the order of transformers: logits are divided by the temperature; the k most likely tokens stay (top-k); of these,
//! with their probabilities p₁ ≥ p₂ ≥ …, the fewest whose sum reaches top-p (token i stays if p₁ + … + pᵢ₋₁ < top-p);
//! one is drawn by inverting the cumulative sum. Among equals the smaller id comes first, everywhere.

use super::Error;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Number of tokens to draw from; 0: all.
    pub top_k: usize,
    /// Probability mass to draw from, in (0, 1].
    pub top_p: f64,
}

/// A token with its logit or weight. Greater: more likely, among equals the smaller id.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    value: f64,
    id: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.value.total_cmp(&other.value).then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };

    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// A negative or infinite temperature, a top-p outside (0, 1].
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |name, value, expected| Err(Error::Setting { name, value, expected });
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature, "0 (greedy decoding) or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "more than 0 and at most 1");
        }
        Ok(())
    }

    /// Whether chance has no part in it.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// The id chosen from `logits [V]` by `uniform` in (0, 1). A token with a logit of −∞ is never chosen. `None` where
    /// a logit is NaN or +∞, or all are −∞.
    pub fn choose(&self, logits: &[f32], uniform: f64) -> Option<usize> {
        if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
            return None;
        }
        let best = candidates(logits).max().filter(|best| best.value.is_finite())?;
        if self.is_greedy() {
            return Some(best.id);
        }
        // The largest logit is taken off first, so that no exponential overflows.
        let weight = |candidate: Candidate| Candidate {
            value: ((candidate.value - best.value) / self.temperature).exp(),
            id: candidate.id,
        };
        let weights: Vec<Candidate> = candidates(logits).map(weight).collect();
        Some(draw(&self.kept(weights), uniform).unwrap_or(best.id))
    }

    /// The tokens to draw from.
    fn kept(&self, mut weights: Vec<Candidate>) -> Vec<Candidate> {
        if self.top_k > 0 && self.top_k < weights.len() {
            weights.select_nth_unstable_by(self.top_k, |a, b| b.cmp(a));
            weights.truncate(self.top_k);
            // Whatever the selection left them in: the order decides what a uniform number means.
            weights.sort_unstable_by_key(|candidate| candidate.id);
        }
        if self.top_p < 1.0 { nucleus(weights, self.top_p) } else { weights }
    }
}

fn candidates(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits.iter().enumerate().map(|(id, logit)| Candidate { value: f64::from(*logit), id })
}

/// The most likely tokens, as few as reach `top_p` of the whole weight; always one.
fn nucleus(weights: Vec<Candidate>, top_p: f64) -> Vec<Candidate> {
    let whole = total(&weights);
    // Only the few that stay are sorted.
    let mut heap = BinaryHeap::from(weights);
    let (mut kept, mut sum) = (Vec::new(), 0.0);
    while let Some(next) = heap.pop() {
        kept.push(next);
        sum += next.value;
        if sum >= top_p * whole {
            break;
        }
    }
    kept
}

fn total(weights: &[Candidate]) -> f64 {
    weights.iter().map(|candidate| candidate.value).sum()
}

/// The first token at which the cumulative weight exceeds `uniform` of the whole.
fn draw(weights: &[Candidate], uniform: f64) -> Option<usize> {
    let threshold = uniform * total(weights);
    let mut sum = 0.0;
    let chosen = weights.iter().find(|candidate| {
        sum += candidate.value;
        sum > threshold
    });
    chosen.map(|candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of these probabilities.
    fn of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling { temperature, top_k, top_p }
    }

    /// How often each id comes when the uniform number walks over (0, 1) in a thousand steps.
    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut shares = vec![0.0; logits.len()];
        (0..1000).for_each(|i| shares[sampling.choose(logits, (f64::from(i) + 0.5) / 1000.0).unwrap()] += 0.001);
        shares
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-3), "{found:?}, expected {expected:?}");
    }

    const P: [f32; 5] = [0.1, 0.4, 0.2, 0.25, 0.05];

    #[test]
    fn without_cuts_the_shares_are_the_probabilities() {
        close(&shares(sampling(1.0, 0, 1.0), &of(&P)), &[0.1, 0.4, 0.2, 0.25, 0.05]);
        // The same under a shift of all logits that would overflow.
        let far: Vec<f32> = of(&P).iter().map(|logit| logit + 1e4).collect();
        close(&shares(sampling(1.0, 0, 1.0), &far), &[0.1, 0.4, 0.2, 0.25, 0.05]);
    }

    #[test]
    fn temperature_raises_probabilities_to_its_inverse() {
        // Squares 0.01, 0.16, 0.04, 0.0625, 0.0025 sum to 0.275.
        close(&shares(sampling(0.5, 0, 1.0), &of(&P)), &[0.0364, 0.5818, 0.1455, 0.2273, 0.0091]);
        assert_eq!(shares(sampling(1e-9, 0, 1.0), &of(&P))[1], shares(Sampling::GREEDY, &of(&P))[1]);
        // At 10, 10th roots: 0.7943, 0.9124, 0.8513, 0.8706, 0.7411 sum to 4.1697.
        close(&shares(sampling(10.0, 0, 1.0), &of(&P)), &[0.1905, 0.2188, 0.2042, 0.2088, 0.1777]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        // In order 0.4, 0.25, 0.2, 0.1, 0.05; sums 0.4, 0.65, 0.85, 0.95, 1.
        close(&shares(sampling(1.0, 0, 0.3), &of(&P)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        close(&shares(sampling(1.0, 0, 0.5), &of(&P)), &[0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
        close(&shares(sampling(1.0, 0, 0.7), &of(&P)), &[0.0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0.0]);
        close(&shares(sampling(1.0, 0, 0.9), &of(&P)), &[0.1 / 0.95, 0.4 / 0.95, 0.2 / 0.95, 0.25 / 0.95, 0.0]);
        close(&shares(sampling(1.0, 0, 1e-9), &of(&P)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        // Exactly reached: quarters are exact.
        let quarters = [0.25f32.ln(); 4];
        close(&shares(sampling(1.0, 0, 0.5), &quarters), &[0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn top_k_comes_before_top_p() {
        close(&shares(sampling(1.0, 2, 1.0), &of(&P)), &[0.0, 0.4 / 0.65, 0.0, 0.25 / 0.65, 0.0]);
        // Of the two that stay the first has 0.615.
        close(&shares(sampling(1.0, 2, 0.6), &of(&P)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        close(&shares(sampling(1.0, 99, 1.0), &of(&P)), &[0.1, 0.4, 0.2, 0.25, 0.05]);
        close(&shares(sampling(1.0, 1, 1.0), &of(&P)), &[0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn among_equals_the_smaller_id_comes_first() {
        let logits = [1.0, 3.0, 3.0, 3.0, -2.0];
        assert_eq!(Sampling::GREEDY.choose(&logits, 0.99), Some(1));
        close(&shares(sampling(1.0, 2, 1.0), &logits), &[0.0, 0.5, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_number_is_refused_and_minus_infinity_is_never_chosen() {
        for (top_p, temperature) in [(1.0, 0.0), (1.0, 1.0), (0.5, 1.0)] {
            let sampling = sampling(temperature, 0, top_p);
            assert_eq!(sampling.choose(&[0.0, f32::NAN], 0.5), None);
            assert_eq!(sampling.choose(&[0.0, f32::INFINITY], 0.5), None);
            assert_eq!(sampling.choose(&[f32::NEG_INFINITY; 3], 0.5), None);
            assert_eq!(sampling.choose(&[], 0.5), None);
            for uniform in [1e-9, 0.5, 1.0 - 1e-9] {
                assert_eq!(sampling.choose(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], uniform), Some(1));
            }
        }
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        assert!(Sampling::GREEDY.validate().is_ok() && sampling(0.7, 40, 0.9).validate().is_ok());
        for wrong in [sampling(-1.0, 0, 1.0), sampling(f64::NAN, 0, 1.0), sampling(f64::INFINITY, 0, 1.0)] {
            assert!(wrong.validate().unwrap_err().to_string().contains("temperature"));
        }
        for top_p in [0.0, -0.5, 1.1, f64::NAN] {
            assert!(sampling(1.0, 0, top_p).validate().unwrap_err().to_string().contains("top_p"));
        }
    }
}
