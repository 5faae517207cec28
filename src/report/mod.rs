//! A report of runs: everything that was learned on one page, for people who would rather look than read.
//!
//! ```text
//! inspect::RunHistory ─► lineage (which run continues which) ─► answers (sentences) ─┐
//! eval.json, latency.json ─► side_files, measured ► figures (which charts) ────────────┼─► page ─► report.html, serve
//!                                                    │ chart (SVG), reduce, number   └─► data (JSON in the page)
//!                                                    └─► picture (PNG), .svg files
//! ```
//!
//! It reads nothing of a run itself: that is `inspect`'s part. It does not print.

pub mod answers;
pub mod chart;
mod data;
mod error;
pub mod figures;
mod from_eval;
pub mod lineage;
pub mod markup;
pub mod measured;
pub mod number;
mod page;
pub mod picture;
pub mod reduce;
pub mod serve;
pub mod side_files;
mod side_kinds;

pub use error::Error;

use crate::files::write_atomic;
use crate::inspect::RunHistory;
use answers::Answer;
use chart::{Figure, Form};
use figures::Section;
use side_files::{EvalFile, LatencyFile};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What a report is made of.
#[derive(Clone, Debug)]
pub struct Report {
    /// Headline.
    pub title: String,
    /// The runs: what continues another behind it, whatever the order in which they were named.
    pub runs: Vec<RunHistory>,
    /// Losses of models side by side, where given.
    pub eval: Option<EvalFile>,
    /// Speed of models side by side, where given.
    pub latency: Option<LatencyFile>,
}

impl Report {
    /// Reads run folders; one that is named twice is read once.
    ///
    /// # Errors
    /// A folder that no run wrote. What is missing or damaged in a run is in its notes.
    pub fn read(runs: &[PathBuf], title: Option<String>) -> Result<Report, Error> {
        let mut known = HashSet::new();
        let is_new = |run: &&PathBuf| known.insert(run.canonicalize().unwrap_or_else(|_| run.to_path_buf()));
        let runs = runs.iter().filter(is_new).map(|run| RunHistory::read(run)).collect::<Result<Vec<_>, _>>()?;
        Ok(Report::new(runs, title))
    }

    /// A report of runs that were read already; the default title names them.
    pub fn new(runs: Vec<RunHistory>, title: Option<String>) -> Report {
        let runs = lineage::ordered(runs);
        let names: Vec<String> = lineage::views(&runs).into_iter().map(|view| view.label).collect();
        Report { title: title.unwrap_or_else(|| number::listed(&names)), runs, eval: None, latency: None }
    }

    /// The page as an HTML file that stands alone.
    pub fn html(&self) -> String {
        page::html(self, false)
    }

    /// The page for [`serve`]: it asks its server for news.
    pub fn live_html(&self) -> String {
        page::html(self, true)
    }

    /// The data that the page holds in `#report-data`.
    pub fn data(&self) -> serde_json::Value {
        data::data(self)
    }

    /// Sections with their figures.
    pub fn sections(&self) -> Vec<Section> {
        figures::sections(&lineage::views(&self.runs), self.eval.as_ref(), self.latency.as_ref())
    }

    /// The answers, per line of runs that continue each other, by its name.
    pub fn answers(&self) -> Vec<(String, Vec<Answer>)> {
        let views = lineage::views(&self.runs);
        let lines = lineage::lines(&views);
        let answers = |line: &Vec<&lineage::RunView>| {
            (
                lineage::line_name(line, &lines),
                answers::answers(line, &views, self.eval.as_ref(), self.latency.as_ref()),
            )
        };
        lines.iter().map(answers).collect()
    }

    /// What could not be joined to the other runs, each in a sentence.
    pub fn not_joined(&self) -> Vec<String> {
        lineage::not_joined(&lineage::views(&self.runs))
    }

    /// Writes every figure to `folder` as NAME.svg; the written paths.
    pub fn write_svg(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let declaration = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
        let file = |figure: &Figure| Ok(format!("{declaration}{}\n", figure.svg(Form::File).as_str()).into_bytes());
        self.write_figures(folder, "svg", file)
    }

    /// Writes every figure to `folder` as NAME.png; the written paths.
    pub fn write_png(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        self.write_figures(folder, "png", picture::png)
    }

    fn write_figures(
        &self,
        folder: &Path,
        extension: &str,
        draw: impl Fn(&Figure) -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<PathBuf>, Error> {
        let failed = |source| crate::files::Error::Io { operation: "create", path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut written = Vec::new();
        for figure in self.sections().iter().flat_map(|section| &section.figures) {
            // Names are made of our own words and numbers, never of a run's.
            let path = folder.join(format!("{}.{extension}", figure.caption().id));
            write_atomic(&path, &draw(figure)?)?;
            written.push(path);
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests;
