//! What drawings share: the outer `<svg>`, title and legend of a file, axes, grid and tick labels.

use super::caption::{Caption, Form};
use super::legend::{self, LegendEntry};
use super::scale::Axis;
use super::style::file_style;
use crate::report::markup::Markup;
use serde::Serialize;

/// Width of every drawing in user units.
pub const WIDTH: f64 = 640.0;

/// Where the plot lies inside a drawing, in user units.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Area {
    /// Left border.
    pub left: f64,
    /// Upper border.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Area {
    /// Horizontal place of a part between 0 and 1.
    pub fn x(&self, part: f64) -> f64 {
        self.left + part * self.width
    }

    /// Vertical place, 0 at the bottom.
    pub fn y(&self, part: f64) -> f64 {
        self.top + (1.0 - part) * self.height
    }
}

/// A drawing: `content` draws into it, `height` user units high. In a file, title and legend stand above.
pub fn drawing(
    caption: &Caption,
    form: Form,
    legend: &[LegendEntry],
    height: f64,
    content: impl FnOnce(&mut Markup),
) -> Markup {
    let (mut head, mut above) = (Markup::new(), 0.0);
    if form == Form::File {
        head.text_element("text", &[("class", &"title"), ("x", &12), ("y", &22)], &caption.title);
        above = 32.0 + legend::draw(&mut head, legend, 12.0, 32.0, WIDTH - 24.0);
    }
    let (title, description) = (format!("{}-title", caption.id), format!("{}-about", caption.id));
    let labels = format!("{title} {description}");
    let (width, high) = (WIDTH as u32, (height + above).ceil());
    let view = format!("0 0 {width} {high}");
    let mut attributes: Vec<(&'static str, &dyn std::fmt::Display)> =
        vec![("class", &"drawing"), ("viewBox", &view), ("role", &"img"), ("aria-labelledby", &labels)];
    if form == Form::File {
        attributes.extend([
            ("xmlns", &"http://www.w3.org/2000/svg" as _),
            ("width", &width as _),
            ("height", &high as _),
        ]);
    }
    let mut svg = Markup::new();
    svg.element("svg", &attributes, |svg| {
        svg.text_element("title", &[("id", &title)], &caption.title);
        svg.text_element("desc", &[("id", &description)], &caption.about);
        if form == Form::File {
            svg.element("style", &[], |style| style.verbatim(&file_style()));
            svg.leaf("rect", &[("class", &"paper"), ("width", &width), ("height", &high)]);
            svg.append(&head);
        }
        svg.element("g", &[("transform", &format!("translate(0 {above})"))], content);
    });
    svg
}

/// Grid, axis line and labels of the horizontal axis.
pub fn x_axis(out: &mut Markup, area: &Area, axis: &Axis) {
    let bottom = area.top + area.height;
    let ticks: Vec<(f64, String)> =
        axis.labelled(6).into_iter().map(|(tick, text)| (area.x(axis.place(tick)), text)).collect();
    let grid: String = ticks.iter().map(|(x, _)| format!("M{x:.1} {:.1}V{bottom:.1}", area.top)).collect();
    out.leaf("path", &[("class", &"grid"), ("d", &grid)]);
    out.leaf("path", &[("class", &"axis"), ("d", &format!("M{:.1} {bottom:.1}h{:.1}", area.left, area.width))]);
    for (x, text) in ticks {
        label(out, x, bottom + 17.0, "middle", &text);
    }
    label(out, area.left + area.width / 2.0, bottom + 35.0, "middle", &axis.label);
}

/// Grid and labels of the vertical axis; its name stands above it. In the page they are at the right end too, for
/// screens on which the left one is scrolled out of sight.
pub fn y_axis(out: &mut Markup, area: &Area, axis: &Axis, form: Form) {
    let ticks: Vec<(f64, String)> =
        axis.labelled(5).into_iter().map(|(tick, text)| (area.y(axis.place(tick)), text)).collect();
    let grid: String = ticks.iter().map(|(y, _)| format!("M{:.1} {y:.1}h{:.1}", area.left, area.width)).collect();
    out.leaf("path", &[("class", &"grid"), ("d", &grid)]);
    for (y, text) in ticks {
        label(out, area.left - 7.0, y + 4.5, "end", &text);
        if form == Form::Page {
            // Above its line, but for the uppermost, above which other words stand.
            let y = if y < area.top + 12.0 { y + 12.0 } else { y - 3.0 };
            let (x, y) = (format!("{:.1}", area.left + area.width), format!("{y:.1}"));
            out.text_element("text", &[("class", &"far"), ("x", &x), ("y", &y), ("text-anchor", &"end")], &text);
        }
    }
    let name = if axis.log { format!("{} (logarithmic)", axis.label) } else { axis.label.clone() };
    label(out, 6.0, area.top - 10.0, "start", &name);
}

/// Text at a place.
pub fn label(out: &mut Markup, x: f64, y: f64, anchor: &'static str, text: &str) {
    let (x, y) = (format!("{x:.1}"), format!("{y:.1}"));
    out.text_element("text", &[("x", &x), ("y", &y), ("text-anchor", &anchor)], text);
}
