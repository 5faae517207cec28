//! Everything one run folder can tell, as plain data: what `inspect run --json` prints and what pictures are drawn
//! from. How it is read is in [`read`](super::read).

use super::columns::Steps;
use super::domain_story::DomainStory;
use super::evaluations::Evaluation;
use super::events::Event;
use super::expert_history::ExpertHistory;
use super::note::Note;
use super::settling::Settled;
use super::snapshots::MaskSnapshot;
use super::survivors::Survivors;
use super::written::WrittenModel;
use crate::config::{self, HiddenBasis};
use crate::run_dir::layout::RESOLVED_CONFIG;
use crate::run_dir::record::ReferenceRows;
use serde::Serialize;
use serde_json::Value;

/// A run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunHistory {
    /// Name of the folder.
    pub name: String,
    /// The folder, as it was given.
    pub path: String,
    /// `prune`, `pretrain` or `lte`; none when nothing tells.
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
    /// On what its reference losses were measured, where that is recorded.
    #[serde(skip)]
    pub references: Option<ReferenceRows>,
    /// The process that writes it now, as far as can be seen from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
    /// The configuration (its SHA-256) under which the model that it started from was made, by that model's card.
    #[serde(skip)]
    pub source_digest: Option<String>,
    /// Steps of the whole run.
    pub planned_steps: Option<u64>,
    /// Finished steps.
    pub finished_steps: u64,
    /// Whether it was stopped in the evaluation after the last of them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub evaluation_due: bool,
    /// Tokens seen.
    pub tokens: Option<f64>,
    /// Seconds spent in the recorded steps.
    pub seconds: f64,
    /// Seconds spent in evaluations; `None` where not all of them were timed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation_seconds: Option<f64>,
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
    /// What became of its experts; of `lte train` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertHistory>,
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
    /// Whether it is a run of `prune`.
    pub fn is_prune(&self) -> bool {
        self.stage.as_deref() == Some("prune")
    }

    /// Whether it turned its source into the basis of its principal components before it learned masks: what it evaluated
    /// before its first step is that model then, and loses a little more or less than the source.
    pub fn starts_in_principal_basis(&self) -> bool {
        let config = self.config.as_deref().and_then(|text| config::parse(text, RESOLVED_CONFIG, &[]).ok());
        self.is_prune()
            && !self.one_shot
            && config.is_some_and(|config| config.hidden_basis() == HiddenBasis::Principal)
    }

    /// Whether it is a run of `lte train`.
    pub fn is_lte(&self) -> bool {
        self.stage.as_deref() == Some("lte")
    }

    /// Whether all its steps are done.
    pub fn is_finished(&self) -> bool {
        self.planned_steps.is_some_and(|planned| self.finished_steps >= planned) && !self.evaluation_due
    }

    /// Steps whose update was skipped.
    pub fn skipped_steps(&self) -> Vec<u64> {
        let skipped = self.steps.step.iter().zip(&self.steps.applied).filter(|(_, applied)| !**applied);
        skipped.map(|(step, _)| *step).collect()
    }
}
