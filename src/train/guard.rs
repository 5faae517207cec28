//! What a run does about losses that say that it cannot go on: refuses a model that is broken before the first step,
//! warns when a loss is too high, ends a run that diverges and tells the way back. What is too high is judged in
//! `watchdog`.

use super::Error;
use super::evaluation::EvalReport;
use super::journal::Journal;
use super::metrics;
use super::observer::Observer;
use super::outcome::Outcome;
use super::recovery_advice::recovery_advice;
use super::setup::{Setup, compute_dtype};
use super::trainer::Trainer;
use super::watchdog::{Alarm, PATIENCE, Watchdog};
use crate::config::Divergence;
use crate::run_dir::RunDir;
use crate::run_dir::layout::METRICS;
use crate::run_dir::record::{self, Reason, Record, What};
use std::path::Path;

/// Refuses to train a model that is broken before its first step: whatever came of it would be blamed on the training.
pub(super) fn require_finite(start: &EvalReport, setup: &Setup) -> Result<(), Error> {
    let broken = start.domains.iter().filter(|domain| domain.loss.is_some_and(|loss| !loss.is_finite()));
    let broken: Vec<&str> = broken.map(|domain| domain.domain.as_str()).collect();
    if let Some(folder) = setup.config.teacher().filter(|_| start.teacher.is_some_and(|loss| !loss.is_finite())) {
        return Err(Error::BrokenStart {
            model: format!("the teacher {}", folder.display()),
            domains: "the held-out rows".to_string(),
            remedy: "Its activations may overflow in distill.dtype; take distill.dtype = \"fp32\", or another \
                     distill.teacher"
                .to_string(),
        });
    }
    if broken.is_empty() {
        return Ok(());
    }
    let (model, remedy) = match &setup.config.model.source {
        Some(source) => (
            format!("model.source = {}", source.display()),
            format!(
                "Its weights hold NaN or infinite numbers, or its activations overflow in run.dtype = \"{}\"; look with: \
                 shearling eval {} --data {} --dtype fp32",
                compute_dtype(setup.config.run.dtype, setup.device).name(),
                source.display(),
                setup.config.data.path.display()
            ),
        ),
        None => {
            ("the new model of [model.random]".to_string(), "Take another shape, or run.dtype = \"fp32\"".to_string())
        }
    };
    Err(Error::BrokenStart { model, domains: broken.join(", "), remedy })
}

/// Takes up what was recorded before this process: a resumed run judges and warns as the uninterrupted one does.
pub(super) fn remember(trainer: &mut Trainer, run: &Path) -> Result<(), Error> {
    for record in metrics::records(&run.join(METRICS))? {
        trainer.watchdog.take(&record);
        trainer.mix_watch.remember(&record);
    }
    Ok(())
}

/// Says that a loss is too high, where that is new.
pub(super) fn tell_alarm(
    alarm: Option<Alarm>,
    trainer: &Trainer,
    journal: &mut Journal,
    observer: &mut dyn Observer,
) -> Result<(), Error> {
    let Some(alarm) = alarm.filter(|alarm| alarm.is_first) else { return Ok(()) };
    let step = trainer.counters.step;
    let outlook = match trainer.config.train.divergence {
        Divergence::Stop => format!("if that lasts ({PATIENCE} in a row, or at the end), the run ends with an error"),
        Divergence::Warn => "the run goes on (train.divergence = \"warn\")".to_string(),
    };
    let told = record::Divergence { text: Some(alarm.text.clone()) };
    journal.write(&Record::new(step, What::Divergence(told)))?;
    observer.noted(&format!("step {step}: {}; {outlook}. A lower train.learning_rate may help", alarm.text));
    Ok(())
}

/// Ends a run that diverges, where that is the policy: one that must not go on, or is at its end with a model that
/// is worth nothing.
pub(super) fn check_divergence(watchdog: &Watchdog, step: u64, setup: &Setup, folder: &RunDir) -> Result<(), Error> {
    if setup.config.train.divergence == Divergence::Warn {
        return Ok(());
    }
    let last = watchdog.last_evaluation().filter(|_| step >= setup.config.train.steps);
    let found = watchdog.verdict().or_else(|| last.map(|text| format!("at its last evaluation {text}")));
    match found {
        Some(found) => {
            Err(Error::Diverged { step, found, recovery_advice: recovery_advice_of(watchdog, setup, folder) })
        }
        None => Ok(()),
    }
}

/// The same of a run that has nothing left to do: its end is what its metrics say.
pub(super) fn check_end(outcome: &Outcome, setup: &Setup) -> Result<(), Error> {
    let metrics = outcome.run.join(METRICS);
    if !outcome.finished || !metrics.exists() {
        return Ok(());
    }
    let mut watchdog = Watchdog::new(setup.model.vocab_size, setup.spec.is_some());
    for record in metrics::records(&metrics)? {
        watchdog.take(&record);
    }
    check_divergence(&watchdog, outcome.step, setup, &RunDir::open(&outcome.run)?)
}

pub(super) fn recovery_advice_of(watchdog: &Watchdog, setup: &Setup, folder: &RunDir) -> String {
    recovery_advice(folder, watchdog.last_good_save(), &setup.config, setup.stage)
}

/// Records why a run ends with an error that its losses brought about.
pub(super) fn ended(error: Error, trainer: &Trainer, journal: &mut Journal) -> Error {
    if matches!(error, Error::NonFinite { .. } | Error::Diverged { .. } | Error::RuinedWeights { .. }) {
        // The error itself is what matters.
        let reason = Reason { reason: Some(error.to_string()) };
        let _ = journal.write(&Record::new(trainer.counters.step, What::Ended(reason)));
    }
    error
}
