//! The evaluations of a run: before the first step, on schedule and at the end; what each writes and tells. Called by
//! `run_loop`, which saves afterwards.
//!
//! A run that is asked to stop leaves its evaluation: on a large model that takes minutes, and a cluster kills after seconds. The
//! checkpoint then says which part is due, and a resumed run makes it before it goes on, so that the mix moves and the best is
//! chosen as if it had never stopped.

use super::Error;
use super::decide::{Intervals, improves};
use super::eval_part::EvalPart;
use super::evaluation::EvalReport;
use super::guard::{require_finite, tell_alarm};
use super::journal::Journal;
use super::metrics;
use super::observer::Observer;
use super::setup::Setup;
use super::trainer::{Best, Trainer};
use crate::run_dir::RunDir;
use crate::run_dir::layout::{SNAPSHOTS, snapshot_name};
use crate::run_dir::record::{Record, What};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

/// The model that the run starts from, without masks: what pruning takes away, and training adds, is measured from here.
///
/// # Errors
/// Among others [`Error::Interrupted`], before anything is written.
pub(super) fn evaluate_start(
    trainer: &mut Trainer,
    setup: &Setup,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let report = timed(|| trainer.evaluate_plain(&mut |what, done, of| shown(observer, what, done, of)))?;
    require_finite(&report, setup)?;
    let record = metrics::eval_record(trainer, &report, None);
    journal.write(&record)?;
    trainer.watchdog.take(&record);
    observer.evaluated(trainer, &report);
    Ok(())
}

/// Evaluates after the present step, or makes what is due of that. False where the run was asked to stop meanwhile: the trainer's
/// counters then say what is due.
pub(super) fn evaluate(
    trainer: &mut Trainer,
    folder: &RunDir,
    intervals: &Intervals,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<bool, Error> {
    let first = trainer.counters.evaluation_due.take().unwrap_or(EvalPart::Model);
    for part in EvalPart::ALL.into_iter().filter(|part| *part >= first) {
        let done = match part {
            EvalPart::Model => evaluate_model(trainer, folder, intervals, journal, observer),
            EvalPart::Cut => evaluate_cut(trainer, intervals, journal, observer),
            EvalPart::Soft => evaluate_soft(trainer, journal, observer),
        };
        match done {
            Err(Error::Interrupted) => {
                trainer.counters.evaluation_due = Some(part);
                return Ok(false);
            }
            done => done?,
        }
    }
    Ok(true)
}

/// The model as it is, and what follows for the mix.
fn evaluate_model(
    trainer: &mut Trainer,
    folder: &RunDir,
    intervals: &Intervals,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let report = timed(|| trainer.evaluate(intervals, &mut |what, done, of| shown(observer, what, done, of)))?;
    let first = trainer.is_first();
    let snapshot = if first { snapshot(trainer, folder.root())? } else { None };
    let record = metrics::eval_record(trainer, &report, snapshot.as_deref());
    journal.write(&record)?;
    observer.evaluated(trainer, &report);
    let alarm = trainer.watchdog.take(&record);
    tell_alarm(alarm, trainer, journal, observer)?;
    for notice in &report.mix_notices {
        journal.write(&Record::new(report.step, What::Mixer(notice.fields())))?;
        let text = format!("step {}: {}", report.step, notice.text);
        if notice.is_routine() { observer.remarked(&text) } else { observer.noted(&text) }
    }
    if trainer.masks().is_none() {
        consider_for_best(trainer, intervals, report.mean);
    }
    Ok(())
}

/// While pruning, the masks cut to the exact target at a step that will be saved: what competes for "best" is the model that an
/// export would give.
fn evaluate_cut(
    trainer: &mut Trainer,
    intervals: &Intervals,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    if trainer.masks().is_none() || !intervals.saves_on_schedule(trainer.counters.step) {
        return Ok(());
    }
    let report = timed(|| trainer.evaluate_target(&mut |what, done, of| shown(observer, what, done, of)))?;
    journal.write(&metrics::eval_record(trainer, &report, None))?;
    observer.evaluated(trainer, &report);
    consider_for_best(trainer, intervals, report.mean);
    Ok(())
}

/// In stage 1 of `lte train`, experts multiplied by their scores.
fn evaluate_soft(trainer: &mut Trainer, journal: &mut Journal, observer: &mut dyn Observer) -> Result<(), Error> {
    if !trainer.multiplies_scores() {
        return Ok(());
    }
    let report = timed(|| trainer.evaluate_soft(&mut |what, done, of| shown(observer, what, done, of)))?;
    journal.write(&metrics::eval_record(trainer, &report, None))?;
    observer.evaluated(trainer, &report);
    Ok(())
}

/// Lets a step that will be saved on schedule compete for "best"; while pruning only where the masks are near enough to the target.
fn consider_for_best(trainer: &mut Trainer, intervals: &Intervals, loss: Option<f64>) {
    let step = trainer.counters.step;
    let best = trainer.counters.best.map(|best| best.loss);
    let competes = |loss: &f64| intervals.saves_on_schedule(step) && improves(*loss, best);
    if let Some(loss) = loss.filter(competes).filter(|_| trainer.constraint_holds()) {
        trainer.counters.best = Some(Best { step, loss });
    }
}

/// Tells how far an evaluation is, and whether it may go on.
fn shown(observer: &mut dyn Observer, what: &str, done: usize, of: usize) -> ControlFlow<()> {
    observer.evaluating(what, done, of);
    if observer.interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// An evaluation, with how long it took.
fn timed(evaluate: impl FnOnce() -> Result<EvalReport, Error>) -> Result<EvalReport, Error> {
    let begun = Instant::now();
    let report = evaluate()?;
    Ok(EvalReport { seconds: Some(begun.elapsed().as_secs_f64()), ..report })
}

/// Writes the masks as they are; the path relative to the run folder.
fn snapshot(trainer: &Trainer, run: &Path) -> Result<Option<String>, Error> {
    let Some(masks) = trainer.masks() else { return Ok(None) };
    let folder = run.join(SNAPSHOTS);
    std::fs::create_dir_all(&folder).map_err(|source| Error::Io { action: "create", path: folder.clone(), source })?;
    let name = snapshot_name(trainer.counters.step);
    masks.save(folder.join(&name))?;
    Ok(Some(format!("{SNAPSHOTS}/{name}")))
}
