//! Gates as colours: a row per layer, a column per head or decile, a frame per mask snapshot. The drawing shows the
//! last frame; the page has a slider over all of them. Units that the cut keeps are outlined in every frame, so that
//! one sees where the masks are going.

use super::caption::{Caption, DataTable, Form};
use super::frame::{WIDTH, drawing, label};
use super::style::shade;
use crate::report::markup::Markup;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

const LEFT: f64 = 46.0;
const TOP: f64 = 26.0;
/// Larger maps are refused: a page of a million cells helps nobody.
const MAX_CELLS: usize = 65_536;

/// The gates at one step.
#[derive(Clone, Debug)]
pub struct HeatFrame {
    /// Finished steps.
    pub step: u64,
    /// Gates row by row: 0 closed, 255 open.
    pub cells: Vec<u8>,
    /// What else to say of that step: name and text.
    pub numbers: Vec<(String, String)>,
}

/// A heat map with its frames.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// Name, headline, reading aid.
    pub caption: Caption,
    row_name: &'static str,
    column_name: &'static str,
    columns: usize,
    kept: Vec<bool>,
    frames: Vec<HeatFrame>,
}

impl HeatMap {
    /// A map of `columns` cells a row; frames of another size are left out. `kept` outlines cells, by row; it may be
    /// empty. `None` when no frame is left.
    pub fn build(
        caption: Caption,
        row_name: &'static str,
        column_name: &'static str,
        columns: usize,
        kept: Vec<bool>,
        frames: Vec<HeatFrame>,
    ) -> Option<HeatMap> {
        let cells = frames.last()?.cells.len();
        if columns == 0 || cells == 0 || cells > MAX_CELLS || !cells.is_multiple_of(columns) {
            return None;
        }
        let frames = frames.into_iter().filter(|frame| frame.cells.len() == cells).collect();
        Some(HeatMap { caption, row_name, column_name, columns, kept, frames })
    }

    /// The frames, by rising step.
    pub fn frames(&self) -> &[HeatFrame] {
        &self.frames
    }

    fn last_cells(&self) -> &[u8] {
        self.frames.last().map_or(&[], |frame| &frame.cells)
    }

    fn rows(&self) -> usize {
        self.last_cells().len() / self.columns.max(1)
    }

    /// Width and height of a cell.
    fn cell(&self) -> (f64, f64) {
        let width = ((WIDTH - LEFT - 16.0) / self.columns as f64).min(44.0);
        let height = (400.0 / self.rows() as f64).clamp(9.0, 22.0);
        (width, height)
    }

    /// The drawing of the last frame.
    pub fn svg(&self, form: Form) -> Markup {
        let (width, height) = self.cell();
        let bottom = TOP + height * self.rows() as f64;
        drawing(&self.caption, form, &[], bottom + 70.0, |out| {
            self.draw_labels(out, width, height);
            out.element("g", &[("class", &"cells")], |out| {
                for (index, gate) in self.last_cells().iter().enumerate() {
                    let x = LEFT + width * (index % self.columns) as f64;
                    let y = TOP + height * (index / self.columns) as f64;
                    self.draw_cell(out, index, *gate, (x, y), (width, height));
                }
            });
            draw_scale(out, bottom + 46.0, self.kept.contains(&true));
        })
    }

    fn draw_cell(&self, out: &mut Markup, index: usize, gate: u8, at: (f64, f64), size: (f64, f64)) {
        let kept = self.kept.get(index).copied().unwrap_or(false);
        let class = format!("cell g{}{}", shade(gate), if kept { " kept" } else { "" });
        // A little inside, so that outlines of neighbours do not lie on one another.
        let (x, y) = (format!("{:.1}", at.0 + 0.8), format!("{:.1}", at.1 + 0.8));
        let (width, height) = (format!("{:.1}", size.0 - 1.6), format!("{:.1}", size.1 - 1.6));
        let place: [(&'static str, &dyn std::fmt::Display); 5] =
            [("class", &class), ("x", &x), ("y", &y), ("width", &width), ("height", &height)];
        out.leaf("rect", &place);
    }

    fn draw_labels(&self, out: &mut Markup, width: f64, height: f64) {
        let every = |size: f64, room: f64| (room / size).ceil().max(1.0) as usize;
        for row in (0..self.rows()).step_by(every(height, 12.0)) {
            label(out, LEFT - 6.0, TOP + height * (row as f64 + 0.5) + 4.5, "end", &row.to_string());
        }
        let bottom = TOP + height * self.rows() as f64;
        for column in (0..self.columns).step_by(every(width, 22.0)) {
            label(out, LEFT + width * (column as f64 + 0.5), bottom + 15.0, "middle", &column.to_string());
        }
        label(out, 6.0, TOP - 9.0, "start", self.row_name);
        label(out, LEFT + width * self.columns as f64 / 2.0, bottom + 33.0, "middle", self.column_name);
    }

    /// The last frame.
    pub fn table(&self) -> DataTable {
        let columns = self.columns.min(32);
        let header = std::iter::once(self.row_name.to_string()).chain((0..columns).map(|column| column.to_string()));
        let row = |(index, cells): (usize, &[u8])| {
            let values = cells.iter().take(columns).map(|gate| format!("{:.2}", f64::from(*gate) / 255.0));
            std::iter::once(index.to_string()).chain(values).collect()
        };
        let rows = self.last_cells().chunks(self.columns).enumerate().take(40).map(row).collect();
        DataTable { header: header.collect(), rows }
    }

    /// Steps, and the gates of all frames as base64 of bytes.
    pub fn data(&self) -> Value {
        let bytes: Vec<u8> = self.frames.iter().flat_map(|frame| frame.cells.iter().copied()).collect();
        let numbers =
            |frame: &HeatFrame| frame.numbers.iter().map(|(name, text)| json!([name, text])).collect::<Vec<_>>();
        json!({
            "kind": "map", "title": self.caption.title, "row": self.row_name, "column": self.column_name,
            "rows": self.rows(), "columns": self.columns,
            "steps": self.frames.iter().map(|frame| frame.step).collect::<Vec<_>>(),
            "kept": self.kept.iter().map(|kept| u8::from(*kept)).collect::<Vec<_>>(),
            "cells": BASE64_STANDARD.encode(bytes),
            "numbers": self.frames.iter().map(numbers).collect::<Vec<_>>(),
        })
    }
}

/// What the colours and, where there are `outlines`, these mean.
fn draw_scale(out: &mut Markup, top: f64, outlines: bool) {
    label(out, LEFT, top + 13.0, "start", "gate 0");
    for step in 0..super::style::SHADES {
        let x = format!("{:.1}", LEFT + 48.0 + 16.0 * step as f64);
        let class = format!("cell g{step}");
        out.leaf("rect", &[("class", &class), ("x", &x), ("y", &format!("{top:.1}")), ("width", &15), ("height", &16)]);
    }
    let right = LEFT + 48.0 + 16.0 * super::style::SHADES as f64;
    label(out, right + 6.0, top + 13.0, "start", "1");
    if !outlines {
        return;
    }
    let frame = format!("{:.1}", right + 40.0);
    out.leaf(
        "rect",
        &[("class", &"cell g0 kept"), ("x", &frame), ("y", &format!("{top:.1}")), ("width", &15), ("height", &15)],
    );
    label(out, right + 62.0, top + 13.0, "start", "outlined: kept by the cut");
}
