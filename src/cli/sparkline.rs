//! A curve in one line of text: eight heights from its lowest to its highest value, a blank where there is nothing.

const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

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
    // A constant is a line in the middle, not one at the bottom.
    let part = if high > low { (value - low) / (high - low) } else { 0.45 };
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
        assert_eq!(sparkline(&ramp, 0), "");
    }
}
