//! The lines of a chart: what was measured, and the fewer points that are drawn of it.

use crate::report::reduce::{Point, reduce};

/// Shapes on a line that is told by them.
const GLYPHS_PER_LINE: usize = 12;
/// The first of so many parts of a line is its start.
const STARTING: usize = 20;
/// How many times as high as the rest the start of a single short line may be, and still be what it is to be seen against.
const NEAR: f64 = 2.0;
/// Points of a short line.
const SHORT: usize = 8;
/// An axis that is longer by this factor for the start of its lines is squeezed.
const SQUEEZED: f64 = 2.5;

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// What is drawn: a domain, a module.
    pub name: String,
    /// The run it is of.
    pub run: String,
    /// Number of its colour.
    pub colour: usize,
    /// Number of its dash.
    pub dash: usize,
    /// What is drawn, by rising x: several neighbouring values may be one point.
    pub points: Vec<Point>,
    /// What was measured, by rising x: places and values, none of them put together.
    pub values: Vec<(f64, f64)>,
}

impl Series {
    /// A line through `values`, drawn with at most `points` points; `style` is colour and dash.
    pub fn new(name: &str, run: &str, style: (usize, usize), values: Vec<(f64, f64)>, points: usize) -> Series {
        let points = reduce(&values, points);
        Series { name: name.into(), run: run.into(), colour: style.0, dash: style.1, points, values }
    }

    /// The value that was measured at `x`: the last one, where there were several.
    pub(super) fn at(&self, x: f64) -> Option<f64> {
        self.values.iter().rfind(|(place, _)| *place == x).map(|(_, value)| *value)
    }

    /// A few points of a line for its shape, one of `apart` at most, not all at the same places as those of its neighbours.
    pub(super) fn glyph_points(&self, apart: usize) -> impl Iterator<Item = &Point> {
        // A short line has its shape wherever it can.
        let apart = if self.points.len() > 2 * apart { apart } else { 1 };
        let every = self.points.len().div_ceil(GLYPHS_PER_LINE).max(apart);
        self.points.iter().skip(self.colour % every).step_by(every)
    }

    /// Whether a point of it stands for several values.
    pub(super) fn has_band(&self) -> bool {
        self.points.iter().any(|point| point.high > point.low)
    }
}

/// The top of an axis without the first points of each line, where these would take half of it or more for themselves.
pub(super) fn past_the_start(series: &[Series]) -> Option<f64> {
    let all = || series.iter().flat_map(|series| &series.points);
    let later = series.iter().flat_map(|series| {
        // Of two points neither is a start.
        let start = if series.points.len() < 3 { 0 } else { series.points.len().div_ceil(STARTING) };
        series.points.iter().skip(start)
    });
    let min = all().map(|point| point.low).fold(f64::INFINITY, f64::min);
    let max = all().map(|point| point.high).fold(f64::NEG_INFINITY, f64::max);
    let later = later.map(|point| point.high).fold(f64::NEG_INFINITY, f64::max);
    let near = matches!(series, [alone] if alone.points.len() <= SHORT) && max <= NEAR * later;
    (max - min > SQUEEZED * (later - min) && later > min && !near).then_some(later)
}
