//! From values to places on the page: a linear or a logarithmic axis with round ticks.

use crate::report::number::{Scale, Unit};
use serde::Serialize;

/// One axis of a figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// How its numbers are written.
    pub unit: Unit,
    /// Equal factors instead of equal differences. Needs positive values.
    pub log: bool,
    /// The smallest value shown.
    pub min: f64,
    /// The largest value shown; above `min`.
    pub max: f64,
}

impl Axis {
    /// An axis that shows all of `values`, `include` among them. `log` is taken back where a value is not positive.
    pub fn fit(label: &str, unit: Unit, log: bool, include: &[f64], values: impl Iterator<Item = f64>) -> Axis {
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.chain(include.iter().copied()).filter(|value| value.is_finite()) {
            (min, max) = (min.min(value), max.max(value));
        }
        if min > max {
            (min, max) = (0.0, 1.0);
        }
        // Below the normal numbers a power of ten is no longer one.
        let log = log && min >= f64::MIN_POSITIVE;
        let (min, max) = if log { (min / 1.1, (max * 1.1).min(f64::MAX)) } else { with_room(min, max, include) };
        Axis { label: label.to_string(), unit, log, min, max }
    }

    /// Where `value` lies: 0 at `min`, 1 at `max`. Values outside are moved to the border.
    pub fn place(&self, value: f64) -> f64 {
        let at = |value: f64| if self.log { value.max(f64::MIN_POSITIVE).ln() } else { value };
        let place = (at(value) - at(self.min)) / (at(self.max) - at(self.min));
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// The ticks of [`Axis::ticks`] as text: all in one unit, and with digits enough to tell them apart.
    pub fn labelled(&self, wanted: usize) -> Vec<(f64, String)> {
        let ticks = self.ticks(wanted);
        let scale = self.unit.scale(self.min.abs().max(self.max.abs()));
        let text = |digits: usize| ticks.iter().map(|tick| self.unit.scaled(*tick, scale, digits)).collect::<Vec<_>>();
        let distinct = |texts: &Vec<String>| texts.windows(2).all(|pair| pair.first() != pair.last());
        // Round ticks far from zero differ in late digits only.
        let texts = [4, 6, 8].into_iter().map(text).find(distinct).unwrap_or_else(|| text(12));
        ticks.iter().copied().zip(texts).collect()
    }

    /// Round values inside the axis, about `wanted` of them.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        let ticks = if self.log { self.powers() } else { Vec::new() };
        if ticks.len() >= 2 { ticks } else { self.multiples(wanted) }
    }

    fn powers(&self) -> Vec<f64> {
        let (first, last) = (self.min.log10().ceil() as i32, self.max.log10().floor() as i32);
        // Bounds the ticks too, whatever the borders are.
        let stride = (last.saturating_sub(first) / 6).max(1) as usize;
        (first..=last).step_by(stride).map(|power| 10f64.powi(power)).collect()
    }

    fn multiples(&self, wanted: usize) -> Vec<f64> {
        let wanted = (self.max - self.min) / wanted.max(1) as f64;
        // Ticks are round in the unit in which they are written: bytes in powers of 1024, seconds in minutes or hours.
        let base = self.unit.scale(self.min.abs().max(self.max.abs())).map_or(1.0, Scale::size);
        let mut step = round_step(wanted / base) * base;
        if self.unit == Unit::Count {
            step = step.max(1.0);
        }
        let first = (self.min / step).ceil() as i64;
        let last = (self.max / step + 1e-9).floor() as i64;
        // A guard for numbers so large that a step is below their resolution.
        if !(0..=100).contains(&last.saturating_sub(first)) {
            return vec![self.min, self.max];
        }
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

/// Values that differ by less, relative to their size, are one.
const CONSTANT: f64 = 1e-6;

/// A little room above and below, none on a side that was asked for by value.
fn with_room(min: f64, max: f64, include: &[f64]) -> (f64, f64) {
    let span = max - min;
    // A constant that was added up in another order is still one.
    if span <= CONSTANT * min.abs().max(max.abs()) {
        let room = if max == 0.0 { 1.0 } else { max.abs() * 0.1 };
        return within_half(min - room, max + room);
    }
    let room = |value: f64| if include.contains(&value) { 0.0 } else { 0.04 * span };
    within_half(min - room(min), max + room(max))
}

/// Borders whose difference is still a number; values beyond them are drawn on them.
fn within_half(min: f64, max: f64) -> (f64, f64) {
    const HALF: f64 = f64::MAX / 2.0;
    // Apart, even where all values lie beyond one of them.
    (min.clamp(-HALF, HALF * 0.5), max.clamp(-HALF * 0.5, HALF))
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    if !(step.is_finite() && step > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(unit: Unit, log: bool, values: &[f64]) -> Axis {
        Axis::fit("x", unit, log, &[], values.iter().copied())
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = axis(Unit::Plain, false, &[0.651, 0.979]).ticks(5);
        assert_eq!(ticks.iter().map(|t| Unit::Plain.text(*t)).collect::<Vec<_>>(), ["0.7", "0.8", "0.9"]);
        let steps = Axis::fit("step", Unit::Count, false, &[0.0], [1.0, 3200.0].into_iter());
        assert_eq!(steps.ticks(6), [0.0, 1000.0, 2000.0, 3000.0]);
        let bytes = Axis::fit("memory", Unit::Bytes, false, &[0.0], [344.0 * 1024.0 * 1024.0].into_iter());
        let texts = |axis: &Axis| axis.labelled(5).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(&bytes), ["0", "100 MiB", "200 MiB", "300 MiB"]);
        let more = Axis::fit("memory", Unit::Bytes, false, &[0.0], [1.7 * 1024.0 * 1024.0 * 1024.0].into_iter());
        assert_eq!(texts(&more), ["0", "0.5 GiB", "1 GiB", "1.5 GiB"], "one unit");
        let counts = Axis::fit("tokens", Unit::Count, false, &[0.0], [210_000.0].into_iter());
        assert_eq!(texts(&counts), ["0", "50 k", "100 k", "150 k", "200 k"], "one unit");
        let near = texts(&Axis::fit("x", Unit::Plain, false, &[], [3.876_51, 3.876_58].into_iter()));
        assert!(near.len() > 2 && near.windows(2).all(|pair| pair[0] != pair[1]), "{near:?}");
        let constant = axis(Unit::Plain, false, &[0.1 + 0.2, 0.3]);
        assert!(constant.max - constant.min > 0.05, "noise of the last digit is no range: {constant:?}");
        assert_eq!(axis(Unit::Plain, true, &[1e-5, 1e-2]).ticks(5), [1e-5, 1e-4, 1e-3, 1e-2]);
    }

    #[test]
    fn any_values_make_an_axis() {
        for values in
            [&[][..], &[0.0], &[5.0, 5.0], &[-1e300, 1e300], &[f64::NAN, 2.0], &[1e-300, 1.0], &[1e18, 1e18 + 1e3]]
        {
            for log in [false, true] {
                let axis = axis(Unit::Plain, log, values);
                assert!(axis.min < axis.max, "{values:?}");
                assert!(axis.ticks(5).len() < 400, "{values:?}");
                for value in values {
                    assert!((0.0..=1.0).contains(&axis.place(*value)), "{values:?}");
                }
            }
        }
        assert!(!axis(Unit::Plain, true, &[0.0, 1.0]).log, "no logarithm of zero");
    }

    #[test]
    fn the_largest_numbers_have_few_and_finite_ticks() {
        for values in
            [[1e-5, 1.7e308], [5e-324, f64::MAX], [f64::MIN, f64::MAX], [f64::MAX, f64::MAX], [f64::MIN, f64::MIN]]
        {
            for log in [true, false] {
                let axis = axis(Unit::Plain, log, &values);
                let ticks = axis.ticks(5);
                assert!(axis.min < axis.max && (axis.max - axis.min).is_finite(), "{values:?}: {axis:?}");
                assert!((2..20).contains(&ticks.len()), "{values:?}: {} ticks", ticks.len());
                assert!(ticks.iter().all(|tick| (axis.min..=axis.max).contains(tick)), "{values:?}: {ticks:?}");
            }
        }
        assert!(axis(Unit::Plain, true, &[1e-5, 1.7e308]).log);
    }
}
