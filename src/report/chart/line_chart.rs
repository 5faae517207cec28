//! Lines over steps or tokens: one per series, with a band from the smallest to the largest value where a point stands
//! for several steps, and marks along the upper edge for what happened meanwhile.

use super::caption::{Caption, DataTable, Form};
use super::frame::{Area, drawing, label, x_axis, y_axis};
use super::legend::{LegendEntry, entries};
use super::line_spec::{LineSpec, Mark};
use super::scale::Axis;
use super::series::{Series, past_the_start};
use super::style::{classes, glyph};
use crate::report::markup::Markup;
use crate::report::number::{Unit, decimals, shared_decimals};
use crate::report::reduce::Point;
use crate::words::counted;
use serde_json::{Value, json};
use std::fmt::Write;

const HEIGHT: f64 = 300.0;
const AREA: Area = Area { left: 66.0, top: 30.0, width: 558.0, height: 222.0 };
/// Rows of the table that stands for the drawing.
const TABLE_ROWS: usize = 24;
/// Fewer points than this are shown as dots on the line.
const DOTTED: usize = 41;
/// On a line of steps one point of so many has a shape, each line others: several lie close to one another.
const STEPPED_GLYPHS: usize = 3;
/// Bands of more lines would hide one another.
const BANDS: usize = 8;

/// A line chart, ready to be drawn.
#[derive(Clone, Debug)]
pub struct LineChart {
    /// Name, headline, reading aid.
    pub caption: Caption,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Lines.
    pub series: Vec<Series>,
    /// What happened.
    pub marks: Vec<Mark>,
    /// Places where one run ends and another goes on.
    pub borders: Vec<Mark>,
    /// Whether a value holds until the next point.
    stepped: bool,
}

impl LineChart {
    /// A chart of the series that have points; `None` when there are none.
    pub fn build(spec: LineSpec, series: Vec<Series>, marks: Vec<Mark>, borders: Vec<Mark>) -> Option<LineChart> {
        let series: Vec<Series> = series.into_iter().filter(|series| !series.points.is_empty()).collect();
        if series.is_empty() {
            return None;
        }
        let points = || series.iter().flat_map(|series| &series.points);
        let x = Axis::fit(&spec.x_label, Unit::Count, false, &[0.0], points().map(|point| point.x));
        let values = points().flat_map(|point| [point.low, point.high]);
        let start = spec.past_the_start.then(|| past_the_start(&series)).flatten();
        let values = values.map(|value| value.min(start.unwrap_or(f64::INFINITY)));
        let y = Axis::fit(&spec.y_label, spec.unit, spec.log, &spec.include, values);
        Some(LineChart { caption: spec.caption, x, y, series, marks, borders, stepped: spec.stepped })
    }

    /// What the colours and dashes mean.
    pub fn legend(&self) -> Vec<LegendEntry> {
        entries(self.series.iter().map(|s| (s.name.as_str(), s.run.as_str(), s.colour, s.dash)))
    }

    /// The drawing.
    pub fn svg(&self, form: Form) -> Markup {
        drawing(&self.caption, form, &self.legend(), HEIGHT, |out| {
            y_axis(out, &AREA, &self.y, form);
            x_axis(out, &AREA, &self.x);
            self.draw_marks(out);
            self.draw_borders(out);
            if let Some(above) = self.above() {
                label(out, AREA.left + AREA.width, AREA.top - 10.0, "end", &above);
            }
            for (series, (name, run)) in self.series.iter().zip(self.numbers()) {
                self.draw_series(out, series, name, run);
            }
        })
    }

    /// Number of name and of run of every series, as the legend counts them.
    fn numbers(&self) -> Vec<(usize, usize)> {
        let (mut names, mut runs) = (Vec::new(), Vec::new());
        fn number<'a>(known: &mut Vec<&'a str>, text: &'a str) -> usize {
            known.iter().position(|other| *other == text).unwrap_or_else(|| {
                known.push(text);
                known.len() - 1
            })
        }
        self.series.iter().map(|s| (number(&mut names, &s.name), number(&mut runs, &s.run))).collect()
    }

    fn draw_series(&self, out: &mut Markup, series: &Series, name: usize, run: usize) {
        let class = format!("series {}", classes(series.colour, series.dash));
        out.element("g", &[("class", &class), ("data-name", &name), ("data-run", &run)], |group| {
            if series.has_band() && self.series.len() <= BANDS {
                group.leaf("path", &[("class", &"band"), ("d", &self.band(series))]);
            }
            group.leaf("path", &[("class", &"line"), ("d", &self.line(series))]);
            let few = series.points.len() < DOTTED && !self.stepped && series.dash != super::style::REFERENCE_DASH;
            let glyph = glyph(series.colour);
            // A single point makes no line.
            if glyph.is_none() && (few || series.points.len() == 1) {
                for point in series.points.iter().filter(|point| point.mean <= self.y.max) {
                    let (x, y) = self.at(point.x, point.mean);
                    group.leaf("circle", &[("class", &"dot"), ("cx", &x), ("cy", &y), ("r", &2.2)]);
                }
            }
            let apart = if self.stepped { STEPPED_GLYPHS } else { 1 };
            for point in glyph.iter().flat_map(|_| series.glyph_points(apart)).filter(|point| point.mean <= self.y.max)
            {
                let (x, y) = self.at(point.x, point.mean);
                let (shape, place) = (glyph.unwrap_or_default(), format!("translate({x} {y})"));
                group.leaf("path", &[("class", &"glyph"), ("d", &shape), ("transform", &place)]);
            }
        });
    }

    /// What the axis leaves out above, in words.
    fn above(&self) -> Option<String> {
        let highest = |series: &Series| series.points.iter().map(|point| point.mean).fold(f64::NEG_INFINITY, f64::max);
        let above: Vec<(&Series, f64)> =
            self.series.iter().map(|s| (s, highest(s))).filter(|(_, value)| *value > self.y.max).collect();
        let top = above.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
        let top = self.y.unit.text(top);
        match above.as_slice() {
            [] => None,
            [(series, _)] => Some(format!("off the scale: {} starts at {top}", shortened(&series.name))),
            several => Some(format!("off the scale: the start of {} lines, up to {top}", several.len())),
        }
    }

    fn draw_borders(&self, out: &mut Markup) {
        let mut free_from = f64::NEG_INFINITY;
        for border in &self.borders {
            let x = AREA.x(self.x.place(border.x));
            let path = format!("M{x:.1} {:.1}v{:.1}", AREA.top, AREA.height);
            out.element("path", &[("class", &"border"), ("d", &path)], |inner| {
                inner.text_element("title", &[], &border.text);
            });
            let text = shortened(&border.text);
            let width = 7.0 * text.chars().count() as f64;
            let (from, place, anchor) = match x + 5.0 + width < AREA.left + AREA.width {
                true => (x + 5.0, x + 5.0, "start"),
                false => (x - 5.0 - width, x - 5.0, "end"),
            };
            // Names that would lie on one another are left to the line's own title.
            if from >= free_from {
                label(out, place, AREA.top + 13.0, anchor, &text);
                free_from = from + width;
            }
        }
    }

    fn at(&self, x: f64, y: f64) -> (Tenth, Tenth) {
        (Tenth(AREA.x(self.x.place(x))), Tenth(AREA.y(self.y.place(y))))
    }

    fn line(&self, series: &Series) -> String {
        let mut path = String::new();
        let mut before: Option<&Point> = None;
        for point in &series.points {
            let inside = point.mean <= self.y.max;
            let was_inside = before.is_some_and(|before| before.mean <= self.y.max);
            // Where a line crosses the upper end of the axis it is cut, so that its slope stays right.
            if let Some(before) = before.filter(|_| inside != was_inside) {
                let part = (self.y.max - before.mean) / (point.mean - before.mean);
                let (x, y) = self.at(before.x + part * (point.x - before.x), self.y.max);
                let _ = write!(path, "{}{x} {y}", if inside { 'M' } else { 'L' });
            }
            if inside {
                let (x, y) = self.at(point.x, point.mean);
                if let Some(before) = before.filter(|_| self.stepped && was_inside) {
                    let _ = write!(path, "L{x} {}", self.at(point.x, before.mean).1);
                }
                let _ = write!(path, "{}{x} {y}", if before.is_none() { 'M' } else { 'L' });
            }
            before = Some(point);
        }
        path
    }

    fn band(&self, series: &Series) -> String {
        let above = series.points.iter().map(|point| (point.x, point.high));
        let below = series.points.iter().rev().map(|point| (point.x, point.low));
        let mut path = String::new();
        for (x, y) in above.chain(below) {
            let (x, y) = self.at(x, y);
            let _ = write!(path, "{}{x} {y}", if path.is_empty() { 'M' } else { 'L' });
        }
        path + "Z"
    }

    fn draw_marks(&self, out: &mut Markup) {
        for mark in self.marks.iter().filter(|mark| (self.x.min..=self.x.max).contains(&mark.x)) {
            let x = Tenth(AREA.x(self.x.place(mark.x)));
            let path = format!("M{x} {}l-3.5 -7h7z", AREA.top);
            // The kind is one of our own words; anything else gets the plain colour.
            let class = if mark.kind == "skip" { "mark skip" } else { "mark" };
            out.element("path", &[("class", &class), ("d", &path)], |inner| {
                inner.text_element("title", &[], &mark.text);
            });
        }
    }

    /// The values at up to 24 places. Every row is a place at which something was measured, and what was not measured
    /// there has no value in it.
    pub fn table(&self) -> DataTable {
        let several = self.series.iter().any(|series| series.run != self.series[0].run);
        let head = |s: &Series| {
            if several && !s.name.starts_with(&s.run) { format!("{} · {}", s.run, s.name) } else { s.name.clone() }
        };
        let header = std::iter::once(self.x.label.clone()).chain(self.series.iter().map(head)).collect();
        let row = |x: f64| {
            let values =
                self.series.iter().map(|series| series.at(x).map_or("–".to_string(), |value| self.text(value)));
            std::iter::once(self.x.unit.text(x)).chain(values).collect()
        };
        DataTable { header, rows: chosen(self.places(), TABLE_ROWS).into_iter().map(row).collect() }
    }

    /// What part of the places the table has, where it has not all of them: `24 of 28 steps`.
    pub fn selection(&self) -> Option<String> {
        let mut places = self.places();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let noun = if self.x.label == "step" { "step" } else { "place" };
        let all = places.len();
        (all > TABLE_ROWS).then(|| format!("{TABLE_ROWS} of {}", counted(all as u64, noun)))
    }

    /// Where something was measured: a place as often as there are lines that have a value there.
    fn places(&self) -> Vec<f64> {
        self.series.iter().flat_map(|series| series.values.iter().map(|(x, _)| *x)).collect()
    }

    /// Decimals that all its values have, so that they line up; none where they need different ones.
    fn decimals(&self) -> Option<usize> {
        let values = self.series.iter().flat_map(|series| series.values.iter().map(|(_, value)| *value));
        Some(values).filter(|_| self.y.unit == Unit::Plain && !self.y.log).and_then(shared_decimals)
    }

    fn text(&self, value: f64) -> String {
        self.decimals().map_or_else(|| self.y.unit.text(value), |digits| decimals(value, digits))
    }

    /// Axes, columns and marks.
    pub fn data(&self) -> Value {
        let series = self.series.iter().zip(self.numbers()).map(|(series, (name, run))| {
            let column = |value: fn(&Point) -> f64| series.points.iter().map(|p| rounded(value(p))).collect::<Vec<_>>();
            let mut data = json!({
                "name": series.name, "run": series.run, "name_index": name, "run_index": run,
                "x": column(|p| p.x), "y": column(|p| p.mean),
            });
            if let Some(glyph) = glyph(series.colour) {
                data["glyph"] = json!(glyph);
            }
            if series.has_band() {
                data["low"] = json!(column(|p| p.low));
                data["high"] = json!(column(|p| p.high));
            }
            data
        });
        let marks = self
            .marks
            .iter()
            .chain(&self.borders)
            .map(|m| json!({ "x": m.x, "run": m.run, "kind": m.kind, "text": m.text }));
        json!({
            "kind": "line", "title": self.caption.title, "area": AREA, "x": self.x, "y": self.y,
            "series": series.collect::<Vec<_>>(), "marks": marks.collect::<Vec<_>>(),
        })
    }
}

/// Names of any length, so that they do not run over the drawing.
fn shortened(name: &str) -> String {
    if name.chars().count() <= 40 { name.to_string() } else { name.chars().take(39).chain(['…']).collect() }
}

/// At most `rows` of the places, spread evenly: of neighbours the one that occurs most often, so that lines measured now
/// and then are not missed between those measured always; the first and the last of equals at the ends.
fn chosen(mut places: Vec<f64>, rows: usize) -> Vec<f64> {
    places.sort_by(f64::total_cmp);
    let places: Vec<(f64, usize)> =
        places.chunk_by(|a, b| a == b).filter_map(|same| Some((*same.first()?, same.len()))).collect();
    let rows = rows.min(places.len());
    let group = |row: usize| {
        let (from, to) = (row * places.len() / rows, (row + 1) * places.len() / rows);
        let group = places.get(from..to)?.iter();
        let count = |place: &&(f64, usize)| place.1;
        let most = if row == 0 { group.rev().max_by_key(count) } else { group.max_by_key(count) };
        most.map(|place| place.0)
    };
    (0..rows).filter_map(group).collect()
}

/// Six significant digits: more than a drawing shows, and half the bytes.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// A coordinate with one decimal at most.
struct Tenth(f64);

impl std::fmt::Display for Tenth {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let rounded = (self.0 * 10.0).round() / 10.0;
        write!(f, "{rounded}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: &[(&str, Vec<(f64, f64)>)]) -> LineChart {
        let series = lines.iter().map(|(name, values)| Series::new(name, "run", (0, 0), values.clone(), 50)).collect();
        let spec = LineSpec::new(Caption::new("id", "title", "about"), "step", "loss", Unit::Plain);
        LineChart::build(spec, series, Vec::new(), Vec::new()).unwrap()
    }

    #[test]
    fn one_high_start_does_not_squeeze_the_rest() {
        let line = |name: &str, values: &[f64]| {
            let places = values.iter().enumerate().map(|(at, value)| (at as f64, *value));
            Series::new(name, name, (0, 0), places.collect(), 50)
        };
        let drawn = |series: Vec<Series>| {
            let spec =
                LineSpec::new(Caption::new("id", "title", "about"), "step", "loss", Unit::Plain).past_the_start();
            LineChart::build(spec, series, Vec::new(), Vec::new()).unwrap()
        };
        let high = line("one-shot", &[15.25, 5.7, 5.2, 4.9]);
        let chart = drawn(vec![high.clone(), line("learned", &[2.5, 5.9, 4.1, 3.9])]);
        assert!(chart.y.max < 7.0 && chart.y.min < 2.5, "{:?}", chart.y);
        assert_eq!(chart.above().unwrap(), "off the scale: one-shot starts at 15.25");
        assert!(chart.svg(Form::Page).as_str().contains("one-shot starts at 15.25"));
        let path = chart.line(&chart.series[0]);
        let first: f64 = path[1..].split(' ').next().unwrap().parse().unwrap();
        assert!(first > AREA.left && path.matches('M').count() == 1, "it begins where it comes into sight: {path}");
        assert_eq!(chart.table().rows[0][1], "15.25", "the numbers are all there");
        let two = drawn(vec![high, line("b", &[14.0, 5.0, 4.5, 4.4])]);
        assert_eq!(two.above().unwrap(), "off the scale: the start of 2 lines, up to 15.25");
        let falling = drawn(vec![line("a", &[4.0, 3.0, 2.5, 2.2])]);
        assert!(falling.above().is_none() && falling.y.max >= 4.0);
        assert!(drawn(vec![line("a", &[15.0, 2.0])]).above().is_none(), "of two points neither is left out");
    }

    #[test]
    fn what_holds_until_the_next_point_is_drawn_as_steps() {
        let values = vec![(0.0, 0.25), (10.0, 0.5), (20.0, 0.5)];
        let spec = LineSpec::new(Caption::new("id", "title", "about"), "step", "share", Unit::Percent).stepped();
        let series = vec![Series::new("a", "run", (0, 0), values, 50)];
        let chart = LineChart::build(spec, series, Vec::new(), Vec::new()).unwrap();
        let path = chart.line(&chart.series[0]);
        let corners: Vec<(&str, &str)> =
            path.split(['M', 'L']).skip(1).map(|corner| corner.split_once(' ').unwrap()).collect();
        for pair in corners.windows(2) {
            assert!(pair[0].0 == pair[1].0 || pair[0].1 == pair[1].1, "no slope: {path}");
        }
        assert_eq!(corners.len(), 5, "{path}");
        assert!(!chart.svg(Form::Page).as_str().contains("<circle"));
    }

    #[test]
    fn a_cell_without_a_measurement_is_a_dash() {
        let chart = chart(&[("a", vec![(0.0, 5.0), (24.0, 4.625)]), ("b", vec![(0.0, 7.0), (20.0, 6.0), (40.0, 3.0)])]);
        let rows = [["0", "5.000", "7.000"], ["20", "–", "6.000"], ["24", "4.625", "–"], ["40", "–", "3.000"]];
        assert_eq!(chart.table().rows, rows.map(|row| row.map(String::from).to_vec()));
        assert_eq!(chart.selection(), None, "the table has all of them");
    }

    #[test]
    fn a_long_table_has_measured_values_of_every_line() {
        // Single steps, of which a drawn point stands for several, and an evaluation every 100 steps.
        let always: Vec<(f64, f64)> = (1..=1000).map(|step| (f64::from(step), f64::from(step % 7) + 0.5)).collect();
        let seldom: Vec<(f64, f64)> = (0..=10).map(|eval| (f64::from(100 * eval), f64::from(eval))).collect();
        let chart = chart(&[("always", always), ("seldom", seldom)]);
        let table = chart.table();
        assert_eq!(table.rows.len(), TABLE_ROWS);
        assert_eq!(chart.selection().unwrap(), "24 of 1,001 steps");
        assert_eq!(table.rows.last().unwrap()[0], "1,000");
        for row in &table.rows {
            let step: u32 = row[0].replace(',', "").parse().unwrap();
            assert_eq!(row[1], if step == 0 { "–".into() } else { format!("{:.2}", f64::from(step % 7) + 0.5) });
            let seldom = if step.is_multiple_of(100) { format!("{:.2}", f64::from(step / 100)) } else { "–".into() };
            assert_eq!(row[2], seldom, "{row:?}");
        }
        assert!(table.rows.iter().filter(|row| row[2] != "–").count() >= 10, "{:?}", table.rows);
    }
}
