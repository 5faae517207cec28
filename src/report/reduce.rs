//! Fewer points of a long column without losing what one looks for: neighbouring values become one point that keeps
//! their smallest, mean and largest, so that a single spike of three thousand steps is still seen.

/// Points a line has at most: more than a screen shows apart.
pub const MAX_POINTS: usize = 240;

/// One or several neighbouring values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where: the middle one of the places that it stands for, so that it names a place with a value.
    pub x: f64,
    /// Smallest value.
    pub low: f64,
    /// Mean value.
    pub mean: f64,
    /// Largest value.
    pub high: f64,
}

/// The places of a column that have a finite value, with it.
pub fn known(x: &[f64], y: &[Option<f64>]) -> Vec<(f64, f64)> {
    let known = |(x, y): (&f64, &Option<f64>)| y.filter(|y| y.is_finite() && x.is_finite()).map(|y| (*x, y));
    x.iter().zip(y).filter_map(known).collect()
}

/// Reduces known values, by rising place, to at most `buckets` points.
pub fn reduce(known: &[(f64, f64)], buckets: usize) -> Vec<Point> {
    let size = known.len().div_ceil(buckets.max(1)).max(1);
    known.chunks(size).map(point).collect()
}

fn point(values: &[(f64, f64)]) -> Point {
    let ys = values.iter().map(|value| value.1);
    Point {
        x: values.get(values.len() / 2).map_or(0.0, |middle| middle.0),
        low: ys.clone().fold(f64::INFINITY, f64::min),
        mean: ys.clone().sum::<f64>() / values.len() as f64,
        high: ys.fold(f64::NEG_INFINITY, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_survives() {
        let x: Vec<f64> = (1..=3200).map(f64::from).collect();
        let y: Vec<Option<f64>> = x.iter().map(|x| Some(if *x == 1777.0 { 50.0 } else { 1.0 })).collect();
        let points = reduce(&known(&x, &y), MAX_POINTS);
        assert!(points.len() <= MAX_POINTS && points.len() > MAX_POINTS / 2);
        assert_eq!(points.iter().filter(|point| point.high == 50.0).count(), 1);
        assert!(points.iter().all(|point| x.contains(&point.x)), "a point lies where something was measured");
        assert!(points.iter().all(|point| point.low == 1.0 && point.low <= point.mean && point.mean <= point.high));
    }

    #[test]
    fn missing_values_are_no_points() {
        let points = reduce(&known(&[1.0, 2.0, 3.0], &[None, Some(f64::NAN), Some(4.0)]), 10);
        assert_eq!(points, [Point { x: 3.0, low: 4.0, mean: 4.0, high: 4.0 }]);
        assert_eq!(reduce(&[], 10), []);
    }
}
