//! How a run folder is opened: a new one for a new run, the one that is there for a run that is resumed. Nothing is
//! written before everything that could be refused has been. Of several ranks the first holds the folder and its lock.

use super::Error;
use super::checkpoint::standing;
use super::decide::Intervals;
use super::memory::checkpoint_bytes;
use super::metrics;
use super::observer::Observer;
use super::outcome::{Outcome, predicted_memory};
use super::same_run::check_same_run;
use super::saved_run::{refuse_existing, saved_config, write_config};
use super::setup::Setup;
use super::trainer::Trainer;
use crate::files::{ensure_space, write_atomic};
use crate::run_dir::layout::{CHECKPOINTS, METRICS, SNAPSHOTS, claimed_step};
use crate::run_dir::record::{Record, What};
use crate::run_dir::{Latest, RunDir, RunLock, STEPS_AT_ONCE, StepDir, Verify};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A run folder that is ours, and the run in it.
pub(super) struct Opened {
    pub folder: RunDir,
    /// Of the rank that writes.
    pub _lock: Option<RunLock>,
    pub trainer: Trainer,
    /// Where the run continues from; none at its start.
    pub checkpoint: Option<u64>,
}

/// What there is to do in a run folder.
pub(super) enum Opening {
    /// Steps, or the evaluation of the last one.
    Run(Box<Opened>),
    /// Nothing: the last checkpoint is at the last step, or at the one to stop at.
    Done(Box<Outcome>),
}

/// What is found in the place of a run's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Found {
    /// No run.
    Nothing,
    /// One that ended before its first checkpoint: it has nothing to continue from, and nothing to lose.
    NothingSaved,
    /// One that goes on from this step.
    Step(u64),
    /// One that has nothing left to do after this step.
    Done(u64),
}

/// What the rank that writes holds of a folder that is there.
struct Held {
    folder: RunDir,
    lock: RunLock,
    latest: Latest,
}

/// Opens the folder of `setup`, to start a run there or to resume the one that is there. Rank 0 looks and writes, the
/// others do as it says.
pub(super) fn open(
    setup: &Setup,
    resume: bool,
    intervals: &Intervals,
    observer: &mut dyn Observer,
) -> Result<Opening, Error> {
    let root = &setup.config.run.directory;
    let mut held = None;
    let found = setup.world.told(|| if resume { hold(setup, intervals, &mut held, observer) } else { free(setup) })?;
    let trainer = match found {
        // The trainer comes first: a run that cannot start leaves no folder behind.
        Found::Nothing | Found::NothingSaved => {
            Trainer::starting(setup, &mut |what, done, of| observer.measuring(what, done, of))
        }
        Found::Step(step) => restore(setup, held.as_ref(), step),
        Found::Done(step) => return Ok(Opening::Done(Box::new(done(setup, step)?))),
    };
    let mut trainer = trainer?;
    trainer.agree_on_start()?;
    let checkpoint = if let Found::Step(step) = found { Some(step) } else { None };
    let mut mine = None;
    setup.world.told(|| {
        mine = Some(claim(setup, found, held, observer)?);
        Ok::<(), Error>(())
    })?;
    let (folder, lock) = match mine {
        Some((folder, lock)) => (folder, Some(lock)),
        None => (RunDir::of_another(root), None),
    };
    Ok(Opening::Run(Box::new(Opened { folder, _lock: lock, trainer, checkpoint })))
}

/// A new run finds nothing in its place.
fn free(setup: &Setup) -> Result<Found, Error> {
    refuse_existing(&setup.config.run.directory)?;
    ensure_space(&setup.config.run.directory, run_bytes(setup))?;
    Ok(Found::Nothing)
}

/// Takes hold of the folder of a run and looks where it stands.
fn hold(
    setup: &Setup,
    intervals: &Intervals,
    held: &mut Option<Held>,
    observer: &mut dyn Observer,
) -> Result<Found, Error> {
    let folder = RunDir::open(&setup.config.run.directory)?;
    let lock = RunLock::acquire(folder.root())?;
    folder.remove_leftovers()?;
    check_same_run(&saved_config(folder.root())?, &setup.config)?;
    let latest = folder.latest_valid(Verify::Hashes)?;
    let fate = if latest.step.is_some() { "" } else { " and kept, since there is no whole one" };
    for skipped in &latest.skipped {
        observer.noted(&format!("the checkpoint of step {} is broken{fate}: {}", skipped.step, skipped.reason));
    }
    let found = match latest.step.as_ref().map(StepDir::step) {
        None => {
            refuse_lost_checkpoints(folder.root(), latest.skipped.len())?;
            Found::NothingSaved
        }
        Some(step) if intervals.stops(step, false) && !is_evaluation_due(latest.step.as_ref())? => {
            write_config(folder.root(), &setup.config)?;
            Found::Done(step)
        }
        Some(step) => Found::Step(step),
    };
    *held = Some(Held { folder, lock, latest });
    Ok(found)
}

/// Whether the run was stopped in the evaluation of the step.
fn is_evaluation_due(step: Option<&StepDir>) -> Result<bool, Error> {
    step.map_or(Ok(false), |step| Ok(standing(step)?.0.evaluation_due.is_some()))
}

/// The run at a step. Whoever holds the folder has checked the step's hashes; the others look that it is all there.
fn restore(setup: &Setup, held: Option<&Held>, step: u64) -> Result<Trainer, Error> {
    match held.and_then(|held| held.latest.step.as_ref()) {
        Some(step) => Trainer::restore(setup, step),
        None => {
            let folder = RunDir::of_another(&setup.config.run.directory);
            Trainer::restore(setup, &folder.open_step(step, Verify::Sizes)?)
        }
    }
}

/// Makes the folder that of this run, once the run has loaded.
fn claim(
    setup: &Setup,
    found: Found,
    held: Option<Held>,
    observer: &mut dyn Observer,
) -> Result<(RunDir, RunLock), Error> {
    let Some(Held { folder, lock, latest }) = held else {
        let folder = RunDir::create(&setup.config.run.directory)?;
        let lock = RunLock::acquire(folder.root())?;
        write_config(folder.root(), &setup.config)?;
        return Ok((folder, lock));
    };
    let step = if let Found::Step(step) = found { step } else { 0 };
    // Only now that an older one has loaded: the run will come past these steps again.
    for skipped in &latest.skipped {
        folder.remove_step(skipped.step)?;
        observer.noted(&format!("the broken checkpoint of step {} is removed", skipped.step));
    }
    write_config(folder.root(), &setup.config)?;
    remove_later_snapshots(&folder.root().join(SNAPSHOTS), step)?;
    if found == Found::NothingSaved {
        write_atomic(&folder.root().join(METRICS), b"")?;
        observer.noted("the run ended before its first checkpoint: it begins again at step 0");
    }
    Ok((folder, lock))
}

/// The end of a run that has nothing left to do.
fn done(setup: &Setup, step: u64) -> Result<Outcome, Error> {
    let folder = RunDir::of_another(&setup.config.run.directory);
    outcome_at(setup, &folder, &folder.open_step(step, Verify::Sizes)?)
}

/// A run that had checkpoints is not begun again in silence when none can be read.
fn refuse_lost_checkpoints(run: &Path, broken: usize) -> Result<(), Error> {
    let metrics = run.join(METRICS);
    let saved = |record: &Record| record.step.filter(|_| matches!(record.what, What::Save(_)));
    let last = match metrics.exists() {
        true => metrics::records(&metrics)?.iter().filter_map(saved).max(),
        false => None,
    };
    let found = match (broken, last) {
        (0, None) => return Ok(()),
        (0, Some(step)) => format!("the one of step {step} is gone"),
        _ => format!("none in {} is whole", run.join(CHECKPOINTS).display()),
    };
    let shown = run.display();
    Err(Error::Mismatch(format!(
        "{shown} has no good checkpoint to resume from ({found}); put one back, or start a new run with another \
         run.directory"
    )))
}

fn outcome_at(setup: &Setup, folder: &RunDir, step: &StepDir) -> Result<Outcome, Error> {
    let (counters, proportions) = standing(step)?;
    Ok(Outcome {
        run: folder.root().to_path_buf(),
        checkpoint: Some(step.path().to_path_buf()),
        step: counters.step,
        finished: counters.has_finished(setup.config.train.steps),
        tokens: counters.tokens,
        domain_rows: counters.domain_rows,
        proportions,
        predicted_memory: predicted_memory(setup),
        peak_memory_bytes: None,
    })
}

/// Disk a run will take: the last and the best checkpoint and the one being written (one, if it saves only once), and
/// the exported model in fp32.
fn run_bytes(setup: &Setup) -> u64 {
    let once = setup.config.checkpoint.every_steps >= setup.config.train.steps;
    let one = checkpoint_bytes(&setup.model, &setup.config);
    (one * if once { 1.0 } else { f64::from(STEPS_AT_ONCE) } + one / 3.0) as u64
}

fn remove_later_snapshots(folder: &Path, step: u64) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let claimed = path.file_name().and_then(|name| claimed_step(name.to_str()?));
        if claimed.is_some_and(|claimed| claimed > step) {
            std::fs::remove_file(&path).map_err(|source| Error::Io { action: "remove", path, source })?;
        }
    }
    Ok(())
}
