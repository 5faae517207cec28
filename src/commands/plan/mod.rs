//! `shearling plan`: everything a run will be, before it starts, as far as what is here tells: shapes from a `config.json`
//! alone, rows and domains where there is data, the weights' files where there are weights. Faults are collected; what
//! could not be looked at is said. Writes nothing. With a need (`by_need`) it is shapes for a small model instead.

mod advice;
mod by_need;
mod experts;
mod mix;
mod places;
mod ranks;
mod report;
mod rows;
mod source;

use super::ExitStatus;
use super::run::load;
use super::unread_keys::unread_keys;
use super::via::{described, stages};
use super::written_shape::written_by;
use crate::cli::Printer;
use crate::cli::arguments::Plan;
use crate::cli::printer::for_stdout;
use crate::cli::shell::shell_word;
use crate::commands::speed::named_card;
use crate::config::{MicroBatchRows, RunConfig, Stage};
use crate::hf::Checkpoint;
use crate::native::runtime::cards::Card;
use crate::native::runtime::device::{self, DeviceError};
use crate::prune::convert::require_complete;
use crate::train::fit::{Sharing, filling_rows, memory_to_fill};
use crate::train::saved_run::refuse_existing;
use crate::train::setup::{Device, other_tokenizer};
use crate::train::{Absent, Findings, Outline, Setup};
use anyhow::Context;
use report::PlanReport;
use std::path::Path;

/// `shearling plan`
pub fn run(arguments: &Plan) -> anyhow::Result<ExitStatus> {
    if arguments.need.is_given() {
        return by_need::run(arguments);
    }
    if let Some(file) = arguments.model.as_ref().filter(|file| file.extension().is_some_and(|end| end == "toml")) {
        anyhow::bail!("a run is planned from a configuration: did you mean --config {}?", file.display());
    }
    if let Some(model) = &arguments.model {
        anyhow::bail!(
            "{}: a run is planned from a configuration (--config FILE), shapes for a model from what it is needed for: give \
             --target-params, --target-memory or --target-latency",
            model.display()
        );
    }
    let printer = Printer::new(arguments.json);
    for (name, rate) in [("tokens-per-second", arguments.tokens_per_second), ("tflops", arguments.tflops)] {
        if let Some(rate) = rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            anyhow::bail!("--{name} {rate} must be a positive number");
        }
    }
    let config = load(&arguments.config)?;
    let file = arguments.config.config.as_deref().unwrap_or(Path::new("."));
    let card = arguments.card.as_deref().map(named_card).transpose()?;
    let device = planned_device(&config, card)?;
    let source = source::find(&config, file, arguments.source_as.as_deref())?;
    let command = Stage::of(&config).command();
    let planned = planned_stages(&config, source, device, arguments)?;
    let unread = unread_keys(&config, &arguments.config)?;
    let mut reports: Vec<(Outline, PlanReport)> = Vec::new();
    for mut outline in planned {
        outline.findings.not_checked.extend(not_here(&config, card));
        fill_micro_batch(&mut outline, arguments, card);
        let mut report = PlanReport::new(&outline, arguments, card);
        report.warnings.extend(unread.clone());
        outline.findings.problems.extend(report.rank_problems());
        reports.push((outline, report));
    }
    let text =
        reports.iter().map(|(outline, report)| heading(outline, reports.len()) + &for_stdout(report.text(outline)));
    printer.data(text.collect::<Vec<_>>().join("\n"), || match &reports[..] {
        [(outline, report)] => report.json(outline),
        several => serde_json::json!({ "runs": several.iter().map(|(outline, report)| report.json(outline)).collect::<Vec<_>>() }),
    });
    let mut warned: Vec<&String> = reports.iter().flat_map(|(_, report)| &report.warnings).collect();
    warned.dedup();
    warned.into_iter().for_each(|warning| printer.warn(warning));
    let fine = reports.iter().all(|(outline, _)| outline.findings.problems.is_empty());
    if let (Some(file), true) = (&arguments.config.config, fine) {
        let sets: String = arguments.config.set.iter().map(|set| format!(" --set {}", shell_word(set))).collect();
        printer.note(format!("next: shearling {command} --config {}{sets}", shell_word(&file.display().to_string())));
    }
    Ok(if fine { ExitStatus::Done } else { ExitStatus::CheckFailed })
}

/// The outline of every run that a configuration stands for: one, or with `[[prune.via]]` several, as far as the first
/// that would be refused.
fn planned_stages(
    config: &RunConfig,
    source: source::Source,
    device: Device,
    arguments: &Plan,
) -> anyhow::Result<Vec<Outline>> {
    let file = arguments.config.config.as_deref().unwrap_or(Path::new("."));
    let row_tokens = arguments.sequence_length.map(|tokens| tokens.get() as i64);
    let (mut planned, mut hf_config): (Vec<Outline>, _) = (Vec::new(), source.config);
    for (number, stage) in stages(config).into_iter().enumerate() {
        let mut outline = outline(stage.clone(), device, hf_config.take(), row_tokens)?;
        for file in &source.derived_from {
            let note = format!("its shape is what the run of {} will write", file.display());
            outline.findings.not_checked.push(format!("the source, which is not there yet: {note}"));
        }
        let whole = outline.findings.absent.is_empty();
        absent(&mut outline.findings, file, for_elsewhere(arguments));
        if source.derived_from.is_empty() && number == 0 {
            look_at_weights(&mut outline, whole);
        }
        let fine = outline.findings.problems.is_empty();
        hf_config = if fine { Some(written_by(&stage, &outline.hf_config)?) } else { None };
        planned.push(outline);
        if !fine {
            break;
        }
    }
    // The one whose folder must not be there yet; the runs before the last cut are gone on with.
    if let Some(outline) = planned.last_mut().filter(|_| !for_elsewhere(arguments))
        && let Err(error) = refuse_existing(&config.run.directory)
    {
        outline.findings.problem(&error);
    }
    Ok(planned)
}

/// What a run does, where a configuration stands for several.
fn heading(outline: &Outline, of: usize) -> String {
    if of == 1 { String::new() } else { format!("{}\n", described(&outline.config)) }
}

/// Whether the plan is for another machine, or for data that is yet to come: the options that say so.
fn for_elsewhere(arguments: &Plan) -> bool {
    let rate = arguments.tokens_per_second.is_some() || arguments.tflops.is_some();
    rate || arguments.card.is_some() || arguments.sequence_length.is_some()
}

/// What the configuration names and is not there: a problem here, unless a configuration beside it is to write it.
fn absent(findings: &mut Findings, file: &Path, elsewhere: bool) {
    for Absent { key, path, unknown, remedy } in std::mem::take(&mut findings.absent) {
        let shown = path.display();
        match source::written_later(file, &path) {
            Some(writer) => {
                findings.not_checked.push(format!("{unknown}: {} is to write {shown} ({key})", writer.display()));
            }
            None if elsewhere => findings.not_checked.push(format!("{unknown}: there is no {shown} ({key})")),
            None => findings.problems.push(format!(
                "{key}: there is no {shown}; {remedy}. For a plan without it give {}",
                if key == "data.path" { "--sequence-length" } else { "--card or --tflops" }
            )),
        }
    }
}

/// The outline of a configuration, of the stage that it is for.
pub(super) fn outline(
    config: RunConfig,
    device: Device,
    source: Option<crate::hf::RawConfig>,
    row_tokens: Option<i64>,
) -> anyhow::Result<Outline> {
    let stage = Stage::of(&config);
    Ok(Outline::new(config, stage, device, source, row_tokens)?)
}

/// What to say of a plan for a GPU that this machine does not have.
fn not_here(config: &RunConfig, card: Option<&Card>) -> Option<String> {
    device::parse(&config.run.device).err().filter(|_| card.is_none())?;
    Some(format!("run.device = {:?}: this machine has no such device, the plan is for one that has", config.run.device))
}

/// What `train.micro_batch_rows = "auto"` comes to, on the card or device of the plan and among its ranks.
fn fill_micro_batch(outline: &mut Outline, arguments: &Plan, card: Option<&Card>) {
    if outline.config.train.micro_batch_rows != Some(MicroBatchRows::Auto) || outline.config.cuts_at_once() {
        return;
    }
    let device = outline.device;
    let bytes = card.map(Card::memory_bytes).or_else(|| memory_to_fill(device));
    let sharing = ranks::Ranks::asked(outline, arguments).map_or(Sharing::ALONE, |ranks| ranks.sharing());
    let (model, teacher, tokens) = (&outline.model, outline.teacher.as_ref(), outline.row_tokens);
    let rows = filling_rows(&outline.config, model, teacher, tokens, device, bytes, sharing);
    outline.config.train.micro_batch_rows = Some(rows.into());
}

/// Where the run would be: the plan for a GPU may be made where there is none.
fn planned_device(config: &RunConfig, card: Option<&Card>) -> anyhow::Result<Device> {
    if card.is_some() {
        return Ok(Device::Cuda(0));
    }
    match device::parse(&config.run.device) {
        Ok(device) => Ok(device),
        Err(DeviceError::Unknown(name)) => Err(DeviceError::Unknown(name)).context("run.device"),
        Err(_) => Ok(Device::Cuda(0)),
    }
}

/// Looks at the weights if there are any, and, where nothing else is wrong and nothing absent, asks for all that a run asks
/// for.
fn look_at_weights(outline: &mut Outline, whole: bool) {
    let Some(folder) = outline.config.model.source.clone() else { return };
    if !has_weights(&folder) {
        outline.findings.not_checked.push(format!("weights: there are none in {}", folder.display()));
        return other_tokens(outline, &folder);
    }
    let complete = Checkpoint::open(&folder)
        .map_err(crate::train::Error::from)
        .and_then(|source| Ok(require_complete(&source, &outline.model)?));
    if let Err(error) = complete {
        outline.findings.problem(&error);
    }
    let Findings { problems, .. } = &outline.findings;
    if !whole || !problems.is_empty() {
        return other_tokens(outline, &folder);
    }
    match Setup::new(outline.config.clone(), outline.stage, outline.device) {
        Ok(setup) => {
            let known = &mut outline.findings.warnings;
            let new = setup.warnings().into_iter().filter(|warning| !known.contains(warning)).collect::<Vec<_>>();
            known.extend(new);
        }
        Err(error) => outline.findings.problem(&error),
    }
}

/// Whether a folder has weights, in whatever format and whole or not.
fn has_weights(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let weights = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".gguf"];
    names.into_iter().any(|name| weights.iter().any(|end| name.ends_with(end)))
}

fn other_tokens(outline: &mut Outline, folder: &Path) {
    let warning = outline.dataset.as_ref().and_then(|dataset| other_tokenizer(dataset, folder));
    outline.findings.warnings.extend(warning);
}
