//! Figures: drawn once, here, as SVG. The page inlines the drawing, so that it reads without script, and embeds the
//! numbers beside it, from which the script shows values; `--svg` and `--png` write the same drawing to files.
//!
//! A figure knows nothing of runs: it is given names, columns and cells.

mod caption;
mod frame;
mod heat_map;
mod legend;
mod line_chart;
mod line_spec;
mod row_chart;
mod scale;
mod series;
mod style;

pub use caption::{Caption, DataTable, Form};
pub use heat_map::{HeatFrame, HeatMap};
pub use legend::{LegendEntry, Switch};
pub use line_chart::LineChart;
pub use line_spec::{LineSpec, Mark};
pub use row_chart::{RowChart, RowEntry, RowMark, reach};
pub use scale::Axis;
pub use series::Series;
pub use style::{COLOURS, REFERENCE_DASH, RUN_DASHES, classes, glyph};

use super::markup::Markup;
use serde_json::Value;

/// Any figure.
#[derive(Clone, Debug)]
pub enum Figure {
    /// Lines over steps or tokens.
    Line(LineChart),
    /// Cells coloured by value, with a slider over time.
    Map(HeatMap),
    /// Dots or bars by row.
    Rows(RowChart),
}

impl Figure {
    /// Name, headline and reading aid.
    pub fn caption(&self) -> &Caption {
        match self {
            Figure::Line(chart) => &chart.caption,
            Figure::Map(map) => &map.caption,
            Figure::Rows(chart) => &chart.caption,
        }
    }

    /// The drawing.
    pub fn svg(&self, form: Form) -> Markup {
        match self {
            Figure::Line(chart) => chart.svg(form),
            Figure::Map(map) => map.svg(form),
            Figure::Rows(chart) => chart.svg(form),
        }
    }

    /// The numbers as a table, thinned out where there are very many.
    pub fn table(&self) -> DataTable {
        match self {
            Figure::Line(chart) => chart.table(),
            Figure::Map(map) => map.table(),
            Figure::Rows(chart) => chart.table(),
        }
    }

    /// What part of its places the table of a line chart has, where it is thinned out.
    pub fn selection(&self) -> Option<String> {
        match self {
            Figure::Line(chart) => chart.selection(),
            Figure::Map(_) | Figure::Rows(_) => None,
        }
    }

    /// The numbers as the script reads them.
    pub fn data(&self) -> Value {
        match self {
            Figure::Line(chart) => chart.data(),
            Figure::Map(map) => map.data(),
            Figure::Rows(chart) => chart.data(),
        }
    }

    /// The legend: entries that can be switched on and off in the page.
    pub fn legend(&self) -> Vec<LegendEntry> {
        match self {
            Figure::Line(chart) => chart.legend(),
            Figure::Map(_) => Vec::new(),
            Figure::Rows(chart) => chart.legend(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::number::Unit;

    /// One figure of each kind, with names that want to be markup.
    pub(crate) fn samples() -> Vec<Figure> {
        let hostile = "</svg><script>alert('x')</script>\"&\0";
        let values = (0..100).map(|i| (f64::from(i), f64::from(i / 2).sin() + 0.1 * f64::from(i % 2)));
        let series = Series::new(hostile, hostile, (9, 1), values.collect(), 50);
        let second = Series { name: "plain".into(), run: "other".into(), colour: 2, dash: 3, ..series.clone() };
        let mark = Mark { x: 10.0, run: hostile.into(), kind: "skip".into(), text: hostile.into() };
        let spec = LineSpec::new(Caption::new("line", hostile, hostile), "step", hostile, Unit::Plain);
        let frames = (1..4).map(|step| HeatFrame { step, cells: vec![20 * step as u8; 6], numbers: vec![] });
        vec![
            Figure::Line(LineChart::build(spec, vec![series, second], vec![mark.clone()], vec![mark]).unwrap()),
            Figure::Map(
                HeatMap::build(
                    Caption::new("map", hostile, hostile),
                    "layer",
                    "head",
                    3,
                    vec![true, false, true, true, false, false],
                    frames.collect(),
                )
                .unwrap(),
            ),
            Figure::Rows(
                RowChart::build(
                    Caption::new("rows", hostile, hostile),
                    Axis::fit("loss", Unit::Plain, false, &[], [1.0, 2.0].into_iter()),
                    RowMark::Dot,
                    vec![hostile.into(), "b".into()],
                    vec![RowEntry { name: hostile.into(), colour: 0, values: vec![Some((1.0, Some(0.1))), None] }],
                )
                .unwrap(),
            ),
        ]
    }

    #[test]
    fn drawings_are_well_formed_whatever_the_names_are() {
        for figure in samples() {
            for form in [Form::Page, Form::File] {
                let svg = figure.svg(form).into_string();
                let document = svg.replace("<svg class", "<svg xmlns=\"http://www.w3.org/2000/svg\" class");
                let text = if form == Form::Page { &document } else { &svg };
                let tree =
                    resvg::usvg::roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert!(!tree.descendants().any(|node| node.has_tag_name("script")));
                let titles = tree.descendants().filter(|node| node.tag_name().name() == "title").count();
                assert!(titles > 0, "a drawing has a title");
            }
        }
    }

    #[test]
    fn tables_and_data_hold_the_numbers() {
        for figure in samples() {
            let table = figure.table();
            assert!(!table.rows.is_empty() && table.rows.len() <= 40);
            assert!(table.rows.iter().all(|row| row.len() == table.header.len()), "{table:?}");
            assert!(figure.data().is_object());
        }
    }
}
