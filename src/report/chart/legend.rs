//! What the colours and dashes of a figure mean. In the page an entry is a button that takes its lines away; in a file
//! it is drawn.

use super::style::{REFERENCE_DASH, classes, glyph};
use crate::report::markup::Markup;
use std::collections::BTreeSet;

/// What an entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// All series of one name: a colour.
    Name,
    /// All series of one run: a dash.
    Run,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegendEntry {
    /// Name or run.
    pub switch: Switch,
    /// Number of the name or run in the figure.
    pub index: usize,
    /// Its text.
    pub label: String,
    /// Classes of its sample.
    pub classes: String,
    /// Shape on its sample.
    pub glyph: Option<&'static str>,
}

/// Colour of what is told by its dash.
const GREY: usize = 6;
/// Height of one line of a drawn legend.
const LINE: f64 = 18.0;

/// The entries of names; and of runs, where a name has series of several. `series`: name, run, colour, dash.
pub fn entries<'a>(series: impl Iterator<Item = (&'a str, &'a str, usize, usize)> + Clone) -> Vec<LegendEntry> {
    let mut names: Vec<LegendEntry> = Vec::new();
    let mut runs: Vec<LegendEntry> = Vec::new();
    let shared = |name: &str| {
        series.clone().filter(|other| other.0 == name).map(|other| other.1).collect::<BTreeSet<_>>().len() > 1
    };
    for (name, run, colour, dash) in series.clone() {
        // A name that several runs have is told by its colour, a run by its dash; targets keep theirs.
        let target = dash == REFERENCE_DASH;
        let own = classes(colour, if shared(name) && !target { 0 } else { dash });
        add(&mut names, Switch::Name, name, own, glyph(colour));
        add(&mut runs, Switch::Run, run, classes(GREY, if target { 0 } else { dash }), None);
    }
    if names.iter().any(|entry| shared(&entry.label)) {
        names.extend(runs);
    }
    names
}

fn add(entries: &mut Vec<LegendEntry>, switch: Switch, label: &str, classes: String, glyph: Option<&'static str>) {
    if !entries.iter().any(|entry| entry.label == label) {
        entries.push(LegendEntry { switch, index: entries.len(), label: label.to_string(), classes, glyph });
    }
}

/// Draws the entries below `top`, at most `width` wide; how high they are.
pub fn draw(out: &mut Markup, entries: &[LegendEntry], left: f64, top: f64, width: f64) -> f64 {
    if entries.len() < 2 {
        return 0.0;
    }
    let (mut x, mut y) = (left, top);
    for entry in entries {
        let label: String = entry.label.chars().take(40).collect();
        let wide = 34.0 + 7.2 * label.chars().count() as f64;
        if x > left && x + wide > left + width {
            (x, y) = (left, y + LINE);
        }
        out.element("g", &[("class", &entry.classes)], |group| {
            let path = format!("M{x:.1} {:.1}h20", y + 9.0);
            group.leaf("path", &[("class", &"line"), ("d", &path)]);
            if let Some(glyph) = entry.glyph {
                let place = format!("translate({:.1} {:.1})", x + 10.0, y + 9.0);
                group.leaf("path", &[("class", &"glyph"), ("d", &glyph), ("transform", &place)]);
            }
            group.text_element(
                "text",
                &[("x", &format!("{:.1}", x + 25.0)), ("y", &format!("{:.1}", y + 13.5))],
                label,
            );
        });
        x += wide + 8.0;
    }
    y + LINE + 4.0 - top
}
