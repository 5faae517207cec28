//! Which figures a report has: the columns of runs, evaluations and snapshots put into charts, section by section. What
//! a run did not record gives no figure.

mod constraint;
mod domains;
mod experts;
mod losses;
mod masks;
mod models;
mod training;

pub(crate) use models::shape_differences;

use super::chart::{COLOURS, DataTable, Figure, LineChart, LineSpec, Mark, REFERENCE_DASH, RUN_DASHES, Series};
use super::lineage::RunView;
use super::number::listed;
use super::reduce::{MAX_POINTS, known};
use super::side_files::{EvalFile, LatencyFile};
use crate::inspect::{Column, same_data};

/// A part of the report under one heading.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Name in addresses.
    pub id: String,
    /// Heading.
    pub title: String,
    /// What it is about, in a sentence or two.
    pub about: String,
    /// Slider over mask snapshots, where the section has one.
    pub slider: Option<Slider>,
    /// Figures.
    pub figures: Vec<Figure>,
    /// Tables.
    pub tables: Vec<NamedTable>,
}

/// A table under its own heading.
#[derive(Clone, Debug)]
pub struct NamedTable {
    /// Heading.
    pub title: String,
    /// What it says.
    pub table: DataTable,
    /// Whether it is folded at first.
    pub folded: bool,
}

/// A slider that moves several maps.
#[derive(Clone, Debug)]
pub struct Slider {
    /// Name in the page.
    pub id: String,
    /// Names of the maps.
    pub maps: Vec<String>,
    /// Number of frames.
    pub frames: usize,
    /// Step of the last frame.
    pub last_step: u64,
    /// Numbers of the last frame: name and text.
    pub numbers: Vec<(String, String)>,
}

/// All sections that have something to show.
pub fn sections(runs: &[RunView], eval: Option<&EvalFile>, latency: Option<&LatencyFile>) -> Vec<Section> {
    let mut sections = vec![losses::section(runs), constraint::section(runs)];
    sections.extend(masks::sections(runs));
    sections.extend([
        experts::section(runs),
        domains::section(runs, eval),
        training::section(runs),
        models::sizes(runs),
    ]);
    sections.extend(eval.map(models::evaluation));
    sections.extend(latency.map(models::latency));
    sections.retain(|section| !section.figures.is_empty() || !section.tables.is_empty());
    sections
}

/// What a line is drawn over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Steps of the run itself.
    Steps,
    /// Tokens, of the runs before it too.
    Tokens,
}

impl Over {
    pub(super) fn label(self) -> &'static str {
        match self {
            Over::Steps => "step",
            Over::Tokens => "tokens",
        }
    }
}

/// The steps of a run as places on an axis. Without token counts there are no places over tokens.
pub(super) fn step_places(run: &RunView, over: Over) -> Vec<f64> {
    let steps = &run.history.steps;
    match over {
        Over::Steps => steps.step.iter().map(|step| *step as f64).collect(),
        Over::Tokens => steps.tokens.iter().map(|t| t.map_or(f64::NAN, |t| t + run.tokens_before)).collect(),
    }
}

/// A number of finished steps as a place; over tokens by the steps' own counts.
pub(super) fn place(run: &RunView, step: u64, over: Over) -> f64 {
    let steps = &run.history.steps;
    match over {
        Over::Steps => step as f64,
        Over::Tokens if step == 0 => run.tokens_before,
        Over::Tokens => {
            let at = steps.step.partition_point(|known| *known < step);
            let tokens = steps.tokens.get(at).copied().flatten();
            tokens.map_or(f64::NAN, |tokens| tokens + run.tokens_before)
        }
    }
}

/// A line of a column over the steps of a run.
pub(super) fn step_series(run: &RunView, name: &str, style: (usize, usize), column: &Column, over: Over) -> Series {
    series(run, name, style, &step_places(run, over), column)
}

/// A line of a run; `style` is colour and dash.
pub(super) fn series(run: &RunView, name: &str, style: (usize, usize), x: &[f64], y: &[Option<f64>]) -> Series {
    Series::new(name, &run.label, style, known(x, y), MAX_POINTS)
}

/// A line over the evaluations that `choose` gives a value for.
pub(super) fn eval_series(
    run: &RunView,
    name: &str,
    style: (usize, usize),
    over: Over,
    choose: impl Fn(&crate::inspect::Evaluation) -> Option<f64>,
) -> Series {
    let evaluations = &run.history.evaluations;
    let known: Vec<(f64, Option<f64>)> = evaluations
        .iter()
        .map(|e| (place(run, e.step, over), choose(e)))
        .filter(|(_, value)| value.is_some())
        .collect();
    let (x, y): (Vec<f64>, Vec<Option<f64>>) = known.into_iter().unzip();
    series(run, name, style, &x, &y)
}

/// The dash of a run, where colours tell domains or modules; one dash is left to targets. [`by_run`] gives it anew among the
/// runs of a figure.
pub(super) fn run_dash(run: &RunView) -> usize {
    dash(run.index)
}

/// Colour and dash of a run that is one line: a colour each, and the next dash when they are used up.
pub(super) fn run_style(run: &RunView) -> (usize, usize) {
    (run.index, dash(run.index / COLOURS.len()))
}

/// Lines whose colours tell domains or modules, with the dashes of their runs: of the runs that have a line here the first
/// is solid. References keep theirs.
pub(super) fn by_run(mut lines: Vec<Series>) -> Vec<Series> {
    let mut runs: Vec<String> = Vec::new();
    for line in lines.iter_mut().filter(|line| !line.points.is_empty() && line.dash != REFERENCE_DASH) {
        let number = runs.iter().position(|run| *run == line.run).unwrap_or(runs.len());
        if number == runs.len() {
            runs.push(line.run.clone());
        }
        line.dash = dash(number);
    }
    lines
}

fn dash(number: usize) -> usize {
    RUN_DASHES.get(number % RUN_DASHES.len()).copied().unwrap_or(0)
}

/// What happened in the runs, over their steps.
pub(super) fn marks<'a, 'b: 'a>(runs: impl Iterator<Item = &'a RunView<'b>>, several: bool) -> Vec<Mark> {
    let of_run = |run: &RunView| {
        let label = run.label.clone();
        let events = run.history.events.iter().filter(|event| event.kind != "start").take(400);
        let mark = move |event: &crate::inspect::Event| Mark {
            x: event.step as f64,
            run: label.clone(),
            kind: event.kind.clone(),
            text: format!(
                "{}step {}: {}",
                if several { format!("{label}, ") } else { String::new() },
                event.step,
                event.text
            ),
        };
        events.map(mark).collect::<Vec<_>>()
    };
    runs.flat_map(of_run).collect()
}

/// What a mark of a kind is, in the order in which they are told.
const MARKS: [(&str, &str); 9] = [
    ("save", "saved checkpoints"),
    ("resume", "resumes"),
    ("skip", "skipped updates (red)"),
    ("mixer", "notices of the mix"),
    ("exhausted", "domains that left the mix"),
    ("not_saved", "checkpoints that could not be written"),
    ("divergence", "alarms of a loss that is too high"),
    ("ended", "errors that ended the run"),
    ("written", "the model written"),
];

/// Adds a line chart if it has anything to show. What its marks are is said below it.
pub(super) fn add(figures: &mut Vec<Figure>, spec: LineSpec, series: Vec<Series>, marks: Vec<Mark>) {
    let kinds: Vec<&str> =
        MARKS.iter().filter(|(kind, _)| marks.iter().any(|mark| mark.kind == *kind)).map(|(_, what)| *what).collect();
    let spec = match kinds.is_empty() {
        true => spec,
        false => spec.explain(&format!(" Triangles at the top: {}; point at one to read it.", listed(&kinds))),
    };
    figures.extend(LineChart::build(spec, series, marks, vec![]).map(Figure::Line));
}

/// The same over tokens, where a run begins at the end of the one before it: with a line at each such place.
pub(super) fn add_over_tokens(figures: &mut Vec<Figure>, spec: LineSpec, series: Vec<Series>, runs: &[RunView]) {
    figures.extend(LineChart::build(spec, series, vec![], borders(runs)).map(Figure::Line));
}

/// Where one run ends and another goes on with its model, by rising place; of one place once.
fn borders(runs: &[RunView]) -> Vec<Mark> {
    let mut borders: Vec<Mark> = Vec::new();
    for run in runs {
        // Behind a one-shot cut, which saw no tokens, a run begins where the axis does.
        let parent = run.parent.and_then(|parent| runs.get(parent)).filter(|_| run.tokens_before > 0.0);
        let Some(parent) = parent else { continue };
        let text = format!("{} → {}", parent.label, run.label);
        match borders.iter_mut().find(|known| known.x == run.tokens_before) {
            Some(known) => known.text = format!("{}, {text}", known.text),
            None => {
                borders.push(Mark { x: run.tokens_before, run: run.label.clone(), kind: "border".into(), text });
            }
        }
    }
    borders.sort_by(|a, b| a.x.total_cmp(&b.x));
    borders
}

/// Whose held-out losses do not compare, in a sentence to go below a figure; nothing where all do.
pub(super) fn rows_differ(runs: &[RunView]) -> String {
    let evaluated: Vec<&RunView> = runs.iter().filter(|run| !run.history.evaluations.is_empty()).collect();
    let mut groups: Vec<Vec<&RunView>> = Vec::new();
    for run in evaluated {
        let same = |group: &&mut Vec<&RunView>| {
            group.first().is_some_and(|first| same_data::is_of_same_data(first.history, run.history))
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let names = |group: &Vec<&RunView>| listed(&group.iter().map(|run| run.label.clone()).collect::<Vec<_>>());
    match groups.len() {
        0 | 1 => String::new(),
        _ => format!(
            " Not all are of the same data ({}): between these, heights do not compare.",
            groups.iter().map(names).collect::<Vec<_>>().join(" | ")
        ),
    }
}

/// The domains of all runs, each once: their place is their colour.
pub(super) fn domain_names(runs: &[RunView]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.history.domains) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    // More than a page can tell apart; the rest is in the run's own files.
    names.truncate(64);
    names
}

/// The mask modules of all runs in a fixed order: their place is their colour.
pub(super) fn module_colour(module: &str) -> usize {
    ["layer", "kv_head", "query_head", "intermediate", "hidden"].iter().position(|m| *m == module).unwrap_or(7)
}

/// The runs that prune.
pub(super) fn pruning<'a, 'b>(runs: &'b [RunView<'a>]) -> impl Iterator<Item = &'b RunView<'a>> {
    runs.iter().filter(|run| run.history.is_prune())
}

/// `, 8 of each domain`: how many held-out rows losses are of, where that is known.
fn rows_each(rows: impl Iterator<Item = u64>) -> String {
    let span = rows.fold(None, |span: Option<(u64, u64)>, rows| {
        let (fewest, most) = span.unwrap_or((rows, rows));
        Some((fewest.min(rows), most.max(rows)))
    });
    match span {
        None => String::new(),
        Some((fewest, most)) if fewest == most => format!(", {most} of each domain"),
        Some((fewest, most)) => format!(", {fewest} to {most} of a domain"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::RunHistory;

    #[test]
    fn held_out_rows_are_counted_by_domain() {
        let said = |rows: &[u64]| rows_each(rows.iter().copied());
        assert_eq!([said(&[]), said(&[8, 8]), said(&[16, 4])], ["", ", 8 of each domain", ", 4 to 16 of a domain"]);
    }

    #[test]
    fn runs_laid_over_one_another_look_different() {
        let history = RunHistory::default();
        let view = |index| RunView { history: &history, label: String::new(), index, parent: None, tokens_before: 0.0 };
        let distinct = |styles: Vec<String>| styles.into_iter().collect::<std::collections::BTreeSet<_>>().len();
        let own = |index| {
            let (colour, dash) = run_style(&view(index));
            super::super::chart::classes(colour, dash)
        };
        assert_eq!(distinct((0..64).map(own).collect()), 64, "a line per run");
        let line = |run: &str, dash: usize| Series::new("a", run, (0, dash), vec![(0.0, 1.0)], 10);
        let empty = Series::new("a", "prune", (0, 0), vec![], 10);
        let dashes = by_run(vec![empty, line("one", 2), line("two", 4), line("two", REFERENCE_DASH), line("one", 2)]);
        let dashes: Vec<usize> = dashes.iter().skip(1).map(|line| line.dash).collect();
        assert_eq!(dashes, [0, 1, REFERENCE_DASH, 0], "a run without a line takes no dash");
        let shared = |index| super::super::chart::classes(3, run_dash(&view(index)));
        assert_eq!(distinct((0..8).map(shared).collect()), 8, "a line per run and domain");
    }
}
