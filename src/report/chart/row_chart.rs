//! Quantities side by side: a row per domain, part or model, in it a dot (with the standard error as whiskers) or a bar
//! per entry. Bars start at zero, dots need not.

use super::caption::{Caption, DataTable, Form};
use super::frame::{Area, WIDTH, drawing, label, x_axis};
use super::legend::{LegendEntry, Switch};
use super::scale::Axis;
use super::style::{classes, glyph};
use crate::report::markup::Markup;
use crate::report::number::{Unit, decimals, shared_decimals};
use serde_json::{Value, json};

const LEFT: f64 = 150.0;
const TOP: f64 = 8.0;
/// Rows beyond this are not drawn: the table has them.
const MAX_DRAWN_ROWS: usize = 60;

/// How values are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMark {
    /// Places on a line.
    Dot,
    /// Lengths from zero.
    Bar,
}

/// A value and its standard error.
pub type Measured = (f64, Option<f64>);

/// One colour: a value per row.
#[derive(Clone, Debug)]
pub struct RowEntry {
    /// Its name.
    pub name: String,
    /// Number of its colour.
    pub colour: usize,
    /// By row.
    pub values: Vec<Option<Measured>>,
}

/// A chart of rows.
#[derive(Clone, Debug)]
pub struct RowChart {
    /// Name, headline, reading aid.
    pub caption: Caption,
    axis: Axis,
    mark: RowMark,
    rows: Vec<String>,
    entries: Vec<RowEntry>,
}

/// All values with their errors on both sides: what an axis has to show.
pub fn reach(entries: &[RowEntry]) -> Vec<f64> {
    let values = entries.iter().flat_map(|entry| entry.values.iter().flatten());
    values.flat_map(|(value, error)| [value - error.unwrap_or(0.0), value + error.unwrap_or(0.0)]).collect()
}

impl RowChart {
    /// A chart; `None` when no entry has a finite value.
    pub fn build(
        caption: Caption,
        axis: Axis,
        mark: RowMark,
        rows: Vec<String>,
        entries: Vec<RowEntry>,
    ) -> Option<RowChart> {
        let has_value = |entry: &RowEntry| entry.values.iter().flatten().any(|(value, _)| value.is_finite());
        let entries: Vec<RowEntry> = entries.into_iter().filter(has_value).collect();
        if rows.is_empty() || entries.is_empty() { None } else { Some(RowChart { caption, axis, mark, rows, entries }) }
    }

    /// What the colours mean.
    pub fn legend(&self) -> Vec<LegendEntry> {
        let entry = |(index, entry): (usize, &RowEntry)| LegendEntry {
            switch: Switch::Name,
            index,
            label: entry.name.clone(),
            classes: classes(entry.colour, 0),
            glyph: glyph(entry.colour),
        };
        self.entries.iter().enumerate().map(entry).collect()
    }

    fn drawn_rows(&self) -> impl Iterator<Item = (usize, &String)> {
        self.rows.iter().enumerate().take(MAX_DRAWN_ROWS)
    }

    /// Height of a row.
    fn row_height(&self) -> f64 {
        match self.mark {
            RowMark::Dot => 26.0,
            RowMark::Bar => 10.0 + 15.0 * self.entries.len() as f64,
        }
    }

    /// The drawing.
    pub fn svg(&self, form: Form) -> Markup {
        let height = self.row_height() * self.drawn_rows().count() as f64;
        // Bars have their value written behind them.
        let right = if self.mark == RowMark::Bar { 84.0 } else { 20.0 };
        let area = Area { left: LEFT, top: TOP, width: WIDTH - LEFT - right, height };
        drawing(&self.caption, form, &self.legend(), TOP + height + 44.0, |out| {
            x_axis(out, &area, &self.axis);
            for (index, name) in self.drawn_rows() {
                let middle = TOP + self.row_height() * (index as f64 + 0.5);
                label(out, LEFT - 10.0, middle + 4.5, "end", &shortened(name));
            }
            for (index, entry) in self.entries.iter().enumerate() {
                self.draw_entry(out, &area, index, entry);
            }
        })
    }

    fn draw_entry(&self, out: &mut Markup, area: &Area, index: usize, entry: &RowEntry) {
        let class = format!("series {}", classes(entry.colour, 0));
        out.element("g", &[("class", &class), ("data-name", &index)], |group| {
            for ((row, name), value) in self.drawn_rows().zip(&entry.values) {
                let Some((value, error)) = value.filter(|(value, _)| value.is_finite()) else { continue };
                let top = TOP + self.row_height() * row as f64;
                let tip = format!("{name}, {}: {}", entry.name, self.text(value, error));
                match self.mark {
                    RowMark::Dot => {
                        let y = top + self.row_height() / 2.0;
                        self.draw_dot(group, area, y, (value, error), glyph(entry.colour), &tip);
                    }
                    RowMark::Bar => self.draw_bar(group, area, top + 5.0 + 15.0 * index as f64, value, &tip),
                }
            }
        });
    }

    fn draw_dot(
        &self,
        out: &mut Markup,
        area: &Area,
        y: f64,
        (value, error): Measured,
        glyph: Option<&'static str>,
        tip: &str,
    ) {
        let at = |value: f64| format!("{:.1}", area.x(self.axis.place(value)));
        if let Some(error) = error.filter(|error| error.is_finite()) {
            let path = format!("M{} {y:.1}H{}", at(value - error), at(value + error));
            out.leaf("path", &[("class", &"whisker"), ("d", &path)]);
        }
        let (x, y) = (at(value), format!("{y:.1}"));
        let Some(glyph) = glyph else {
            out.leaf("circle", &[("class", &"dot"), ("cx", &x), ("cy", &y), ("r", &5), ("data-tip", &tip)]);
            return;
        };
        let place = format!("translate({x} {y}) scale(1.3)");
        let dot: [(&'static str, &dyn std::fmt::Display); 5] =
            [("class", &"dot"), ("d", &glyph), ("transform", &place), ("data-x", &x), ("data-tip", &tip)];
        out.leaf("path", &dot);
    }

    fn draw_bar(&self, out: &mut Markup, area: &Area, y: f64, value: f64, tip: &str) {
        let (zero, end) = (area.x(self.axis.place(0.0)), area.x(self.axis.place(value)));
        let (x, width) = (format!("{:.1}", zero.min(end)), format!("{:.1}", (end - zero).abs().max(1.0)));
        let top = format!("{y:.1}");
        out.leaf(
            "rect",
            &[("class", &"bar"), ("x", &x), ("y", &top), ("width", &width), ("height", &13), ("data-tip", &tip)],
        );
        label(out, zero.max(end) + 5.0, y + 11.0, "start", &self.axis.unit.text(value));
    }

    fn text(&self, value: f64, error: Option<f64>) -> String {
        let all = self.entries.iter().flat_map(|entry| entry.values.iter().flatten().map(|(value, _)| *value));
        let digits = Some(all).filter(|_| self.axis.unit == Unit::Plain).and_then(shared_decimals);
        let text = |value: f64| digits.map_or_else(|| self.axis.unit.text(value), |digits| decimals(value, digits));
        error.map_or(text(value), |error| format!("{} ± {}", text(value), text(error)))
    }

    /// All values.
    pub fn table(&self) -> DataTable {
        let header = std::iter::once(String::new()).chain(self.entries.iter().map(|entry| entry.name.clone()));
        let row = |(index, name): (usize, &String)| {
            let value = |entry: &RowEntry| entry.values.get(index).copied().flatten();
            let values = self.entries.iter().map(|e| value(e).map_or("–".into(), |(v, error)| self.text(v, error)));
            std::iter::once(name.clone()).chain(values).collect()
        };
        DataTable { header: header.collect(), rows: self.rows.iter().enumerate().map(row).collect() }
    }

    /// Rows and values.
    pub fn data(&self) -> Value {
        let entry = |entry: &RowEntry| {
            json!({
                "name": entry.name,
                "values": entry.values.iter().map(|v| v.map(|v| v.0)).collect::<Vec<_>>(),
                "errors": entry.values.iter().map(|v| v.and_then(|v| v.1)).collect::<Vec<_>>(),
            })
        };
        json!({
            "kind": "rows", "title": self.caption.title, "axis": self.axis, "rows": self.rows,
            "entries": self.entries.iter().map(entry).collect::<Vec<_>>(),
        })
    }
}

/// Names of any length, so that they fit beside the plot.
fn shortened(name: &str) -> String {
    if name.chars().count() <= 18 { name.to_string() } else { name.chars().take(17).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_not_drawn_are_in_the_table() {
        let count = MAX_DRAWN_ROWS + 40;
        let rows: Vec<String> = (0..count).map(|row| format!("domain {row}")).collect();
        let values = (0..count).map(|row| Some((row as f64, None))).collect();
        let entry = RowEntry { name: "loss".into(), colour: 0, values };
        let axis = Axis::fit("loss", Unit::Plain, false, &[0.0], [count as f64].into_iter());
        let chart = RowChart::build(Caption::new("rows", "", ""), axis, RowMark::Dot, rows, vec![entry]).unwrap();
        let table = chart.table().rows;
        assert_eq!(table.len(), count);
        assert_eq!(table.last().unwrap()[0], format!("domain {}", count - 1));
        let svg = chart.svg(Form::Page).into_string();
        assert_eq!(svg.matches("<circle").count(), MAX_DRAWN_ROWS);
        assert!(svg.contains("domain 59") && !svg.contains("domain 60"));
    }
}
