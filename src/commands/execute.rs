//! One run from its configuration to its model folder, for every command that does runs.

use super::export::{prune_one_shot, write_model};
use super::observer::TerminalObserver;
use super::ranks::Quiet;
use super::resumed::working_directory;
use super::run_cost::time_taken;
use crate::cli::Printer;
use crate::cli::table::{bytes, duration};
use crate::config::{RunConfig, Stage, Strategy, validate};
use crate::dist::World;
use crate::export::{Written, folder_name};
use crate::files::refuse_taken;
use crate::inspect::TimeTaken;
use crate::native::runtime::{device, memory, threads};
use crate::run_dir::Claim;
use crate::train::saved_run::{refuse_existing, write_config};
use crate::train::setup::Device;
use crate::train::{Outcome, Setup, run as train_run};
use std::time::Instant;

/// Runs a stage to its end and writes its model; `None` when it stopped before its last step.
pub fn execute(
    config: RunConfig,
    stage: Stage,
    resume: bool,
    stop_at: Option<u64>,
    printer: &Printer,
) -> anyhow::Result<Option<Written>> {
    use_threads(&config);
    let device = device::parse(&config.run.device)?;
    execute_among(config, stage, resume, stop_at, (&World::alone(), device), printer)
}

/// The same by all ranks of a world, each on its device. Rank 0 writes the model.
pub(super) fn execute_among(
    mut config: RunConfig,
    stage: Stage,
    resume: bool,
    stop_at: Option<u64>,
    (world, device): (&World, Device),
    printer: &Printer,
) -> anyhow::Result<Option<Written>> {
    if !resume {
        // A configuration of the other stage first: its folder is that stage's.
        validate(&config, stage)?;
        refuse_existing(&config.run.directory)?;
    }
    let begun = Instant::now();
    // The run may be resumed from another folder.
    config.root_paths(&working_directory()?);
    let setup = Setup::new(config, stage, device)?.among(world.clone())?;
    for warning in setup.warnings() {
        printer.warn(warning);
    }
    if stage == Stage::Prune && setup.config.cuts_at_once() {
        return cut_at_once(&setup, printer).map(Some);
    }
    if !world.is_first() {
        train_run(&setup, resume, stop_at, &mut Quiet::default())?;
        return Ok(None);
    }
    let (outcome, result) = shown(&setup, resume, stop_at, printer)?;
    if let Some(peak) = outcome.peak_memory_bytes {
        let predicted = outcome.predicted_memory.total_bytes();
        let beside = if setup.device.is_cuda() { "" } else { " (both without what the process had before the model)" };
        printer.note(format!("peak memory of the run {}, predicted {}{beside}", bytes(peak as f64), bytes(predicted)));
    }
    if let Some(taken) = TimeTaken::read(&outcome.run).filter(|_| outcome.step > 0) {
        printer.note(format!("the run took {}", time_taken(taken)));
    }
    if let Some(result) = result {
        printer.note(result);
    }
    if !outcome.finished {
        let folder = outcome.run.display();
        let place = match outcome.step {
            0 => "stopped before the first step, there was nothing to save; begin again with".to_string(),
            step => format!("stopped after step {step}; resume with"),
        };
        printer.note(format!("{place}: shearling {} --resume {folder}", stage.command()));
        return Ok(None);
    }
    let written = write_model(&setup, &outcome, outcome.run.join(folder_name(stage)), printer)?;
    printer.note(format!(
        "this command took {}, with what comes before the first step and after the last",
        duration(begun.elapsed().as_secs_f64())
    ));
    Ok(Some(written))
}

/// The run on the terminal, and what it did to the loss.
fn shown(
    setup: &Setup,
    resume: bool,
    stop_at: Option<u64>,
    printer: &Printer,
) -> anyhow::Result<(Outcome, Option<String>)> {
    if let (false, ranks) = (setup.world.is_alone(), setup.world.size()) {
        let strategy = setup.config.dist.strategy;
        let each = match strategy {
            Strategy::Ddp => "each with the whole model",
            Strategy::Fsdp => "each with its shard of weights, gradients and moments",
            Strategy::Hybrid => "weights, gradients and moments sharded within each machine",
        };
        printer.note(format!("{ranks} ranks, {each} (dist.strategy = \"{}\")", strategy.name()));
    }
    let mut terminal = TerminalObserver::new(*printer, setup.stage.name(), &setup.config);
    let outcome = train_run(setup, resume, stop_at, &mut terminal)?;
    Ok((outcome, terminal.result()))
}

/// A cut at once, in a run folder that is held meanwhile: who comes second is told before the work, not after it.
fn cut_at_once(setup: &Setup, printer: &Printer) -> anyhow::Result<Written> {
    let run = &setup.config.run.directory;
    let _claim = Claim::new(run)?;
    let out = run.join(folder_name(Stage::Prune));
    refuse_taken(&out)?;
    printer.note(at_once(&setup.config));
    memory::restart_peak(setup.device);
    let written = prune_one_shot(setup, out, printer)?;
    write_config(run, &setup.config)?;
    if let Some(peak) = memory::peak_bytes(setup.device) {
        let whole = if setup.device.is_cuda() { "the cut" } else { "the whole process" };
        printer.note(format!("peak memory of {whole}: {}", bytes(peak as f64)));
    }
    Ok(written)
}

/// What is about to happen to who may have expected a training run.
fn at_once(config: &RunConfig) -> String {
    format!("cutting at once by {}, without training", config.prune.method().name())
}

/// Computes with as many threads as the configuration says, if it says.
pub(super) fn use_threads(config: &RunConfig) {
    if let Some(threads) = config.run.threads {
        threads::set(threads.get());
    }
}
