//! A curve in one line of text.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The values as bars between the lowest and the highest of them, in at most `width` columns, each the mean of its
/// part of the values. A part without a number is a space.
pub fn sparkline(values: &[Option<f64>], width: usize) -> String {
    let columns = values.len().min(width);
    let part = |column: usize| &values[column * values.len() / columns..(column + 1) * values.len() / columns];
    let means: Vec<Option<f64>> = (0..columns).map(|column| mean(part(column))).collect();
    let known = || means.iter().flatten().copied();
    let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(f64::NEG_INFINITY, f64::max));
    means.iter().map(|mean| mean.map_or(' ', |mean| bar(mean, low, high))).collect()
}

fn mean(values: &[Option<f64>]) -> Option<f64> {
    let known = || values.iter().flatten().filter(|value| value.is_finite());
    (known().count() > 0).then(|| known().sum::<f64>() / known().count() as f64)
}

fn bar(value: f64, low: f64, high: f64) -> char {
    let height = if high > low { (value - low) / (high - low) } else { 0.0 };
    BARS[((height * BARS.len() as f64) as usize).min(BARS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_is_the_lowest_bar_and_the_highest_the_highest() {
        let values = [8.0, 4.0, 2.0, 1.0].map(Some);
        assert_eq!(sparkline(&values, 10), "█▄▂▁");
        assert_eq!(sparkline(&values, 2), "█▁");
        assert_eq!(sparkline(&[Some(1.0), None, Some(f64::NAN), Some(2.0)], 4), "▁  █");
        assert_eq!(sparkline(&[Some(3.0); 5], 3), "▁▁▁");
        assert_eq!(sparkline(&[], 10), "");
        assert_eq!(sparkline(&values, 0), "");
    }
}
