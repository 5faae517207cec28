//! Reference losses from a scaling law, one domain at a time.
//!
//! Models of one family, trained on the same data, lose `L(N) = a·N^(−b) + c` on a domain, with N the number of
//! parameters (Sheared-LLaMA, appendix B). Three sizes determine the three unknowns. The ratio of the two drops,
//!
//! ```text
//! (L₁ − L₂)/(L₂ − L₃) = (t^b − 1)/(1 − u^(−b)),   t = N₂/N₁, u = N₃/N₂,
//! ```
//!
//! depends on b alone and grows with it, so b is found by bisection and a and c follow. Three points leave nothing to
//! judge the fit by, and the prediction for a small model is an extrapolation: measure instead where you can.

use crate::{Error, Result};

/// Largest exponent looked for; published ones lie below 1.
const MAX_EXPONENT: f64 = 50.0;

/// `L(N) = a·N^(−b) + c`, in nats per token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingLaw {
    /// Scale of the part that shrinks.
    pub a: f64,
    /// Exponent.
    pub b: f64,
    /// Loss of an infinitely large model.
    pub c: f64,
}

impl ScalingLaw {
    /// The law through three `(parameters, loss)` points, in any order.
    ///
    /// # Errors
    /// [`Error::Losses`] unless sizes differ, losses fall with size, and fall ever more slowly.
    pub fn through(points: [(f64, f64); 3]) -> Result<Self> {
        let mut points = points;
        points.sort_by(|left, right| left.0.total_cmp(&right.0));
        let [(n1, l1), (n2, l2), (n3, l3)] = points;
        let fail = |problem: &str| Error::Losses { what: "scaling law", problem: format!("{problem} in {points:?}") };
        if points.iter().any(|(size, loss)| !size.is_finite() || !loss.is_finite() || *size <= 0.0) {
            return Err(fail("a size or loss is not a finite number"));
        }
        if n1 == n2 || n2 == n3 {
            return Err(fail("two sizes are equal"));
        }
        if l1 <= l2 || l2 <= l3 {
            return Err(fail("a larger model does not have a smaller loss"));
        }
        let (t, u) = ((n2 / n1).ln(), (n3 / n2).ln());
        let drops = (l1 - l2) / (l2 - l3);
        let b = exponent(t, u, drops).ok_or_else(|| fail("the losses do not flatten like a power law"))?;
        let a = (l2 - l3) / (n2.powf(-b) - n3.powf(-b));
        Ok(Self { a, b, c: l3 - a * n3.powf(-b) })
    }

    /// Loss of a model with `parameters` parameters, embeddings included.
    pub fn loss(&self, parameters: f64) -> f64 {
        self.a * parameters.powf(-self.b) + self.c
    }
}

/// The `b` with `expm1(b·t) / −expm1(−b·u) = drops`, where the left side grows from `t/u` at `b = 0`.
fn exponent(t: f64, u: f64, drops: f64) -> Option<f64> {
    let ratio = |b: f64| (b * t).exp_m1() / -(-b * u).exp_m1();
    if drops <= t / u || drops >= ratio(MAX_EXPONENT) {
        return None;
    }
    let (mut low, mut high) = (0.0, MAX_EXPONENT);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if ratio(middle) < drops { low = middle } else { high = middle }
    }
    Some(0.5 * (low + high))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters of LLaMA-2 7B, 13B and 70B.
    const SIZES: [f64; 3] = [6_738_415_616.0, 13_015_864_320.0, 68_976_648_192.0];
    /// Parameters of the targets of Sheared-LLaMA: 2.7B, 1.3B and 370M.
    const TARGETS: [f64; 3] = [2_701_560_320.0, 1_345_423_360.0, 373_867_520.0];

    /// Losses of the three models, then the reference losses published for the targets.
    const PUBLISHED: [(&str, [f64; 3], [f64; 3]); 7] = [
        ("cc", [1.7520, 1.6680, 1.4621], [1.8712, 1.9643, 2.1401]),
        ("github", [0.6216, 0.5791, 0.4890], [0.6883, 0.7459, 0.8694]),
        ("book", [1.9063, 1.8242, 1.6450], [2.0325, 2.1393, 2.3625]),
        ("stackexchange", [1.4482, 1.3936, 1.2805], [1.5353, 1.6117, 1.7791]),
        ("wiki", [1.4844, 1.3945, 1.2118], [1.6297, 1.7590, 2.0470]),
        ("arxiv", [1.2637, 1.2109, 1.1148], [1.3560, 1.4449, 1.6637]),
        ("c4", [1.9219, 1.8486, 1.6848], [2.0328, 2.1251, 2.3139]),
    ];

    #[test]
    fn predicts_the_published_reference_losses() {
        for (domain, losses, references) in PUBLISHED {
            let points = std::array::from_fn(|at| (SIZES[at], losses[at]));
            let law = ScalingLaw::through(points).unwrap();
            for (parameters, reference) in TARGETS.into_iter().zip(references) {
                let predicted = law.loss(parameters);
                assert!((predicted - reference).abs() < 5.1e-5, "{domain}: {predicted} for {reference}, {law:?}");
            }
        }
    }

    #[test]
    fn recovers_a_law_in_any_order_of_points() {
        let law = ScalingLaw { a: 58.91, b: 0.1925, c: 0.7292 };
        let points = [1e9, 3e9, 4e10].map(|size| (size, law.loss(size)));
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let found = ScalingLaw::through(order.map(|at: usize| points[at])).unwrap();
            assert!((found.b - law.b).abs() < 1e-9 && (found.c - law.c).abs() < 1e-6, "{found:?}");
        }
    }

    #[test]
    fn refuses_what_no_law_passes_through() {
        for (points, word) in [
            ([(1.0, 3.0), (1.0, 2.0), (2.0, 1.0)], "equal"),
            ([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], "smaller loss"),
            ([(1.0, 3.0), (2.0, 2.9), (4.0, 1.0)], "flatten"),
            ([(1.0, 3.0), (2.0, f64::NAN), (4.0, 1.0)], "finite"),
        ] {
            let message = ScalingLaw::through(points).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
