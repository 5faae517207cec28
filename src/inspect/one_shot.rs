//! A one-shot cut (`prune.method` other than `"learned"`) takes no step: it leaves no metrics and no masks, only its configuration and
//! the model in `RUN/pruned/`. What its card tells stands for the run, so that it can be shown beside what continued it.

use super::history::RunHistory;
use super::note::Note;
use super::written::WrittenModel;
use crate::hf::{CardShape, ModelCard};
use crate::run_dir::layout::{METRICS, PRUNED};
use serde_json::Value;
use std::path::Path;

/// Whether a folder without any file of a run holds a model that was cut at once.
pub(super) fn is_one_shot(run: &Path) -> bool {
    card(run).is_some()
}

/// Whether a run folder holds a model that was cut at once, and nothing of a run that takes steps.
pub fn was_cut_at_once(run: &Path) -> bool {
    !run.join(METRICS).exists() && is_one_shot(run)
}

/// The run that its card tells of.
pub(super) fn read(run: &Path, name: String) -> Option<RunHistory> {
    let card = card(run)?;
    let shape =
        |shape: Option<CardShape>| shape.map_or(Value::Null, |shape| serde_json::to_value(shape).unwrap_or_default());
    let (stage, ..) = card.stages.last()?;
    Some(RunHistory {
        name,
        path: run.display().to_string(),
        stage: Some("prune".to_string()),
        one_shot: true,
        version: card.versions.iter().find(|(program, _)| program == "shearling").map(|(_, version)| version.clone()),
        planned_steps: Some(0),
        model_source: card.source.clone(),
        source_shape: shape(card.source_shape),
        target_shape: shape(card.target_shape),
        written: WrittenModel::of_folder(run),
        notes: vec![Note::info(format!(
            "{stage}: a one-shot cut, which takes no training step and has no masks to show"
        ))],
        ..RunHistory::default()
    })
}

/// The card of a model whose last stage pruned it without a step.
fn card(run: &Path) -> Option<ModelCard> {
    let card = ModelCard::read(&run.join(PRUNED)).ok()??;
    let cut_at_once = |(stage, steps, _): &(String, u64, u64)| stage.starts_with("pruning") && *steps == 0;
    card.stages.last().is_some_and(cut_at_once).then_some(card)
}
