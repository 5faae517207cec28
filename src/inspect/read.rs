//! Reads one run folder. Works on a run that is going on, was cut short or is damaged: what is missing becomes a note.
//!
//! ```text
//! metrics.jsonl ─► lines ─► recorded (steps, evaluations, events) ─┐
//! masks/step-N ─► units ─► snapshots ─► settling, survivors        ├─► RunHistory ─► notes
//! pruned/ or model/, resolved.toml ─► written, config              ─┘
//! ```

use super::Error;
use super::experts;
use super::history::RunHistory;
use super::lines::shown;
use super::mask_timeline::MaskTimeline;
use super::note::Note;
use super::notes;
use super::one_shot;
use super::recorded::Recorded;
use super::runs_inside::runs_hint;
use super::story;
use super::time_taken::TimeTaken;
use super::written::WrittenModel;
use crate::hf::ModelCard;
use crate::run_dir::layout::{CHECKPOINTS, LOCK, METRICS, RESOLVED_CONFIG, SNAPSHOTS, claimed_step};
use crate::run_dir::{Activity, RunDir, RunLock, only_begun};
use crate::words::device;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// More than any configuration has.
const LARGEST_CONFIG_BYTES: u64 = 1 << 20;
/// What a run folder holds; one of them is enough to call it one. A one-shot cut has none.
const SIGNS: [&str; 5] = [METRICS, RESOLVED_CONFIG, CHECKPOINTS, SNAPSHOTS, LOCK];

impl RunHistory {
    /// Reads a run folder.
    ///
    /// # Errors
    /// The folder is no run's at all; anything else is in [`RunHistory::notes`].
    pub fn read(run: &Path) -> Result<RunHistory, Error> {
        check_is_run(run)?;
        let one_shot = if is_trained(run) { None } else { one_shot::read(run, name_of(run)) };
        if let Some(mut history) = one_shot {
            history.config = run.join(RESOLVED_CONFIG).exists().then(|| config_text(run, &mut history.notes)).flatten();
            return Ok(history);
        }
        let mut notes = Vec::new();
        let recorded = Recorded::read(&run.join(METRICS)).unwrap_or_else(|error| {
            notes.push(Note::warning(format!("{METRICS} cannot be read: {error}; there are no steps to show")));
            Recorded::default()
        });
        notes.extend(notes::of_lines(&recorded));
        let timeline = MaskTimeline::read(run, &recorded.evaluations, &mut notes);
        let checkpoints = RunDir::open(run).and_then(|folder| folder.list_steps()).unwrap_or_default();
        let config = config_text(run, &mut notes);
        let mut history = RunHistory {
            name: name_of(run),
            path: run.display().to_string(),
            process: process(run),
            written: recorded
                .written
                .as_ref()
                .and_then(|(step, written)| WrittenModel::of_record(run, *step, written))
                .or_else(|| WrittenModel::of_folder(run)),
            checkpoints,
            domains: recorded.domains(),
            ..RunHistory::default()
        };
        history.model_source = config.as_deref().and_then(model_source);
        history.source_digest = history.model_source.as_deref().and_then(digest_of);
        history.config = config;
        history.take_records(recorded);
        history.take_masks(timeline);
        history.experts = experts::of_run(&history);
        history.stories = story::of_run(&history);
        notes.extend(notes::of_history(&history));
        // Stable: within a severity the order in which things were found.
        notes.sort_by_key(|note| note.severity);
        history.notes = notes;
        Ok(history)
    }

    fn take_records(&mut self, recorded: Recorded) {
        let taken = TimeTaken::of(&recorded);
        (self.seconds, self.evaluation_seconds) = (taken.steps, taken.evaluations);
        self.started = recorded.start.as_ref().and_then(|started| started.time);
        let start = recorded.start.map(|started| started.what).unwrap_or_default();
        let text = |text: &Option<String>| text.as_deref().map(shown);
        self.stage = text(&start.stage);
        self.version = text(&start.version);
        self.device = text(&start.device).map(|name| device(&name));
        self.data_fingerprint = text(&start.data_fingerprint);
        self.references = start.references;
        self.planned_steps = recorded.resumed_steps.or(start.steps).or_else(|| self.configured_steps());
        let last_stage = start.source_stages.iter().flatten().last();
        self.continues_pruned = last_stage.is_some_and(|(stage, ..)| stage.starts_with("pruning"));
        self.source_shape = start.source_shape;
        self.target_shape = start.target_shape;
        let last = recorded.steps.step.last().or(self.checkpoints.last());
        self.finished_steps = last.copied().unwrap_or(0);
        self.tokens = super::columns::ends(&recorded.steps.tokens).1;
        self.evaluation_due = recorded.evaluation_due;
        self.steps = recorded.steps;
        self.evaluations = recorded.evaluations;
        self.events = recorded.events;
    }

    fn take_masks(&mut self, timeline: MaskTimeline) {
        if let Some(survivors) = &timeline.survivors {
            self.stage.get_or_insert_with(|| "prune".to_string());
            if self.source_shape.is_null() {
                self.source_shape = serde_json::to_value(&survivors.source).unwrap_or_default();
                self.target_shape = serde_json::to_value(&survivors.target).unwrap_or_default();
            }
            self.finished_steps = self.finished_steps.max(survivors.step);
        }
        self.snapshots = timeline.snapshots;
        self.settled = timeline.settled;
        self.survivors = timeline.survivors;
    }

    /// `train.steps` of the configuration, for a run whose start is not recorded.
    fn configured_steps(&self) -> Option<u64> {
        let table: toml::Table = self.config.as_ref()?.parse().ok()?;
        table.get("train")?.get("steps")?.as_integer()?.try_into().ok()
    }
}

/// Whether a run left anything but a model.
fn is_trained(run: &Path) -> bool {
    // A cut at once keeps its configuration beside the model.
    let counts = |sign: &&&str| **sign != RESOLVED_CONFIG || !one_shot::is_one_shot(run);
    SIGNS.iter().filter(counts).any(|sign| match *sign {
        // Any folder may be called so; that of a run has steps in it.
        CHECKPOINTS | SNAPSHOTS => has_steps(&run.join(sign)),
        sign => run.join(sign).exists(),
    })
}

fn has_steps(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_str().and_then(claimed_step).is_some())
}

fn check_is_run(run: &Path) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::NotARun { path: run.to_path_buf(), problem });
    if let Some(begun) = only_begun(run) {
        return refuse(begun);
    }
    match std::fs::metadata(run) {
        Err(error) if error.kind() == ErrorKind::NotFound => refuse("it does not exist".to_string()),
        Err(error) => refuse(error.to_string()),
        Ok(about) if !about.is_dir() => refuse("it is not a folder".to_string()),
        Ok(_) if !is_trained(run) && !one_shot::is_one_shot(run) => {
            refuse(format!("it holds none of {}{}", SIGNS.join(", "), runs_hint(run)))
        }
        Ok(_) => Ok(()),
    }
}

fn model_source(config: &str) -> Option<String> {
    let config: toml::Table = config.parse().ok()?;
    Some(config.get("model")?.get("source")?.as_str()?.to_string())
}

/// The process that holds a run, if one of this machine does.
fn process(run: &Path) -> Option<u32> {
    match RunLock::activity(run) {
        Activity::Process(process) => Some(process),
        Activity::Nobody | Activity::Unknown => None,
    }
}

/// The configuration that the card of a model names, while the model is there.
fn digest_of(model: &str) -> Option<String> {
    ModelCard::read(Path::new(model)).ok()??.config_digest
}

fn name_of(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    shown(&name.to_string_lossy())
}

fn config_text(run: &Path, notes: &mut Vec<Note>) -> Option<String> {
    let mut text = String::new();
    let read = std::fs::File::open(run.join(RESOLVED_CONFIG))
        .and_then(|file| file.take(LARGEST_CONFIG_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => Some(text),
        Err(error) => {
            notes.push(Note::warning(format!(
                "{RESOLVED_CONFIG} cannot be read: {error}; the configuration is not known"
            )));
            None
        }
    }
}
