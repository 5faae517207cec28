//! A run from start (or resume) to its last step: the loop, and what it writes on the way. How a run folder is opened is
//! in `open`.

use super::Error;
use super::decide::Intervals;
use super::guard::{check_divergence, check_end, ended, recovery_advice_of, remember, tell_alarm};
use super::journal::Journal;
use super::metrics::{self, Timing};
use super::observer::Observer;
use super::open::{Opened, Opening, open};
use super::outcome::{Outcome, predicted_memory};
use super::ranks::check_same;
use super::scheduled_evaluation::{evaluate, evaluate_start};
use super::setup::Setup;
use super::trainer::{Counters, Trainer};
use crate::files::Error as CheckpointError;
use crate::hf::ModelCard;
use crate::native::runtime::{allocator, device, memory};
use crate::prune::shape::source_shape;
use crate::run_dir::record::{Exhausted, Items, Reason, Record, Saved, Skipped, Start, What};
use crate::run_dir::{RunDir, Verify};
use shearling_masks::Shape;
use std::path::Path;
use std::time::Instant;

/// Runs `setup` to its end, to `stop_at`, or until the observer interrupts. With `resume` the run folder exists and
/// continues from its last good checkpoint, or from the start where it died before the first; otherwise it must not exist.
///
/// All ranks of `setup.world` take the same way through this, and rank 0 alone writes.
pub fn run(setup: &Setup, resume: bool, stop_at: Option<u64>, observer: &mut dyn Observer) -> Result<Outcome, Error> {
    // What an earlier run of this process left free, and would fill again, is no memory of this one.
    allocator::release_unused();
    let base = memory::used_bytes(setup.device);
    let intervals = Intervals::new(&setup.config, stop_at);
    check_same(setup)?;
    let Opened { folder, _lock, mut trainer, mut checkpoint } = match open(setup, resume, &intervals, observer)? {
        // Nothing is left to do, and nothing is written.
        Opening::Done(outcome) => {
            setup.world.told(|| check_end(&outcome, setup))?;
            return Ok(*outcome);
        }
        Opening::Run(opened) => *opened,
    };
    memory::restart_peak(setup.device);
    let mut journal = match setup.world.is_first() {
        true => open_journal(folder.root(), &trainer, setup.config.run.tensorboard)?,
        false => Journal::nowhere(),
    };
    let resumed = checkpoint.is_some();
    let start = Box::new(start(setup, &trainer));
    let what = if resumed { What::Resume(start) } else { What::Start(start) };
    journal.write(&Record::new(trainer.counters.step, what))?;
    observer.started(&trainer, resumed);
    journal.take_warning().iter().for_each(|warning| observer.noted(warning));
    // Until here rank 0 may have cut the metrics, which all read.
    setup.world.barrier()?;
    if resume {
        remember(&mut trainer, folder.root())?;
    }
    let mut interrupted = false;
    if trainer.counters.step == 0 {
        match evaluate_start(&mut trainer, setup, &mut journal, observer) {
            // Nothing is trained yet, and nothing to save: the run begins again when it resumes.
            Err(Error::Interrupted) => interrupted = true,
            // Of a run that cannot begin nothing stays.
            Err(error) => {
                if !resume && setup.world.is_first() && matches!(error, Error::BrokenStart { .. }) {
                    let _ = std::fs::remove_dir_all(folder.root());
                }
                return Err(error);
            }
            Ok(()) => interrupted = is_asked_to_stop(setup, observer)?,
        }
    }
    let first_step = trainer.counters.step;
    while !interrupted && (trainer.counters.evaluation_due.is_some() || !intervals.stops(trainer.counters.step, false))
    {
        // The step of an evaluation that is due was made before the run stopped, and has a checkpoint from before that.
        let again = trainer.counters.evaluation_due.is_some();
        if !again && let Err(error) = one_step(&mut trainer, setup, base, &folder, &mut journal, observer) {
            // Data that ran out or broke leaves the state between two steps whole: the steps so far are kept.
            let of_data = matches!(error, Error::Domains(_) | Error::DataElsewhere { .. });
            if of_data && is_unsaved(&trainer, checkpoint) {
                save(&mut trainer, setup, &folder, &mut journal, observer, Saving { last: true, again: false })?;
            }
            return Err(ended(error, &trainer, &mut journal));
        }
        let step = trainer.counters.step;
        interrupted = !again && if setup.world.is_alone() { observer.interrupted() } else { trainer.all_stop() };
        if again || intervals.evaluates(step) || intervals.saves_on_schedule(step) {
            let whole = evaluate(&mut trainer, &folder, &intervals, &mut journal, observer)?;
            interrupted |= !whole || is_asked_to_stop(setup, observer)?;
        }
        // Not at the last step: what it leaves is kept for whoever wants it all the same.
        if step < intervals.steps {
            check_divergence(&trainer.watchdog, step, setup, &folder)
                .map_err(|error| ended(error, &trainer, &mut journal))?;
        }
        let stops = intervals.stops(step, interrupted);
        let saves = if again { trainer.counters.evaluation_due.is_none() } else { intervals.saves(step, interrupted) };
        if saves {
            let saving = Saving { last: stops, again };
            let saved = save(&mut trainer, setup, &folder, &mut journal, observer, saving);
            if saved.map_err(|error| ended(error, &trainer, &mut journal))? {
                checkpoint = Some(step);
            }
        }
        journal.take_warning().iter().for_each(|warning| observer.noted(warning));
        if stops {
            break;
        }
    }
    journal.take_warning().iter().for_each(|warning| observer.noted(warning));
    if trainer.counters.evaluation_due.is_none() {
        check_divergence(&trainer.watchdog, trainer.counters.step, setup, &folder)
            .map_err(|error| ended(error, &trainer, &mut journal))?;
    }
    Ok(Outcome {
        run: folder.root().to_path_buf(),
        checkpoint: checkpoint.map(|step| folder.step_path(step)),
        step: trainer.counters.step,
        finished: trainer.counters.has_finished(setup.config.train.steps),
        tokens: trainer.counters.tokens,
        domain_rows: trainer.counters.domain_rows.clone(),
        proportions: trainer.proportions().to_vec(),
        predicted_memory: predicted_memory(setup),
        peak_memory_bytes: peak_above(base, setup).filter(|_| trainer.counters.step > first_step),
    })
}

/// Peak memory of the device of the run so far, above what the process had before: what was predicted is without it too.
fn peak_above(base: Option<u64>, setup: &Setup) -> Option<u64> {
    memory::peak_bytes(setup.device).zip(base).map(|(peak, base)| peak.saturating_sub(base))
}

/// Whether a rank is asked to stop; the same for all.
fn is_asked_to_stop(setup: &Setup, observer: &mut dyn Observer) -> Result<bool, Error> {
    let [asked] = setup.world.raised([observer.interrupted()])?;
    Ok(asked.is_some())
}

/// The files of a run from where it stands on.
fn open_journal(run: &Path, trainer: &Trainer, tensorboard: bool) -> Result<Journal, Error> {
    let Counters { step, evaluation_due, .. } = trainer.counters;
    if evaluation_due.is_some() {
        return Journal::before_evaluation(run, step, tensorboard);
    }
    Journal::open(run, step, tensorboard)
}

/// Whether steps were taken since the last checkpoint.
fn is_unsaved(trainer: &Trainer, checkpoint: Option<u64>) -> bool {
    trainer.counters.step > checkpoint.unwrap_or(0)
}

/// What the run is, for its first line.
fn start(setup: &Setup, trainer: &Trainer) -> Start {
    let known = |numbers: &[f64]| numbers.iter().copied().map(Some).collect();
    Start {
        stage: Some(setup.stage.name().to_string()),
        steps: Some(setup.config.train.steps),
        evaluate_every: Some(setup.config.eval.every_steps),
        version: Some(env!("CARGO_PKG_VERSION").to_string()),
        domains: Items(trainer.domains.clone()),
        proportions: known(trainer.proportions()),
        reference_losses: setup.references.losses.as_deref().map(known),
        references: setup.references.measured.clone(),
        data_fingerprint: Some(setup.dataset.fingerprint().to_string()),
        device: Some(device::name(setup.device)),
        predicted_memory_bytes: Some(predicted_memory(setup).total_bytes()),
        source_shape: shape_value(Some(&source_shape(&setup.model))),
        target_shape: shape_value(setup.spec.as_ref().map(|spec| spec.target())),
        source_stages: source_stages(setup),
        ranks: Some(setup.world.size() as u64).filter(|ranks| *ranks > 1),
    }
}

fn shape_value(shape: Option<&Shape>) -> serde_json::Value {
    serde_json::to_value(shape).unwrap_or_default()
}

/// The stages that made the model the run starts from, where its folder tells.
fn source_stages(setup: &Setup) -> Option<Vec<(String, u64, u64)>> {
    let card = ModelCard::read(setup.config.model.source.as_deref()?).ok().flatten()?;
    Some(card.stages)
}

fn one_step(
    trainer: &mut Trainer,
    setup: &Setup,
    base: Option<u64>,
    folder: &RunDir,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let before = Instant::now();
    trainer.ask_to_stop(observer.interrupted());
    let report = trainer.step()?;
    let seconds = before.elapsed().as_secs_f64();
    trainer.counters.seconds += seconds;
    let timing = Timing {
        seconds,
        tokens_per_second: report.tokens as f64 / seconds.max(1e-9),
        peak_memory_bytes: peak_above(base, setup),
    };
    let record = metrics::step_record(trainer, &report, timing);
    journal.write(&record)?;
    let alarm = trainer.watchdog.take(&record);
    tell_alarm(alarm, trainer, journal, observer)?;
    let exhausted: Vec<String> =
        report.exhausted.iter().filter(|name| trainer.exhausted.insert((*name).clone())).cloned().collect();
    if !exhausted.is_empty() {
        let names = exhausted.join(", ");
        journal.write(&Record::new(report.step, What::Exhausted(Exhausted { domains: Items(exhausted) })))?;
        observer.noted(&format!(
            "step {}: {names} reached data.max_epochs and left the mix; its share goes to the other domains",
            report.step
        ));
    }
    if !report.applied {
        let skipped = Skipped { in_row: Some(trainer.counters.skipped_in_row) };
        journal.write(&Record::new(report.step, What::Skip(skipped)))?;
        observer.noted(&format!("step {}: non-finite loss or gradient, the update was skipped", report.step));
        let limit = trainer.config.train.max_skipped_steps;
        if trainer.counters.skipped_in_row >= limit.max(1) {
            let (skipped, step) = (trainer.counters.skipped_in_row, report.step);
            return Err(Error::NonFinite {
                skipped,
                step,
                recovery_advice: recovery_advice_of(&trainer.watchdog, setup, folder),
            });
        }
    }
    observer.stepped(trainer, &report, timing);
    Ok(())
}

/// How a checkpoint is written.
#[derive(Clone, Copy)]
struct Saving {
    /// Whether the run ends with it.
    last: bool,
    /// Whether the step has one, from before its evaluation.
    again: bool,
}

/// Saves, then removes older checkpoints: the last and the best stay, and the newest good one where the last may not be.
/// False where the disk is full and the run may go on (it is not the last): there will be another save, and the last good one is
/// still there.
fn save(
    trainer: &mut Trainer,
    setup: &Setup,
    folder: &RunDir,
    journal: &mut Journal,
    observer: &mut dyn Observer,
    Saving { last, again }: Saving,
) -> Result<bool, Error> {
    let step = trainer.counters.step;
    if !trainer.is_finite()? {
        return Err(Error::RuinedWeights {
            step,
            recovery_advice: recovery_advice_of(&trainer.watchdog, setup, folder),
        });
    }
    let best = trainer.counters.best.map(|best| best.step);
    let due = trainer.counters.evaluation_due.is_some();
    // While something speaks against the weights, or may yet, those from before are kept too.
    let good = trainer.watchdog.last_good_save().filter(|_| due || !trainer.watchdog.is_well());
    let mut keep = vec![step];
    keep.extend(best.into_iter().chain(good).filter(|kept| *kept != step));
    keep.dedup();
    if !setup.world.is_first() {
        trainer.save_shards()?;
    }
    let written = setup.world.told(|| match write_step(trainer, setup, folder, &keep, again) {
        Err(Error::Checkpoint(error @ CheckpointError::NoSpace { .. })) if !last => {
            journal.write(&Record::new(step, What::NotSaved(Reason { reason: Some(error.to_string()) })))?;
            observer.noted(&format!("step {step}: no checkpoint was written: {error}"));
            Ok(false)
        }
        written => written.map(|()| true),
    })?;
    if written {
        let record = Record::new(step, What::Save(Saved { kept: Items(keep), evaluation_due: due.then_some(true) }));
        journal.write(&record)?;
        trainer.watchdog.take(&record);
        observer.saved(step, &folder.step_path(step));
    }
    Ok(written)
}

fn write_step(trainer: &mut Trainer, setup: &Setup, folder: &RunDir, keep: &[u64], again: bool) -> Result<(), Error> {
    trainer.save(folder, setup.config.checkpoint.max_shard_bytes, setup.stage.name(), again)?;
    folder.retain(keep, Verify::Sizes)?;
    Ok(())
}
