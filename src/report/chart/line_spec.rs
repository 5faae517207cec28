//! How a line chart is to look, and what happened along it: what a section of the report hands to [`LineChart`](super::LineChart).

use super::caption::Caption;
use crate::report::number::Unit;

/// Something that happened at a place of the horizontal axis.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Where.
    pub x: f64,
    /// In which run.
    pub run: String,
    /// `save`, `resume`, `skip`, …
    pub kind: String,
    /// In words.
    pub text: String,
}

/// How a line chart is to look.
#[derive(Clone, Debug)]
pub struct LineSpec {
    pub(super) caption: Caption,
    pub(super) x_label: String,
    pub(super) y_label: String,
    pub(super) unit: Unit,
    pub(super) log: bool,
    pub(super) include: Vec<f64>,
    pub(super) past_the_start: bool,
    pub(super) stepped: bool,
}

impl LineSpec {
    /// A chart over `x_label`, a count.
    pub fn new(caption: Caption, x_label: &str, y_label: &str, unit: Unit) -> LineSpec {
        LineSpec {
            caption,
            x_label: x_label.into(),
            y_label: y_label.into(),
            unit,
            log: false,
            include: vec![],
            past_the_start: false,
            stepped: false,
        }
    }

    /// With equal factors upwards, where all values are positive.
    pub fn log(mut self) -> LineSpec {
        self.log = true;
        self
    }

    /// With an axis for what comes after the start, where the first values are so high that they would squeeze the rest:
    /// what lies above is said in words. For losses, which fall.
    pub fn past_the_start(mut self) -> LineSpec {
        self.past_the_start = true;
        self
    }

    /// For what holds from one point to the next: lines go sideways and then up or down.
    pub fn stepped(mut self) -> LineSpec {
        self.stepped = true;
        self
    }

    /// With more to say below it.
    pub fn explain(mut self, more: &str) -> LineSpec {
        self.caption.about.push_str(more);
        self
    }

    /// With these values on the vertical axis.
    pub fn include(mut self, values: &[f64]) -> LineSpec {
        self.include.extend(values);
        self
    }
}
