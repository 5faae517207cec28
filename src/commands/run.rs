//! `shearling prune`, `shearling pretrain` and `shearling lte train`: run the loop, then write the Hugging Face folder.

use super::ExitStatus;
use super::beside::{configurations_beside, plain};
use super::export::{prune_one_shot, write_model};
use super::finish::{finish, finish_at};
use super::next_step::next_step;
use super::observer::TerminalObserver;
use super::ranks::{Quiet, begun_before, join, tell_end};
use super::refusal::Origin;
use super::resumed::{Resumed, resume, working_directory};
use super::run_cost::time_taken;
use crate::cli::Printer;
use crate::cli::arguments::{ConfigArguments, Run};
use crate::cli::table::bytes;
use crate::config::{self, RunConfig, Stage, validate};
use crate::dist::{Place, World};
use crate::export::{Written, folder_name};
use crate::inspect::TimeTaken;
use crate::lte::file::{FILE_NAME, is_lte};
use crate::native::runtime::{device, threads};
use crate::run_dir::layout::PRUNED;
use crate::train::saved_run::{refuse_existing, write_config};
use crate::train::setup::Device;
use crate::train::{Outcome, Setup, has_work, run as train_run};
use anyhow::Context;
use std::num::NonZeroU64;
use std::path::Path;

/// Runs a stage from the command line; as `place` among several processes, if it is one of them.
pub fn run(arguments: &Run, stage: Stage, place: Option<&Place>) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(false);
    let given = arguments.resume.is_none().then(|| load(&arguments.config)).transpose()?;
    // The same command, started again, goes on with its run, which has these settings already.
    let again = given.as_ref().and_then(|config| begun_before(place, config));
    let sets = if again.is_some() { &[] } else { arguments.config.set.as_slice() };
    let resumed = arguments.resume.as_ref().or(again.as_ref());
    let mut config = match (resumed, given) {
        (None, given) => given.map_or_else(|| load(&arguments.config), Ok)?,
        (Some(folder), _) => match resume(folder, sets, stage, &printer)? {
            Resumed::Run(config) => *config,
            Resumed::Finished(model) => {
                tell_finished(folder, stage, &printer);
                return finish_at(&model, &printer);
            }
        },
    };
    if let Some(device) = &arguments.device {
        config.run.device = device.clone();
    }
    config.run.threads = arguments.threads.threads.or(config.run.threads);
    config.run.tensorboard |= arguments.tensorboard;
    if let (Stage::Pretrain, Some(file)) = (stage, arguments.config.config.as_deref()) {
        require_source(&config, file)?;
    }
    let resumes = resumed.is_some();
    if !resumes {
        refuse_grouped(&config, stage)?;
    }
    let one_shot = config.cuts_at_once();
    let origin = if one_shot { Origin::OneShot } else { Origin::Run(config.run.directory.clone()) };
    if !has_work(&config, stage, place.map_or(0, |place| place.rank)) {
        return Ok(ExitStatus::Done);
    }
    // A cut at once is the work of one.
    let place = place.filter(|_| !one_shot);
    let stop_at = arguments.stop_at.map(NonZeroU64::get);
    let as_given = config.clone();
    use_threads(&config);
    let device = match place {
        Some(place) => device::of_rank(&config.run.device, place.local_rank, place.local_size)?,
        None => device::parse(&config.run.device)?,
    };
    let world = join(place, &config, device)?;
    let written = execute_among(config, stage, resumes, stop_at, (&world, device), &printer);
    if let Err(error) = &written {
        tell_end(&world, error);
    }
    if let Ok(Some(_)) = &written {
        let model = as_given.run.directory.join(folder_name(stage));
        printer.note(next_step(&as_given, stage, arguments.config.config.as_deref(), &model));
    }
    finish(written, &origin, &printer)
}

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
fn execute_among(
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
    // The run may be resumed from another folder.
    config.root_paths(&working_directory()?);
    let setup = Setup::new(config, stage, device)?.among(world.clone())?;
    for warning in setup.warnings() {
        printer.warn(warning);
    }
    if stage == Stage::Prune && setup.config.cuts_at_once() {
        printer.note(at_once(&setup.config));
        let run = &setup.config.run.directory;
        let written = prune_one_shot(&setup, run.join(folder_name(stage)), printer)?;
        write_config(run, &setup.config)?;
        return Ok(Some(written));
    }
    if !world.is_first() {
        train_run(&setup, resume, stop_at, &mut Quiet::begin())?;
        return Ok(None);
    }
    let (outcome, result) = shown(&setup, resume, stop_at, printer)?;
    if let Some(peak) = outcome.peak_memory_bytes {
        let predicted = outcome.predicted_memory.total_bytes();
        printer.note(format!("peak memory of the run {}, predicted {}", bytes(peak as f64), bytes(predicted)));
    }
    if let Some(taken) = TimeTaken::read(&outcome.run) {
        printer.note(format!("the run took {}", time_taken(taken)));
    }
    if let Some(result) = result {
        printer.note(result);
    }
    if !outcome.finished {
        let folder = outcome.run.display();
        printer.note(format!(
            "stopped after step {}; resume with: shearling {} --resume {folder}",
            outcome.step,
            stage.command()
        ));
        return Ok(None);
    }
    write_model(&setup, &outcome, outcome.run.join(folder_name(stage)), printer).map(Some)
}

/// The run on the terminal, and what it did to the loss.
fn shown(
    setup: &Setup,
    resume: bool,
    stop_at: Option<u64>,
    printer: &Printer,
) -> anyhow::Result<(Outcome, Option<String>)> {
    if let (false, ranks) = (setup.world.is_alone(), setup.world.size()) {
        printer.note(format!("{ranks} ranks, each with the whole model (dist.strategy = \"ddp\")"));
    }
    let mut terminal = TerminalObserver::new(*printer, setup.stage.name(), &setup.config);
    let outcome = train_run(setup, resume, stop_at, &mut terminal)?;
    Ok((outcome, terminal.result()))
}

/// Refuses a source that another configuration is still to write, with the command that does.
fn require_source(config: &RunConfig, file: &Path) -> anyhow::Result<()> {
    let Some(source) = config.model.source.as_deref().filter(|source| !source.exists()) else { return Ok(()) };
    let writes = |path: &std::path::PathBuf| {
        config::load(path, &[]).is_ok_and(|config| plain(&config.run.directory.join(PRUNED)) == plain(source))
    };
    match configurations_beside(file).into_iter().find(writes) {
        Some(first) => anyhow::bail!(
            "{} (model.source) is not there yet: shearling prune --config {} writes it",
            source.display(),
            first.display()
        ),
        None => Ok(()),
    }
}

/// Refuses a source whose units are grouped into experts: no run of these stages would know of them.
fn refuse_grouped(config: &RunConfig, stage: Stage) -> anyhow::Result<()> {
    let Some(source) = config.model.source.as_deref().filter(|source| is_lte(source)) else { return Ok(()) };
    let reason = match stage {
        Stage::Prune => "to cut units or dimensions would leave it with experts and routers of another model",
        Stage::Pretrain => {
            "it would be trained as if every expert ran for every token, and its experts and routers would be lost"
        }
        Stage::Lte => return Ok(()),
    };
    anyhow::bail!(
        "{} (model.source) is an LTE folder, it has {}: {reason}. Prune and pretrain the model that it was made from and \
         group what comes of it (shearling lte group), or train this one with its experts (shearling lte train)",
        source.display(),
        FILE_NAME
    )
}

/// What is about to happen to who may have expected a training run.
fn at_once(config: &RunConfig) -> String {
    let unused = match config.train.steps {
        0 | 1 => String::new(),
        steps => format!("; train.steps = {steps} is for prune.method = \"learned\""),
    };
    format!("cutting at once by {}, without training{unused}", config.prune.method().name())
}

fn tell_finished(folder: &Path, stage: Stage, printer: &Printer) {
    let (shown, command) = (folder.display(), stage.command());
    printer.note(format!(
        "{shown} is finished: all its steps are done and its model is written. To train on: shearling {command} --resume \
         {shown} --set train.steps=MORE; to write the model in another dtype: shearling export {shown} --out DIR --dtype \
         DTYPE"
    ));
}

/// Computes with as many threads as the configuration says, if it says.
pub(super) fn use_threads(config: &RunConfig) {
    if let Some(threads) = config.run.threads {
        threads::set(threads.get());
    }
}

/// Loads `--config` with its overrides.
pub(super) fn load(arguments: &ConfigArguments) -> anyhow::Result<RunConfig> {
    let path = arguments.config.as_ref().context("give a configuration with --config FILE (see configs/)")?;
    Ok(config::load(path, &arguments.set)?)
}
