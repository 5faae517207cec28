//! Where the records of a run go: always to `metrics.jsonl`, and with `run.tensorboard` to TensorBoard's event files.
//! One place, so that nothing is logged twice or differently.
//!
//! The metrics are part of the run, and a run that cannot write them stops. Event files are only for looking at: what
//! goes wrong with them is a warning.

use super::Error;
use super::metrics::MetricsFile;
use super::tensorboard::EventLog;
use crate::run_dir::record::Record;
use std::path::Path;

/// The records of a run, on their way out.
#[derive(Debug)]
pub struct Journal {
    /// None in a rank that writes nothing.
    metrics: Option<MetricsFile>,
    events: Option<EventLog>,
    /// Whether the last event could not be written.
    failing: bool,
    warning: Option<String>,
}

impl Journal {
    /// Opens the files of a run folder that has finished `step` steps; later lines of its metrics are dropped.
    ///
    /// # Errors
    /// The metrics cannot be read or written.
    pub fn open(run: &Path, step: u64, tensorboard: bool) -> Result<Journal, Error> {
        Ok(Journal::going_on(MetricsFile::open(run, step)?, run, tensorboard))
    }

    /// The same where the checkpoint of that step was written before its evaluation: what an evaluation of the step has
    /// left since is dropped too.
    ///
    /// # Errors
    /// As of [`Journal::open`].
    pub fn before_evaluation(run: &Path, step: u64, tensorboard: bool) -> Result<Journal, Error> {
        Ok(Journal::going_on(MetricsFile::open_before_evaluation(run, step)?, run, tensorboard))
    }

    fn going_on(metrics: MetricsFile, run: &Path, tensorboard: bool) -> Journal {
        let mut journal = Journal { metrics: Some(metrics), events: None, failing: false, warning: None };
        journal.take_events(tensorboard.then(|| EventLog::open(run)));
        journal
    }

    /// Writes nothing: another rank does.
    pub fn nowhere() -> Journal {
        Journal { metrics: None, events: None, failing: false, warning: None }
    }

    /// Opens the files of a run that has ended after `step` steps, to add to them.
    ///
    /// # Errors
    /// The metrics cannot be written.
    pub fn after(run: &Path, step: u64, tensorboard: bool) -> Result<Journal, Error> {
        let mut journal =
            Journal { metrics: Some(MetricsFile::append_to(run)?), events: None, failing: false, warning: None };
        journal.take_events(tensorboard.then(|| EventLog::after(run, step)));
        Ok(journal)
    }

    fn take_events(&mut self, events: Option<Result<EventLog, Error>>) {
        match events {
            Some(Ok(events)) => self.events = Some(events),
            Some(Err(error)) => self.warning = Some(format!("this run writes no TensorBoard events: {error}")),
            None => (),
        }
    }

    /// Writes one record, with the time at which that is.
    ///
    /// # Errors
    /// The metrics cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let record = &record.clone().stamped();
        metrics.write(record)?;
        let Some(events) = &mut self.events else { return Ok(()) };
        match events.write(record) {
            Ok(()) => self.failing = false,
            // Once is enough: on a full disk every record fails.
            Err(_) if self.failing => (),
            Err(error) => {
                self.failing = true;
                self.warning = Some(format!("TensorBoard will miss some steps: {error}"));
            }
        }
        Ok(())
    }

    /// What went wrong with the event files and was not told yet.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::layout::{METRICS, TENSORBOARD};
    use crate::train::metrics;
    use serde_json::json;

    #[test]
    fn without_tensorboard_there_is_no_folder_of_it() {
        let run = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(run.path(), 0, false).unwrap();
        journal.write(&json!({ "type": "start", "step": 0 }).into()).unwrap();
        assert!(!run.path().join(TENSORBOARD).exists());
        assert_eq!(journal.take_warning(), None);
    }

    #[test]
    fn a_full_disk_is_told_once_and_the_metrics_go_on() {
        let run = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(run.path(), 0, false).unwrap();
        journal.events = Some(EventLog::on_full_disk());
        let step = |at: u64| Record::from(json!({ "type": "step", "step": at, "loss": { "total": 1.0 } }));
        journal.write(&step(1)).unwrap();
        let warning = journal.take_warning().unwrap();
        assert!(warning.contains("will miss some steps") && warning.contains("/dev/full"), "{warning}");
        (2..=4).for_each(|at| journal.write(&step(at)).unwrap());
        assert_eq!(journal.take_warning(), None);
        let records = metrics::read(&run.path().join(METRICS)).unwrap();
        let times: Vec<f64> = records.iter().map(|record| record["time"].as_f64().unwrap()).collect();
        // After 2025, and in order.
        assert!(times.len() == 4 && times[0] > 1.73e9 && times.is_sorted(), "{times:?}");
    }

    #[test]
    fn events_that_cannot_be_written_are_a_warning() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join(TENSORBOARD), "a file where the folder would be").unwrap();
        let mut journal = Journal::open(run.path(), 0, true).unwrap();
        let warning = journal.take_warning().unwrap();
        assert!(warning.contains("no TensorBoard events") && warning.contains(TENSORBOARD), "{warning}");
        journal.write(&json!({ "type": "start", "step": 0 }).into()).unwrap();
        assert_eq!(journal.take_warning(), None);
        assert_eq!(metrics::read(&run.path().join(METRICS)).unwrap().len(), 1);
    }
}
