//! `shearling tensorboard`: the TensorBoard event file of a run that was not told to write one.

use super::Verdict;
use crate::cli::Printer;
use crate::cli::arguments::Tensorboard;
use crate::train::tensorboard::{FOLDER, convert};
use serde_json::json;

/// `shearling tensorboard`
pub fn run(arguments: &Tensorboard) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    let out = arguments.out.clone().unwrap_or_else(|| arguments.run.join(FOLDER));
    let path = convert(&arguments.run, &out)?.display().to_string();
    printer.data(format!("{path}\n"), || json!({ "tensorboard": path }));
    printer.note(format!("look at it with: tensorboard --logdir {path}"));
    Ok(Verdict::Done)
}
