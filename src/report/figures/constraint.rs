//! Whether the masks went where they had to: expected against target sparsity, violations, multipliers, and how fast
//! the units made up their minds.

use super::{
    NamedTable, Over, Section, add, by_run, eval_series, marks, module_colour, pruning, run_dash, run_style,
    step_series,
};
use crate::inspect::{Column, ModuleSteps};
use crate::report::chart::{Caption, DataTable, Figure, LineSpec, REFERENCE_DASH, Series};
use crate::report::lineage::RunView;
use crate::report::number::Unit;

/// A smaller violation or multiplier is rounding.
const LEAST_TOLD: f64 = 1e-6;

/// A column of a module.
type Choose = fn(&ModuleSteps) -> &Column;

pub(super) fn section(runs: &[RunView]) -> Section {
    let mut figures = Vec::new();
    sparsity(&mut figures, runs);
    for (id, title, label, about, choose) in charts() {
        let spec = LineSpec::new(Caption::new(id, title, about), "step", label, Unit::Plain).include(&[0.0]);
        let lines = by_module(runs, choose);
        // Masks with an exact count have no multipliers, and violations as large as their rounding.
        let told = |line: &Series| line.values.iter().any(|(_, value)| value.abs() >= LEAST_TOLD);
        if lines.iter().any(told) {
            add(&mut figures, spec, lines, vec![]);
        }
    }
    if multiplied(runs) {
        lagrangian(&mut figures, runs);
    }
    polarisation(&mut figures, runs);
    Section {
        id: "constraint".into(),
        title: "Constraint".into(),
        about: match multiplied(runs) {
            true => "While pruning, multipliers push the expected sparsity of every mask to its target, which ramps up first.",
            false => "While pruning, as many units of every mask are open as its target says, which ramps up first.",
        }
        .into(),
        tables: pruning(runs).filter_map(|run| settled(run, runs.len() > 1)).collect(),
        figures,
        ..Section::default()
    }
}

/// Whether a run has multipliers: those of masks with an exact count stay zero.
fn multiplied(runs: &[RunView]) -> bool {
    let moved = |column: &Column| column.iter().flatten().any(|value| *value != 0.0);
    pruning(runs)
        .flat_map(|run| &run.history.steps.modules)
        .any(|module| moved(&module.lambda_1) || moved(&module.lambda_2))
}

fn charts() -> [(&'static str, &'static str, &'static str, &'static str, Choose); 4] {
    [
        (
            "violation",
            "Violation by module",
            "expected − target",
            "Above zero too much is closed, below zero too little. At the end all lines should be at zero.",
            |m| &m.violation,
        ),
        (
            "violation-worst",
            "Worst row",
            "largest |expected − target|",
            "The mean of a module may be right while a layer is far off: this is the layer farthest from its target.",
            |m| &m.worst_row_violation,
        ),
        (
            "lambda-1",
            "Multiplier λ₁",
            "λ₁",
            "The linear multiplier: it grows in the direction of a lasting violation.",
            |m| &m.lambda_1,
        ),
        (
            "lambda-2",
            "Multiplier λ₂",
            "λ₂",
            "The quadratic multiplier: it grows while there is any violation.",
            |m| &m.lambda_2,
        ),
    ]
}

fn sparsity(figures: &mut Vec<Figure>, runs: &[RunView]) {
    let about = "Solid: the share that the masks expect to remove. Dotted: the target of the step. The lines meet when the \
                 constraint holds.";
    let caption = Caption::new("sparsity", "Expected and target sparsity by module", about);
    let mut lines = by_module(runs, |m| &m.expected_sparsity);
    for mut target in by_module(runs, |m| &m.target_sparsity) {
        target.name = format!("{} target", target.name);
        target.dash = REFERENCE_DASH;
        lines.push(target);
    }
    add(
        figures,
        LineSpec::new(caption, "step", "share removed", Unit::Percent).include(&[0.0]),
        lines,
        marks(pruning(runs), runs.len() > 1),
    );

    let about = "Parameters of the model, embeddings included, with as many units as the masks expect at each step.";
    let caption = Caption::new("expected-parameters", "Expected parameters", about);
    let line = |run: &RunView| {
        step_series(run, &run.label, run_style(run), &run.history.steps.expected_parameters, Over::Steps)
    };
    let lines = pruning(runs).map(line).collect();
    add(figures, LineSpec::new(caption, "step", "parameters", Unit::Count), lines, vec![]);
}

fn by_module(runs: &[RunView], choose: Choose) -> Vec<Series> {
    let of_run = |run: &RunView| {
        let line = |module: &ModuleSteps| {
            let style = (module_colour(&module.module), run_dash(run));
            step_series(run, &module.module, style, choose(module), Over::Steps)
        };
        run.history.steps.modules.iter().map(line).collect::<Vec<_>>()
    };
    by_run(pruning(runs).flat_map(of_run).collect())
}

fn lagrangian(figures: &mut Vec<Figure>, runs: &[RunView]) {
    let about =
        "What the constraint adds to the loss, λ₁·violation + λ₂·violation² over all masks; it may be negative.";
    let caption = Caption::new("lagrangian", "Lagrangian", about);
    let line =
        |run: &RunView| step_series(run, &run.label, run_style(run), &run.history.steps.loss_lagrangian, Over::Steps);
    let lines = pruning(runs).map(line).collect();
    add(figures, LineSpec::new(caption, "step", "nats", Unit::Plain).include(&[0.0]), lines, vec![]);
}

fn polarisation(figures: &mut Vec<Figure>, runs: &[RunView]) {
    let about = "Share of a module's units whose gate lies between 0.05 and 0.95, in the layers that the cut keeps. The cut \
                 rounds these to open or closed, so few should be left at the end.";
    let caption = Caption::new("undecided", "Undecided units by module", about);
    let mut lines = Vec::new();
    for run in pruning(runs) {
        let mut modules: Vec<&str> = Vec::new();
        for module in run.history.evaluations.iter().flat_map(|e| &e.modules) {
            if !modules.contains(&module.module.as_str()) {
                modules.push(&module.module);
            }
        }
        lines.extend(modules.into_iter().take(8).map(|name| {
            eval_series(run, name, (module_colour(name), run_dash(run)), Over::Steps, |evaluation| {
                let module = evaluation.modules.iter().find(|module| module.module == name)?;
                let units = module.units.filter(|units| *units > 0)?;
                Some(module.undecided? as f64 / units as f64)
            })
        }));
    }
    let spec = LineSpec::new(caption, "step", "share of the units", Unit::Percent).include(&[0.0]);
    add(figures, spec, by_run(lines), vec![]);
}

fn settled(run: &RunView, several: bool) -> Option<NamedTable> {
    let settled = &run.history.settled;
    if settled.is_empty() {
        return None;
    }
    let step = |step: Option<u64>| step.map_or("none so far".to_string(), |step| Unit::Count.text(step as f64));
    let rows = settled.iter().map(|mask| {
        let moving: Vec<usize> =
            mask.rows.iter().filter(|r| !r.removed && r.same_units_from.is_none()).map(|r| r.row).collect();
        let moving = if mask.rows.len() > 1 && !moving.is_empty() {
            super::super::number::ranges(&moving)
        } else {
            "–".into()
        };
        vec![mask.module.to_string(), step(mask.same_units_from), step(mask.decided_from), moving]
    });
    let header = ["mask", "keeps the same units from step", "under 1 % undecided from step", "layers still changing"];
    let title =
        if several { format!("When the masks of {} settled", run.label) } else { "When the masks settled".into() };
    let table = DataTable { header: header.map(String::from).to_vec(), rows: rows.collect() };
    Some(NamedTable { title, table, folded: false })
}
