//! How training went as such: learning rates, gradient norms, clipping, speed and memory; and the list of events.

use super::{NamedTable, Over, Section, add, by_run, marks, run_dash, run_style, step_series};
use crate::inspect::{Column, Steps};
use crate::report::chart::{Caption, DataTable, Figure, LineSpec, Series};
use crate::report::lineage::RunView;
use crate::report::number::Unit;

/// Columns of one chart: name and column.
type Columns = fn(&Steps) -> [(&'static str, &Column); 4];
/// Events that a table names, of each run.
const LISTED_EVENTS: usize = 200;

pub(super) fn section(runs: &[RunView]) -> Section {
    let mut figures = Vec::new();
    let about = "Of each group of parameters, over the steps of the run.";
    let spec =
        LineSpec::new(Caption::new("learning-rates", "Learning rates", about), "step", "rate", Unit::Plain).log();
    let rates: Columns = |s| {
        [
            ("weights", &s.learning_rate_weights),
            ("masks", &s.learning_rate_masks),
            ("multipliers", &s.learning_rate_multipliers),
            ("routers", &s.learning_rate_routers),
        ]
    };
    add(&mut figures, spec, grouped(runs, rates), vec![]);

    let about = "L2 norm before clipping. A lasting rise is a warning; clipping takes care of single spikes.";
    let spec =
        LineSpec::new(Caption::new("gradient-norms", "Gradient norms", about), "step", "norm", Unit::Plain).log();
    let norms: Columns = |s| {
        [
            ("weights", &s.gradient_norm_weights),
            ("masks", &s.gradient_norm_masks),
            ("multipliers", &s.gradient_norm_multipliers),
            ("routers", &s.gradient_norm_routers),
        ]
    };
    add(&mut figures, spec, grouped(runs, norms), marks(runs.iter(), runs.len() > 1));

    let about = "Factor on all gradients: 1 where they were not clipped.";
    let spec = LineSpec::new(Caption::new("clip-scale", "Clipping", about), "step", "factor", Unit::Plain)
        .include(&[0.0, 1.0]);
    one_column(&mut figures, runs, spec, |s| &s.clip_scale);

    let about = "Of each step, all of it (masks and a teacher too), without evaluations and checkpoints.";
    let spec = LineSpec::new(Caption::new("throughput", "Throughput", about), "step", "tokens per second", Unit::Count)
        .include(&[0.0]);
    one_column(&mut figures, runs, spec, |s| &s.tokens_per_second);

    let about = "Of the run's device, since its steps began.";
    let spec =
        LineSpec::new(Caption::new("memory", "Peak memory", about), "step", "bytes", Unit::Bytes).include(&[0.0]);
    one_column(&mut figures, runs, spec, |s| &s.peak_memory_bytes);
    Section {
        id: "training".into(),
        title: "Training".into(),
        about: "Learning rates, gradient norms, speed, memory and events.".into(),
        tables: events(runs).into_iter().collect(),
        figures,
        ..Section::default()
    }
}

fn grouped(runs: &[RunView], columns: Columns) -> Vec<Series> {
    let of_run = |run: &RunView| {
        let line = |(colour, (name, column)): (usize, (&str, &Column))| {
            // Frozen routers have neither rate nor gradient, and a logarithmic axis no zero.
            let column: Column = match name {
                "routers" => column.iter().map(|value| value.filter(|value| *value > 0.0)).collect(),
                _ => column.clone(),
            };
            step_series(run, name, (colour, run_dash(run)), &column, Over::Steps)
        };
        columns(&run.history.steps).into_iter().enumerate().map(line).collect::<Vec<_>>()
    };
    by_run(runs.iter().flat_map(of_run).collect())
}

fn one_column(figures: &mut Vec<Figure>, runs: &[RunView], spec: LineSpec, column: fn(&Steps) -> &Column) {
    let line = |run: &RunView| step_series(run, &run.label, run_style(run), column(&run.history.steps), Over::Steps);
    add(figures, spec, runs.iter().map(line).collect(), vec![]);
}

fn events(runs: &[RunView]) -> Option<NamedTable> {
    let of_run = |run: &RunView| {
        let row = |event: &crate::inspect::Event| {
            vec![run.label.clone(), Unit::Count.text(event.step as f64), event.kind.clone(), event.text.clone()]
        };
        run.history.events.iter().take(LISTED_EVENTS).map(row).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = runs.iter().flat_map(of_run).collect();
    let header = ["run", "after step", "event", ""].map(String::from).to_vec();
    let folded = rows.len() > 12;
    (!rows.is_empty()).then(|| NamedTable { title: "Events".into(), table: DataTable { header, rows }, folded })
}
