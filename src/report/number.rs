//! Numbers as people read them: on axes, in sentences and in tables. `page/report.js` formats the values under the
//! pointer by the same rules.

use serde::Serialize;

/// What a number counts, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A plain number: losses, multipliers, norms.
    Plain,
    /// A whole number of things: steps, tokens, parameters.
    Count,
    /// A part of one, written in per cent.
    Percent,
    /// Bytes, in binary units.
    Bytes,
    /// Seconds of one action.
    Seconds,
}

impl Unit {
    /// `value` in this unit.
    pub fn text(self, value: f64) -> String {
        if !value.is_finite() {
            return "–".to_string();
        }
        match self {
            Unit::Plain => significant(value, 4),
            Unit::Count => count(value),
            Unit::Percent => format!("{} %", significant(100.0 * value, 3)),
            // A lone zero still says what it is a number of.
            Unit::Bytes if value == 0.0 => "0 B".to_string(),
            Unit::Seconds if value == 0.0 => "0 s".to_string(),
            Unit::Bytes | Unit::Seconds => self.scaled(value, self.scale(value), 3),
        }
    }

    /// `value`, or a dash where there is none.
    pub fn optional(self, value: Option<f64>) -> String {
        value.map_or("–".to_string(), |value| self.text(value))
    }
}

/// A size of a unit with its name: every number of an axis is written in one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    size: f64,
    name: &'static str,
}

impl Scale {
    /// What numbers are divided by.
    pub fn size(self) -> f64 {
        self.size
    }
}

impl Unit {
    /// The scale for numbers up to `largest`, which is that of the largest itself; none where numbers need none.
    pub fn scale(self, largest: f64) -> Option<Scale> {
        let largest = largest.abs();
        let scales: &[(f64, f64, &'static str)] = match self {
            Unit::Bytes => &BYTES,
            Unit::Seconds => &SECONDS,
            Unit::Count if largest >= COUNTED_IN_FULL => &COUNTS,
            _ => return None,
        };
        let (_, size, name) = scales.iter().find(|(from, ..)| largest >= *from)?;
        Some(Scale { size: *size, name })
    }

    /// `value` with so many significant digits in a scale that was chosen for others too.
    pub fn scaled(self, value: f64, scale: Option<Scale>, digits: usize) -> String {
        match (scale, self) {
            (Some(_), _) if value == 0.0 => "0".to_string(),
            (Some(scale), _) => format!("{} {}", significant(value / scale.size, digits), scale.name),
            (None, Unit::Percent) => format!("{} %", significant(100.0 * value, digits)),
            (None, Unit::Plain) => significant(value, digits),
            (None, _) => self.text(value),
        }
    }
}

/// From which size on, a number is divided by what and called what.
const BYTES: [(f64, f64, &str); 5] = [
    (1_099_511_627_776.0, 1_099_511_627_776.0, "TiB"),
    (1_073_741_824.0, 1_073_741_824.0, "GiB"),
    (1_048_576.0, 1_048_576.0, "MiB"),
    (1024.0, 1024.0, "KiB"),
    (0.0, 1.0, "B"),
];
const SECONDS: [(f64, f64, &str); 5] =
    [(7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms"), (0.0, 1e-6, "µs")];
const COUNTS: [(f64, f64, &str); 4] = [(1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (0.0, 1e3, "k")];
/// Below this, counts are written in full.
const COUNTED_IN_FULL: f64 = 100_000.0;

/// With so many significant digits, without trailing zeros; very large and very small ones with an exponent.
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_string() } else { "–".to_string() };
    }
    let exponent = value.abs().log10().floor() as i32;
    if !(-4..7).contains(&exponent) {
        let text = format!("{value:.*e}", digits.saturating_sub(1));
        let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", without_zeros(mantissa));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    without_zeros(&format!("{value:.decimals$}")).to_string()
}

/// With so many decimals, so that numbers of one kind, such as losses, line up; `–` where there is no number.
pub fn decimals(value: f64, decimals: usize) -> String {
    let text = if value.is_finite() { format!("{value:.decimals$}") } else { "–".to_string() };
    // What rounds to zero has no sign.
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().all(|digit| matches!(digit, '0' | '.')) => digits.to_string(),
        _ => text,
    }
}

/// The decimals that give the largest of numbers of one kind four digits; none where it is so large or so small that
/// numbers beside it may need an exponent.
pub fn shared_decimals(values: impl Iterator<Item = f64>) -> Option<usize> {
    let largest = values.filter(|value| value.is_finite()).fold(0.0, |largest: f64, value| largest.max(value.abs()));
    (0.01..1e5).contains(&largest).then(|| (3 - largest.log10().floor() as i32).clamp(0, 5) as usize)
}

fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Up to a hundred thousand in full (`12,800`), above with k, M, B or T.
pub fn count(value: f64) -> String {
    match Unit::Count.scale(value) {
        None if value.fract() == 0.0 => grouped(value as i64),
        scale => Unit::Plain.scaled(value, scale, 4),
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_string() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `a, b and c`.
pub fn listed<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => "none".to_string(),
        [only] => only.as_ref().to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// `0–3, 5, 7–8` of increasing indices.
pub fn ranges(indices: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &index in indices {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let text = |(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    };
    if runs.is_empty() { "none".to_string() } else { runs.iter().map(text).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_reading() {
        assert_eq!(Unit::Plain.text(0.831_234), "0.8312");
        assert_eq!(Unit::Plain.text(2.0), "2");
        assert_eq!(Unit::Plain.text(-5.33e-7), "-5.33e-7");
        assert_eq!(Unit::Plain.text(f64::NAN), "–");
        assert_eq!(Unit::Count.text(3200.0), "3,200");
        assert_eq!(Unit::Count.text(1_468_032.0), "1.468 M");
        assert_eq!(Unit::Count.text(-2.5e9), "-2.5 B");
        assert_eq!(Unit::Percent.text(0.2266), "22.7 %");
        assert_eq!(Unit::Bytes.text(361_054_208.0), "344 MiB");
        assert_eq!(Unit::Seconds.text(0.0123), "12.3 ms");
        assert_eq!(Unit::Seconds.text(-90.0), "-90 s");
        assert_eq!(Unit::Plain.optional(None), "–");
    }

    #[test]
    fn losses_keep_their_zeros() {
        assert_eq!([1.6, 6.0934, 7.64].map(|loss| decimals(loss, 3)), ["1.600", "6.093", "7.640"]);
        assert_eq!(decimals(f64::NAN, 3), "–");
        assert_eq!([-0.0004, -0.0006].map(|loss| decimals(loss, 3)), ["0.000", "-0.001"]);
        let shared = |values: &[f64]| shared_decimals(values.iter().copied());
        assert_eq!(shared(&[5.3, -7.2, f64::NAN]), Some(3));
        assert_eq!((shared(&[15.25]), shared(&[0.15]), shared(&[1e-5]), shared(&[])), (Some(2), Some(4), None, None));
    }

    #[test]
    fn lists_and_ranges_read_like_sentences() {
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
        assert_eq!(listed::<&str>(&[]), "none");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7, 8");
        assert_eq!(ranges(&[]), "none");
    }
}
