//! The model that a run wrote at its end: from the run's `written` record, or, for a run whose metrics have none, from
//! the card inside the folder.

use super::lines::text;
use crate::checkpoint::{CardShape, ModelCard};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Folders in which a run publishes its model.
const FOLDERS: [&str; 2] = ["pruned", "model"];

/// A published model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WrittenModel {
    /// Relative to the run folder.
    pub path: String,
    /// Whether the folder is still there.
    pub exists: bool,
    /// Finished steps, where recorded.
    pub step: Option<u64>,
    /// Parameters of the model that was trained, or that the card names as the source.
    pub parameters_before: Option<u64>,
    /// Parameters of the written model.
    pub parameters_after: Option<u64>,
    /// Shape of the written model, as recorded.
    pub shape: Value,
    /// Kind of its weights.
    pub dtype: Option<String>,
    /// How it was compared with the masked model; none when nothing was cut.
    pub equivalence: Option<WrittenEquivalence>,
}

/// Largest difference of logits over the largest |logit|, with what was allowed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WrittenEquivalence {
    /// Masked model against the fold in fp32.
    pub folded: Option<f64>,
    /// Bound on it.
    pub folded_bound: Option<f64>,
    /// Masked model against the written weights.
    pub written: Option<f64>,
    /// Bound on it.
    pub written_bound: Option<f64>,
    /// Rows compared.
    pub rows: Option<u64>,
    /// Tokens of each.
    pub tokens: Option<u64>,
}

impl WrittenModel {
    /// From a `written` record.
    pub(super) fn of_record(run: &Path, record: &Value) -> Option<WrittenModel> {
        let path = text(&record["path"])?;
        let check = &record["equivalence"];
        let equivalence = check.is_object().then(|| WrittenEquivalence {
            folded: check["folded"].as_f64(),
            folded_bound: check["folded_bound"].as_f64(),
            written: check["written"].as_f64(),
            written_bound: check["written_bound"].as_f64(),
            rows: check["rows"].as_u64(),
            tokens: check["tokens"].as_u64(),
        });
        Some(WrittenModel {
            exists: run.join(&path).join("config.json").is_file(),
            path,
            step: record["step"].as_u64(),
            parameters_before: record["parameters_before"].as_u64(),
            parameters_after: record["parameters_after"].as_u64(),
            shape: record["shape"].clone(),
            dtype: text(&record["dtype"]),
            equivalence,
        })
    }

    /// From the card of a model inside the run folder.
    pub(super) fn of_folder(run: &Path) -> Option<WrittenModel> {
        let name = FOLDERS.into_iter().find(|name| run.join(name).join("config.json").is_file())?;
        let card = ModelCard::read(&run.join(name)).ok().flatten().unwrap_or_default();
        let parameters = |shape: Option<CardShape>| shape.and_then(|shape| shape.parameters);
        Some(WrittenModel {
            path: name.to_string(),
            exists: true,
            step: None,
            parameters_before: parameters(card.source_shape),
            parameters_after: parameters(card.target_shape),
            shape: serde_json::to_value(card.target_shape).unwrap_or_default(),
            dtype: None,
            equivalence: card.equivalence.map(|check| WrittenEquivalence {
                written: Some(check.error),
                written_bound: Some(check.bound),
                ..WrittenEquivalence::default()
            }),
        })
    }
}
