//! `shearling inspect masks`: finds the mask file, and says what it holds in tables and a map.

use super::CsvTarget;
use super::gate_map::gate_map;
use super::masks_csv::masks_csv;
use crate::cli::arguments::InspectMasks;
use crate::cli::table::{Table, grouped, ranges};
use crate::cli::{Printer, Terminal};
use crate::commands::ExitStatus;
use crate::commands::export::split_step;
use crate::inspect::{Agreement, MaskInspection, Parts, locate};
use crate::words::counted;
use shearling_masks::{ModuleReport, UnitKind, UnitList};
use std::path::{Path, PathBuf};

/// Units that a list names on the terminal.
const NAMED_UNITS: usize = 10;

pub(super) fn masks(arguments: &InspectMasks) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let csv = CsvTarget::check(arguments.csv.as_deref(), arguments.json)?;
    let (path, step) = find(&arguments.target, &printer)?;
    let against = arguments.against.as_deref().map(|target| find(target, &printer)).transpose()?;
    let against = against.as_ref().map(|(path, _)| path.as_path());
    let inspection = MaskInspection::read(&path, step, against)?;
    let written = csv.map_or(Ok(false), |csv| csv.write(&masks_csv(&inspection), &printer));
    if !matches!(written, Ok(true)) {
        let text = text(&inspection, Terminal::of_stdout());
        printer.data(text, || serde_json::to_value(&inspection).unwrap_or_default());
    }
    written.map(|_| ExitStatus::Done)
}

/// A mask file as given, or that of a run, with its step.
fn find(target: &str, printer: &Printer) -> anyhow::Result<(PathBuf, Option<u64>)> {
    if Path::new(target).is_file() {
        return Ok((target.into(), locate::step_of(Path::new(target))));
    }
    let (run, step) = split_step(target)?;
    let found = locate::find(&run, step)?;
    if let Some(newer) = locate::mask_files(&run).pop().filter(|newer| step.is_none() && newer.step > found.step) {
        printer.warn(format!("{} cannot be read; these are the newest masks that can", newer.path.display()));
    }
    Ok((found.path, Some(found.step)))
}

fn text(masks: &MaskInspection, terminal: Terminal) -> String {
    let step = masks.step.map_or(String::new(), |step| format!("masks of step {}, ", grouped(i128::from(step))));
    let mut text = format!(
        "{step}{}\nexpected sparsity {:.4}, target {:.4}\n\n{}",
        masks.path,
        masks.expected_sparsity,
        masks.target_sparsity,
        modules_table(masks)
    );
    text.push_str(&format!("\nunits by gate, in the layers that the cut keeps\n{}", histogram_table(masks)));
    text.push_str(&format!("\nparameters\n{}", parameters_table(masks)));
    text.push_str(&format!("\ngates by layer\n{}", gate_map(masks).render(terminal)));
    text.push_str(&format!("\nwhat is kept, by layer of the source\n{}", layers_table(masks)));
    if let Some(agreement) = &masks.agreement {
        text.push_str(&format!("\n{}", agreement_text(agreement, masks)));
    }
    for module in &masks.report.modules {
        text.push_str(&named("kept, but half-alive", &module.half_alive, module));
        text.push_str(&named("removed, but still open", &module.still_open, module));
    }
    text
}

/// Per mask: units of a row in the source, expected and kept; how many are undecided or on the wrong side of the cut, of
/// the layers that the cut keeps.
fn modules_table(masks: &MaskInspection) -> Table {
    let mut table = Table::new([
        "mask",
        "rows",
        "units",
        "expected",
        "kept",
        "expected sparsity",
        "target",
        "undecided",
        "half-alive",
        "still open",
    ]);
    for module in &masks.report.modules {
        let kept = || masks.rows.iter().filter(|row| row.module == module.module && !row.removed);
        let undecided: usize = kept().map(|row| row.undecided).sum();
        let share = 100.0 * undecided as f64 / kept().map(|row| row.units).sum::<usize>().max(1) as f64;
        table.row([
            module.module.to_string(),
            module.rows.to_string(),
            grouped(module.size),
            one_decimal((1.0 - module.expected_sparsity) * module.size as f64),
            grouped(module.target),
            format!("{:.4}", module.expected_sparsity),
            format!("{:.4}", module.target_sparsity),
            format!("{} ({share:.1} %)", grouped(undecided as i64)),
            grouped(module.half_alive.count),
            grouped(module.still_open.count),
        ]);
    }
    table
}

/// `1,018.7`.
fn one_decimal(value: f64) -> String {
    let tenths = (value * 10.0).round() as i64;
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

fn histogram_table(masks: &MaskInspection) -> Table {
    let bins = (0..10).map(|bin| format!("{:.1}", f64::from(bin) / 10.0));
    let mut table = Table::new(std::iter::once("mask, gate from".to_string()).chain(bins));
    for module in &masks.report.modules {
        let kept = || masks.rows.iter().filter(|row| row.module == module.module && !row.removed);
        let count = |bin: usize| kept().filter_map(|row| row.histogram.get(bin)).sum::<u64>();
        table.row(std::iter::once(module.module.to_string()).chain((0..10).map(|bin| grouped(count(bin)))));
    }
    table
}

fn parameters_table(masks: &MaskInspection) -> Table {
    let counts = [&masks.parameters.before, &masks.parameters.expected, &masks.parameters.after];
    let mut table = Table::new(["part", "source", "expected", "after the cut", "kept"]);
    let mut line = |name: &str, of: &dyn Fn(&Parts) -> Option<f64>| {
        let [before, expected, after] = counts.map(of);
        let share = before.zip(after).filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before);
        let cells =
            [before, expected, after].map(|count| count.map_or("–".to_string(), |c| grouped(c.round() as i64)));
        let share = share.map_or("–".to_string(), |share| format!("{:.1} %", 100.0 * share));
        table.row(std::iter::once(name.to_string()).chain(cells).chain([share]));
    };
    line("embedding", &|parts| parts.embedding);
    line("attention", &|parts| Some(parts.attention));
    line("mlp", &|parts| Some(parts.mlp));
    line("norms", &|parts| Some(parts.norms));
    line("head", &|parts| parts.head);
    line("all", &|parts| parts.total);
    table
}

fn layers_table(masks: &MaskInspection) -> Table {
    let mut table = Table::new(["layer", "becomes", "gate", "heads", "heads kept", "intermediate"]);
    for layer in &masks.layers {
        let (heads, units) = (masks.source.num_attention_heads, masks.source.intermediate_size);
        let Some(becomes) = layer.becomes else {
            table.row([layer.layer.to_string(), "removed".to_string(), format!("{:.3}", layer.gate)]);
            continue;
        };
        table.row([
            layer.layer.to_string(),
            becomes.to_string(),
            format!("{:.3}", layer.gate),
            format!("{} of {heads}", layer.heads.len()),
            if layer.heads.len() as i64 == heads { "all".to_string() } else { ranges(&layer.heads) },
            format!("{} of {}", grouped(layer.intermediate as i64), grouped(units)),
        ]);
    }
    table
}

fn agreement_text(agreement: &Agreement, masks: &MaskInspection) -> String {
    let names = agreement.modules.iter().map(|module| module.module.to_string());
    let mut table = Table::new(std::iter::once("layer".to_string()).chain(names));
    let all = agreement.modules.iter().map(|module| format!("{:.3}", module.jaccard));
    table.row(std::iter::once("all".to_string()).chain(all));
    for layer in &masks.layers {
        let of = |module: UnitKind| agreement.get(module).filter(|_| module.is_per_layer());
        let cells = agreement.modules.iter().map(|module| {
            let row = of(module.module).and_then(|module| module.rows.get(layer.layer));
            row.map_or(String::new(), |jaccard| format!("{jaccard:.3}"))
        });
        table.row(std::iter::once(layer.layer.to_string()).chain(cells));
    }
    let title = format!(
        "kept units in common with {} (Jaccard index; `all` covers the layers kept by both)",
        agreement.against
    );
    format!("{title}\n{table}")
}

fn named(what: &str, units: &UnitList, module: &ModuleReport) -> String {
    if units.count == 0 {
        return String::new();
    }
    let worst = units.worst.iter().take(NAMED_UNITS).map(|unit| format!("{} = {:.3}", unit.name, unit.value));
    let worst = worst.collect::<Vec<_>>().join(", ");
    format!("\n{} {what}: {}; the worst: {worst}\n", module.module, counted(units.count, "unit"))
}
