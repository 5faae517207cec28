//! A curve in one line of text: eight heights from its lowest to its highest value, a blank where there is nothing.

const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Values that differ by less, relative to their size, are one.
const CONSTANT: f64 = 1e-6;

/// The curve of `values` in at most `width` characters; each is the mean of its part of the values.
pub fn sparkline(values: &[Option<f64>], width: usize) -> String {
    let columns = width.min(values.len());
    let part = |column: usize| values.get(column * values.len() / columns..(column + 1) * values.len() / columns);
    let means: Vec<Option<f64>> = (0..columns).map(|column| mean(part(column).unwrap_or_default())).collect();
    let known = || means.iter().copied().flatten();
    let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    means.into_iter().map(|mean| mean.map_or(' ', |mean| height(mean, low, high))).collect()
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = values.iter().copied().flatten().filter(|value| value.is_finite()).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

fn height(value: f64, low: f64, high: f64) -> char {
    // A constant is a line in the middle, not one at the bottom; means of equal numbers differ in their last digits.
    let constant = high - low <= CONSTANT * high.abs().max(low.abs());
    let part = if constant { 0.45 } else { (value - low) / (high - low) };
    let index = (part * HEIGHTS.len() as f64) as usize;
    HEIGHTS.get(index.min(HEIGHTS.len() - 1)).copied().unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_spans_all_heights_and_keeps_its_gaps() {
        let ramp: Vec<Option<f64>> = (0..8).map(|i| Some(f64::from(i))).collect();
        assert_eq!(sparkline(&ramp, 20), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&ramp, 2), "▁█");
        assert_eq!(sparkline(&[Some(1.0), None, Some(1.0), Some(f64::NAN)], 4), "▄ ▄ ");
        assert_eq!(sparkline(&[], 10), "");
        let constant: Vec<Option<f64>> = (0..1000).map(|_| Some(0.1 + 0.2)).collect();
        assert_eq!(sparkline(&constant, 7), "▄".repeat(7), "parts of unequal length have means of other last digits");
        assert_eq!(sparkline(&[Some(0.3), Some(0.1 + 0.2)], 2), "▄▄");
        assert_eq!(sparkline(&[Some(0.0), Some(0.0)], 2), "▄▄");
        assert_eq!(sparkline(&[Some(1.0), Some(1.001)], 2), "▁█");
        assert_eq!(sparkline(&ramp, 0), "");
    }
}
