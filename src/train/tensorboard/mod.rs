//! TensorBoard event files of a run, made from the same records as `metrics.jsonl` and from nothing else: what is live
//! in TensorBoard while a run goes on is what can be made of its metrics afterwards.
//!
//! ```text
//! record ─► summary (tag, value) ─► proto (event) ─► event_file (checksums, one record per write)
//! ```
//!
//! Every file begins with the mark of a start: readers forget what an earlier file says of its step and later ones, as
//! they do with TensorBoard's own writers. A resumed run begins a new file with its whole history, so that what was
//! logged of steps that it takes again, or was not logged while events were off, is put right.

mod dropped;
mod event_file;
mod proto;
mod summary;

pub use dropped::DroppedLine;

use super::Error;
use crate::files::Staging;
use crate::run_dir::layout::{METRICS, RESOLVED_CONFIG, TENSORBOARD};
use crate::run_dir::record::{self, Record};
use event_file::EventFile;
use proto::{Event, SESSION_START, SessionLog, Summary, What};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The event file of a run, open for appending.
#[derive(Debug)]
pub struct EventLog {
    file: EventFile,
    /// The configuration, until it is written: with the first `start` or `resume`.
    config: Option<String>,
}

impl EventLog {
    /// Opens a new file, with what the run's metrics hold so far.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub fn open(run: &Path) -> Result<EventLog, Error> {
        let mut log = EventLog::create(run, &run.join(TENSORBOARD))?;
        log.write_history(run)?;
        Ok(log)
    }

    /// Opens a new file for what comes after the last of `step` steps; earlier files stay as they are.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub fn after(run: &Path, step: u64) -> Result<EventLog, Error> {
        let mut log = EventLog::create(run, &run.join(TENSORBOARD))?;
        log.start(step + 1).map_err(|source| log.failed(source))?;
        Ok(log)
    }

    fn create(run: &Path, folder: &Path) -> Result<EventLog, Error> {
        let file = EventFile::create(folder, now());
        let file =
            file.map_err(|source| Error::Io { action: "write events to", path: folder.to_path_buf(), source })?;
        Ok(EventLog { file, config: std::fs::read_to_string(run.join(RESOLVED_CONFIG)).ok() })
    }

    /// Writes the values of one record at its `time`; without one, now.
    ///
    /// # Errors
    /// Whatever the file system refuses; the next record may be tried all the same.
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        let mut values = summary::values(record);
        if matches!(record.what, record::What::Start(_) | record::What::Resume(_)) {
            values.extend(self.config.take().map(|config| summary::text("config", &config)));
        }
        let Some(step) = record.step.filter(|_| !values.is_empty()) else { return Ok(()) };
        let time = record.time.unwrap_or_else(now);
        self.append(step, time, What::Summary(Summary { values })).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { action: "write events to", path: self.file.path().to_path_buf(), source }
    }

    /// Tells readers to forget what earlier files say of `step` and after. The first mark of a folder tells nothing,
    /// but TensorBoard's server takes only those after it for restarts.
    fn start(&mut self, step: u64) -> io::Result<()> {
        self.append(step, now(), What::SessionLog(SessionLog { status: SESSION_START }))
    }

    fn append(&mut self, step: u64, wall_time: f64, what: What) -> io::Result<()> {
        self.file.append(&Event { wall_time, step: step as i64, what: Some(what) })
    }

    /// Writes what `metrics.jsonl` holds; the lines that are left out.
    fn write_history(&mut self, run: &Path) -> Result<Vec<DroppedLine>, Error> {
        self.start(0).map_err(|source| self.failed(source))?;
        let path = run.join(METRICS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let mut dropped = Vec::new();
        dropped::read(&path, &mut |record| self.write(record), &mut dropped)?;
        Ok(dropped)
    }
}

/// Makes the event file of any run, going on or over, from its `metrics.jsonl`; `out` appears whole and is returned,
/// with the lines that gave no event.
///
/// # Errors
/// There is no metrics file, or `out` exists already and is not empty.
pub fn convert(run: &Path, out: &Path) -> Result<(PathBuf, Vec<DroppedLine>), Error> {
    let metrics = run.join(METRICS);
    std::fs::metadata(&metrics).map_err(|source| Error::Io { action: "read", path: metrics, source })?;
    let staging = Staging::new(out)?;
    let dropped = EventLog::create(run, staging.path())?.write_history(run)?;
    Ok((staging.publish()?, dropped))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
impl EventLog {
    /// A log on a disk that is full.
    pub(super) fn on_full_disk() -> EventLog {
        EventLog { file: EventFile::on_full_disk(), config: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Datum;
    use serde_json::json;

    fn step(step: u64) -> Record {
        let time = 1_700_000_000.0 + 10.0 * step as f64;
        Record::from(json!({ "type": "step", "step": step, "time": time, "loss": { "total": step as f64 / 2.0 } }))
    }

    /// Event files of a folder in the order that a reader takes them.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    /// (step, loss) as a reader sees them who obeys marks of a start.
    fn losses(folder: &Path) -> Vec<(i64, f32)> {
        let mut seen: Vec<(i64, f32)> = Vec::new();
        for event in files(folder).iter().flat_map(|path| event_file::read(path)) {
            match event.what.unwrap() {
                What::SessionLog(log) if log.status == SESSION_START => seen.retain(|(step, _)| *step < event.step),
                What::Summary(summary) => seen.extend(summary.values.iter().filter_map(|value| match value.datum {
                    Some(Datum::Scalar(loss)) if value.tag == "loss/total" => Some((event.step, loss)),
                    _ => None,
                })),
                _ => (),
            }
        }
        seen
    }

    #[test]
    fn a_resumed_run_shows_no_step_twice() {
        let run = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(run.path()).unwrap();
        (1..=5).for_each(|at| log.write(&step(at)).unwrap());
        drop(log);
        // Resumed after step 3 without events, up to step 6; then with them, step 6 once more.
        let mut metrics = super::super::metrics::MetricsFile::open(run.path(), 0).unwrap();
        (1..=3).for_each(|at| metrics.write(&step(at)).unwrap());
        let other = |at: u64, loss: f64| Record::from(json!({ "type": "step", "step": at, "loss": { "total": loss } }));
        (4..=5).for_each(|at| metrics.write(&other(at, 7.0)).unwrap());
        let mut log = EventLog::open(run.path()).unwrap();
        log.write(&other(6, 9.0)).unwrap();
        let folder = run.path().join(TENSORBOARD);
        assert_eq!(files(&folder).len(), 2);
        let expected = [(1, 0.5), (2, 1.0), (3, 1.5), (4, 7.0), (5, 7.0), (6, 9.0)];
        assert_eq!(losses(&folder), expected);
        EventLog::after(run.path(), 6)
            .unwrap()
            .write(&json!({ "type": "written", "step": 6, "path": "model" }).into())
            .unwrap();
        assert_eq!((files(&folder).len(), losses(&folder)), (3, expected.to_vec()));
    }

    #[test]
    fn switched_on_at_a_resume_it_begins_with_the_history() {
        let run = tempfile::tempdir().unwrap();
        let mut metrics = super::super::metrics::MetricsFile::open(run.path(), 0).unwrap();
        metrics.write(&json!({ "type": "start", "step": 0 }).into()).unwrap();
        (1..=2).for_each(|at| metrics.write(&step(at)).unwrap());
        std::fs::write(run.path().join(RESOLVED_CONFIG), "[run]\nseed = 3\n").unwrap();
        let mut log = EventLog::open(run.path()).unwrap();
        log.write(&json!({ "type": "resume", "step": 2 }).into()).unwrap();
        log.write(&step(3)).unwrap();
        let folder = run.path().join(TENSORBOARD);
        assert_eq!(losses(&folder), [(1, 0.5), (2, 1.0), (3, 1.5)]);
        let events = event_file::read(&files(&folder)[0]);
        assert!(matches!(events[1].what, Some(What::SessionLog(_))), "TensorBoard's server overlooks the first start");
        let times: Vec<f64> = events.iter().filter(|event| event.step > 0).map(|event| event.wall_time).collect();
        assert_eq!(times[..2], [1_700_000_010.0, 1_700_000_020.0], "{times:?}");
        let texts = events.iter().filter_map(|event| match event.what.as_ref()? {
            What::Summary(summary) => summary.values.iter().find(|value| value.tag == "config"),
            _ => None,
        });
        let texts: Vec<_> = texts.collect();
        assert_eq!(texts.len(), 1, "the configuration is written once");
        let Some(Datum::Tensor(tensor)) = &texts[0].datum else { panic!("a text") };
        assert_eq!(tensor.values, [b"    [run]\n    seed = 3\n".to_vec()]);
    }

    #[test]
    fn a_run_is_converted_whole_or_not_at_all() {
        let (run, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = out.path().join("events");
        let error = convert(run.path(), &target).unwrap_err().to_string();
        assert!(error.contains(METRICS) && !target.exists(), "{error}");
        let mut metrics = super::super::metrics::MetricsFile::open(run.path(), 0).unwrap();
        (1..=3).for_each(|at| metrics.write(&step(at)).unwrap());
        assert_eq!(convert(run.path(), &target).unwrap(), (target.clone(), vec![]));
        assert_eq!(losses(&target), [(1, 0.5), (2, 1.0), (3, 1.5)]);
        assert!(convert(run.path(), &target).unwrap_err().to_string().contains("events"), "taken already");
    }
}
