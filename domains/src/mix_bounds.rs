//! Within what limits proportions may move: the box of every domain at one update, and the way into it.
//!
//! ```text
//! floor ≤ w_i ≤ cap                                        mixer.floor, mixer.cap
//! odds(w_i) within a factor of its odds before             mixer.max_change
//! odds(w_i) within a factor of its odds at the start       mixer.max_drift
//! odds(w) = w / (1 − w)
//! ```
//!
//! Odds, so that one factor bounds both ends alike: no bound lies below 0 or above 1, and a small domain moves by about
//! that factor in its proportion. The proportions of before are inside all boxes, so there is always a way in.

use crate::mixer_config::MixerConfig;
use serde::{Deserialize, Serialize};

/// What kept a proportion from where the rule wanted it, named as its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// How far one update may go.
    MaxChange,
    /// How far all updates together may go.
    MaxDrift,
    /// The smallest proportion.
    Floor,
    /// The largest proportion.
    Cap,
}

/// The box of one domain, and what each side of it comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    pub low: f64,
    pub high: f64,
    pub low_by: Bound,
    pub high_by: Bound,
}

impl Span {
    /// From nothing but floor and cap.
    pub fn of(floor: f64, cap: f64) -> Span {
        Span { low: floor, high: cap, low_by: Bound::Floor, high_by: Bound::Cap }
    }

    /// The box of a domain that has `present`, began with `initial` and may be updated `updates` times.
    pub fn new(config: &MixerConfig, initial: f64, present: f64, updates: f64) -> Span {
        let mut span = Span::of(config.floor, config.cap.unwrap_or(1.0));
        if let Some(factor) = config.max_drift() {
            span.narrow(present, (initial, factor), Bound::MaxDrift);
        }
        if let Some(factor) = config.max_change() {
            span.narrow(present, (present, factor.powf(updates)), Bound::MaxChange);
        }
        span
    }

    /// Keeps the odds within a factor of those of `center`; what is there already is allowed, whatever rounding says.
    fn narrow(&mut self, present: f64, (center, factor): (f64, f64), by: Bound) {
        let (low, high) = (with_odds(center, 1.0 / factor).min(present), with_odds(center, factor).max(present));
        if low > self.low {
            (self.low, self.low_by) = (low, by);
        }
        if high < self.high {
            (self.high, self.high_by) = (high, by);
        }
    }

    /// Leaves a domain where it is.
    pub fn still(present: f64) -> Span {
        Span::of(present, present)
    }

    /// What keeps a domain from having `wanted`.
    pub fn against(&self, wanted: f64) -> Option<Bound> {
        let slack = 1e-9 * wanted;
        if wanted > self.high + slack {
            Some(self.high_by)
        } else if wanted < self.low - slack {
            Some(self.low_by)
        } else {
            None
        }
    }

    fn holds(&self, weight: f64) -> bool {
        (self.low..=self.high).contains(&weight)
    }
}

/// The proportion whose odds are `factor` times those of `weight`.
fn with_odds(weight: f64, factor: f64) -> f64 {
    if factor.is_infinite() {
        return if weight > 0.0 { 1.0 } else { 0.0 };
    }
    weight * factor / (1.0 - weight + weight * factor)
}

/// Moves `weights` into their boxes with their sum kept at 1: all are scaled by one factor and clamped, and the factor is
/// the one for which the sum comes out right. Domains strictly inside keep their ratios to each other.
pub(crate) fn bounded(weights: Vec<f64>, spans: &[Span]) -> Vec<f64> {
    if weights.iter().zip(spans).all(|(weight, span)| span.holds(*weight)) {
        return weights;
    }
    let clamped = |(weight, span): (f64, &Span)| weight.clamp(span.low, span.high);
    let at =
        |factor: f64| -> Vec<f64> { weights.iter().map(|weight| weight * factor).zip(spans).map(clamped).collect() };
    let sum = |factor: f64| at(factor).iter().sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < 1.0 && high < 1e300 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if sum(middle) < 1.0 { low = middle } else { high = middle }
    }
    settle(at(high), spans)
}

/// Spreads what is missing to a sum of 1 (rounding, or the room that domains of weight 0 must fill when the others are
/// at the top of their boxes) evenly over the domains that have room for it.
fn settle(mut weights: Vec<f64>, spans: &[Span]) -> Vec<f64> {
    for _ in 0..weights.len() {
        let missing = 1.0 - weights.iter().sum::<f64>();
        let room = |weight: f64, span: &Span| if missing > 0.0 { weight < span.high } else { weight > span.low };
        let open = weights.iter().zip(spans).filter(|(weight, span)| room(**weight, span)).count();
        if missing == 0.0 || open == 0 {
            break;
        }
        for (weight, span) in weights.iter_mut().zip(spans).filter(|(weight, span)| room(**weight, span)) {
            *weight = (*weight + missing / open as f64).clamp(span.low, span.high);
        }
    }
    weights
}

/// The same boxes, each as far as the others leave room for it.
pub(crate) fn reachable(spans: &[Span]) -> Vec<(f64, f64)> {
    let (low, high): (f64, f64) = spans.iter().fold((0.0, 0.0), |(low, high), s| (low + s.low, high + s.high));
    let of = |span: &Span| {
        let (others_low, others_high) = (low - span.low, high - span.high);
        (span.low.max(1.0 - others_high).clamp(0.0, 1.0), span.high.min(1.0 - others_low).clamp(0.0, 1.0))
    };
    spans.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_keep_ratios_inside_and_fill_up_from_zero() {
        let new = bounded(vec![0.8, 0.12, 0.08], &[Span::of(0.0, 0.5); 3]);
        assert!((new[1] / new[2] - 1.5).abs() < 1e-12 && new[0] == 0.5, "{new:?}");
        assert_eq!(bounded(vec![1.0, 0.0, 0.0], &[Span::of(0.0, 0.5); 3]), [0.5, 0.25, 0.25]);
        assert_eq!(bounded(vec![1.0, 0.0], &[Span::of(0.5, 1.0); 2]), [0.5, 0.5]);
    }

    #[test]
    fn odds_move_by_a_factor_and_stay_between_0_and_1() {
        assert!((with_odds(0.25, 6.0) - 2.0 / 3.0).abs() < 1e-15);
        assert!((with_odds(0.25, 1.0 / 6.0) - 1.0 / 19.0).abs() < 1e-15);
        for end in [0.0, 1.0] {
            assert_eq!([1.0 / 6.0, 1.0, 6.0].map(|factor| with_odds(end, factor)), [end; 3]);
        }
        assert_eq!((with_odds(0.3, f64::INFINITY), with_odds(0.0, f64::INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn each_side_of_a_box_names_the_key_it_comes_from() {
        let config = MixerConfig {
            max_change: Some(1.1),
            max_drift: Some(2.0),
            floor: 0.24,
            cap: Some(0.5),
            ..MixerConfig::default()
        };
        let span = Span::new(&config, 0.25, 0.25, 1.0);
        assert_eq!((span.low_by, span.high_by), (Bound::Floor, Bound::MaxChange));
        assert_eq!((span.against(0.9), span.against(0.1)), (Some(Bound::MaxChange), Some(Bound::Floor)));
        assert_eq!(span.against(0.25), None);
        assert_eq!(Span::new(&config, 0.25, 0.39, 1.0).high_by, Bound::MaxDrift);
    }

    #[test]
    fn what_is_reachable_leaves_room_for_the_others() {
        let spans = [Span::of(0.05, 0.9), Span::of(0.2, 0.6), Span::of(0.1, 0.6)];
        let found = reachable(&spans);
        assert!((found[0].1 - 0.7).abs() < 1e-12 && (found[0].0 - 0.05).abs() < 1e-12, "{found:?}");
    }
}
