//! `shearling tensorboard`: the TensorBoard event file of a run that was not told to write one.

use super::ExitStatus;
use super::resumed::refuse_cut_at_once;
use crate::cli::Printer;
use crate::cli::arguments::Tensorboard;
use crate::run_dir::layout::{METRICS, TENSORBOARD};
use crate::train::tensorboard::{DroppedLine, convert};
use crate::words::plural;
use serde_json::json;

/// Lines that a warning names.
const NAMED_LINES: usize = 5;

/// `shearling tensorboard`
pub fn run(arguments: &Tensorboard) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    refuse_cut_at_once(&arguments.run, "metric to write")?;
    let out = arguments.out.clone().unwrap_or_else(|| arguments.run.join(TENSORBOARD));
    let (path, dropped) = convert(&arguments.run, &out)?;
    let path = path.display().to_string();
    if let Some(text) = left_out(&dropped) {
        printer.warn(text);
    }
    let lines: Vec<u64> = dropped.iter().map(|line| line.number).collect();
    printer.data(format!("{path}\n"), || json!({ "tensorboard": path, "dropped_lines": lines }));
    printer.note(format!("look at it with: tensorboard --logdir {path}"));
    Ok(ExitStatus::Done)
}

/// The lines that gave no event, the first few by number.
fn left_out(dropped: &[DroppedLine]) -> Option<String> {
    let named = dropped.iter().take(NAMED_LINES).map(|line| format!("{} ({})", line.number, line.problem));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = dropped.len().saturating_sub(NAMED_LINES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let lines = plural(dropped.len() as u64, "line");
    (!dropped.is_empty()).then(|| format!("{METRICS}: left out {lines} {named}{more}; the curves have gaps there"))
}
