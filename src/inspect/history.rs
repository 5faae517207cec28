//! Everything one run folder can tell, as plain data: what `inspect run --json` prints and what pictures are drawn
//! from. Works on a run that is going on, was cut short or is damaged: what is missing becomes a note.
//!
//! ```text
//! metrics.jsonl ─► lines ─► recorded (steps, evaluations, events) ─┐
//! masks/step-N ─► units ─► snapshots ─► settling, survivors        ├─► RunHistory ─► notes
//! pruned/ or model/, resolved.toml ─► written, config              ─┘
//! ```

use super::Error;
use super::columns::Steps;
use super::evaluations::Evaluation;
use super::events::Event;
use super::lines::text;
use super::mask_timeline::MaskTimeline;
use super::notes::{self, Note};
use super::one_shot;
use super::recorded::Recorded;
use super::runs_inside::runs_hint;
use super::settling::Settled;
use super::snapshots::MaskSnapshot;
use super::story::{self, DomainStory};
use super::survivors::Survivors;
use super::written::WrittenModel;
use crate::run_dir::RunDir;
use crate::run_dir::layout::{CHECKPOINTS, LOCK, METRICS, RESOLVED_CONFIG, SNAPSHOTS};
use crate::words::device;
use serde::Serialize;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// More than any configuration has.
const LARGEST_CONFIG_BYTES: u64 = 1 << 20;
/// What a run folder holds; one of them is enough to call it one. A one-shot cut has none.
const SIGNS: [&str; 5] = [METRICS, RESOLVED_CONFIG, CHECKPOINTS, SNAPSHOTS, LOCK];

/// A run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunHistory {
    /// Name of the folder.
    pub name: String,
    /// The folder, as it was given.
    pub path: String,
    /// `prune` or `pretrain`; none when nothing tells.
    pub stage: Option<String>,
    /// Whether it is a one-shot cut: a model and no steps.
    pub one_shot: bool,
    /// The model that it started from: `model.source`.
    pub model_source: Option<String>,
    /// Version of shearling that started it.
    pub version: Option<String>,
    /// As libtorch names it.
    pub device: Option<String>,
    /// When it started, in seconds since 1970.
    pub started: Option<f64>,
    /// Identity of its data, as the run recorded it.
    pub data_fingerprint: Option<String>,
    /// Steps of the whole run.
    pub planned_steps: Option<u64>,
    /// Finished steps.
    pub finished_steps: u64,
    /// Tokens seen.
    pub tokens: Option<f64>,
    /// Seconds spent in the recorded steps.
    pub seconds: f64,
    /// Whether its model came out of a pruning run.
    pub continues_pruned: bool,
    /// Domains in the order of the data.
    pub domains: Vec<String>,
    /// Shape of the trained model, as recorded.
    pub source_shape: Value,
    /// Shape to reach; null in `pretrain`.
    pub target_shape: Value,
    /// The steps as columns.
    pub steps: Steps,
    /// The evaluations, in their order; where a prune run saves there are two at a step.
    pub evaluations: Vec<Evaluation>,
    /// Starts, resumes, checkpoints, skipped steps and the like.
    pub events: Vec<Event>,
    /// The masks over time.
    pub snapshots: Vec<MaskSnapshot>,
    /// When each mask settled.
    pub settled: Vec<Settled>,
    /// What stays, by the newest masks.
    pub survivors: Option<Survivors>,
    /// What happened to each domain.
    pub stories: Vec<DomainStory>,
    /// The model that the run wrote.
    pub written: Option<WrittenModel>,
    /// Steps with a checkpoint.
    pub checkpoints: Vec<u64>,
    /// Text of resolved.toml.
    pub config: Option<String>,
    /// What is missing, odd or worth knowing; warnings first.
    pub notes: Vec<Note>,
}

impl RunHistory {
    /// Reads a run folder.
    ///
    /// # Errors
    /// The folder is no run's at all; anything else is in [`RunHistory::notes`].
    pub fn read(run: &Path) -> Result<RunHistory, Error> {
        check_is_run(run)?;
        let one_shot = if is_trained(run) { None } else { one_shot::read(run, name_of(run)) };
        if let Some(history) = one_shot {
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
            model_source: config.as_deref().and_then(model_source),
            written: WrittenModel::of_record(run, &recorded.written).or_else(|| WrittenModel::of_folder(run)),
            checkpoints,
            config,
            domains: recorded.domains(),
            ..RunHistory::default()
        };
        history.take_records(recorded);
        history.take_masks(timeline);
        history.stories = story::of_run(&history);
        notes.extend(notes::of_history(&history));
        // Stable: within a severity the order in which things were found.
        notes.sort_by_key(|note| note.severity);
        history.notes = notes;
        Ok(history)
    }

    fn take_records(&mut self, recorded: Recorded) {
        let start = &recorded.start;
        self.stage = text(&start["stage"]);
        self.version = text(&start["version"]);
        self.device = text(&start["device"]).map(|name| device(&name));
        self.started = start["time"].as_f64();
        self.data_fingerprint = text(&start["data_fingerprint"]);
        self.planned_steps = start["steps"].as_u64().or_else(|| self.configured_steps());
        self.continues_pruned = start["source_stages"]
            .as_array()
            .and_then(|stages| stages.last()?[0].as_str())
            .is_some_and(|stage| stage.starts_with("pruning"));
        self.source_shape = start["source_shape"].clone();
        self.target_shape = start["target_shape"].clone();
        let last = recorded.steps.step.last().or(self.checkpoints.last());
        self.finished_steps = last.copied().unwrap_or(0);
        self.tokens = super::columns::ends(&recorded.steps.tokens).1;
        self.seconds = recorded.steps.seconds.iter().flatten().sum();
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

    /// Whether it is a run of `prune`.
    pub fn is_prune(&self) -> bool {
        self.stage.as_deref() == Some("prune")
    }

    /// Steps whose update was skipped.
    pub fn skipped_steps(&self) -> Vec<u64> {
        let skipped = self.steps.step.iter().zip(&self.steps.applied).filter(|(_, applied)| !**applied);
        skipped.map(|(step, _)| *step).collect()
    }
}

/// Whether a run left anything but a model.
fn is_trained(run: &Path) -> bool {
    SIGNS.iter().any(|sign| run.join(sign).exists())
}

fn check_is_run(run: &Path) -> Result<(), Error> {
    let refuse = |problem: String| Err(Error::NotARun { path: run.to_path_buf(), problem });
    match std::fs::metadata(run) {
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

fn name_of(run: &Path) -> String {
    let whole = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    super::lines::shown(&name.to_string_lossy())
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
