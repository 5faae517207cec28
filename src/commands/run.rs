//! `shearling prune` and `shearling pretrain`: run the loop, then write the Hugging Face folder.

use super::Verdict;
use super::export::{export_trained, prune_from_step, prune_one_shot};
use super::watch::Watch;
use crate::cli::Printer;
use crate::cli::arguments::{ConfigArguments, Run};
use crate::config::{self, PruneMethod, RunConfig, Stage};
use crate::native::device;
use crate::prune::Error as PruneError;
use crate::train::{Setup, run as train_run, run::RESOLVED};
use anyhow::Context;
use std::path::Path;

/// Folder of the pruned model inside a run folder.
pub const PRUNED: &str = "pruned";
/// Folder of the trained model inside a run folder.
pub const MODEL: &str = "model";

/// Runs a stage from the command line.
pub fn run(arguments: &Run, stage: Stage) -> anyhow::Result<Verdict> {
    let printer = Printer::new(false);
    let (mut config, resume) = read_config(arguments)?;
    if let Some(device) = &arguments.device {
        config.run.device = device.clone();
    }
    let device = device::parse(&config.run.device)?;
    let setup = Setup::new(config, stage, device)?;
    let one_shot = stage == Stage::Prune && setup.config.prune.method == PruneMethod::Magnitude;
    if one_shot {
        return finish(prune_one_shot(&setup, &printer), &printer);
    }
    warn_about_source(&setup, &printer);
    let label = if stage == Stage::Prune { "prune" } else { "pretrain" };
    let mut watch = Watch::new(printer, label, setup.config.train.steps);
    let outcome = train_run(&setup, resume, arguments.stop_at, &mut watch)?;
    drop(watch);
    if !outcome.finished {
        let folder = outcome.run.display();
        printer.note(format!("stopped after step {}; go on with: shearling {label} --resume {folder}", outcome.step));
        return Ok(Verdict::Done);
    }
    let written = match stage {
        Stage::Prune => prune_from_step(&setup, &outcome, &printer),
        Stage::Pretrain => export_trained(&setup, &outcome, &printer),
    };
    finish(written, &printer)
}

/// A failed equivalence check is an answer (exit code 1), anything else an error.
pub(super) fn finish(written: anyhow::Result<std::path::PathBuf>, printer: &Printer) -> anyhow::Result<Verdict> {
    match written {
        Ok(path) => {
            let path = path.display().to_string();
            printer.data(format!("{path}\n"), || serde_json::json!({ "model": path }));
            Ok(Verdict::Done)
        }
        Err(error) => match error.downcast_ref::<PruneError>() {
            Some(PruneError::NotEqual(equivalence)) => {
                printer.warn(format!("{equivalence}; nothing was published, the run's checkpoint is kept"));
                Ok(Verdict::CheckFailed)
            }
            _ => Err(error),
        },
    }
}

fn read_config(arguments: &Run) -> anyhow::Result<(RunConfig, bool)> {
    match &arguments.resume {
        None => Ok((load(&arguments.config)?, false)),
        Some(run) => {
            let mut config = load_resolved(run, &arguments.config.set)?;
            config.run.directory = run.clone();
            Ok((config, true))
        }
    }
}

/// Loads `--config` with its overrides.
pub(super) fn load(arguments: &ConfigArguments) -> anyhow::Result<RunConfig> {
    let path = arguments.config.as_ref().context("give a configuration with --config FILE (see configs/)")?;
    Ok(config::load(path, &arguments.set)?)
}

/// The configuration a run was started with.
pub(super) fn load_resolved(run: &Path, overrides: &[String]) -> anyhow::Result<RunConfig> {
    let path = run.join(RESOLVED);
    if !path.is_file() {
        anyhow::bail!("{} is not a run folder (it has no {RESOLVED})", run.display());
    }
    Ok(config::load(&path, overrides)?)
}

fn warn_about_source(setup: &Setup, printer: &Printer) {
    if let Some(hint) = setup.source.as_ref().and_then(|source| source.tokenizer_hint()) {
        printer.warn(hint);
    }
}
