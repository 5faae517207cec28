//! The model that a run wrote at its end: from the run's `written` record, or, for a run whose metrics have none, from
//! the card inside the folder.

use super::lines::shown;
use crate::hf::{CardShape, CutLoss, Equivalence, KeptLayer, ModelCard};
use crate::run_dir::layout::{MODEL, PRUNED};
use crate::run_dir::record::{Comparison, Written};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Folders in which a run publishes its model.
const FOLDERS: [&str; 2] = [PRUNED, MODEL];

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
    /// What the cut did to the loss, where the source was cut at once and its card tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutLoss>,
    /// Which layers and query heads were kept, where the source was cut at once and its card tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Vec<KeptLayer>>,
}

/// How the written model was compared with the masked one. Differences are the largest of a logit over the largest
/// |logit|.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WrittenEquivalence {
    /// Whether the check passed; a record of an earlier version says it by its bounds.
    pub passed: Option<bool>,
    /// Masked model against the fold: in fp64, in records of earlier versions in fp32.
    pub folded: Option<f64>,
    /// Bound on it.
    pub folded_bound: Option<f64>,
    /// Masked model against the written weights; only in records of earlier versions.
    pub written: Option<f64>,
    /// Bound on it.
    pub written_bound: Option<f64>,
    /// Change of the loss by the dtype of the weights, nats per token.
    pub loss_change: Option<f64>,
    /// Mean KL divergence of the next token by it, nats.
    pub mean_kl: Option<f64>,
    /// The same divergence when the masked model is rounded alike.
    pub source_mean_kl: Option<f64>,
    /// Rows compared.
    pub rows: Option<u64>,
    /// Tokens of each.
    pub tokens: Option<u64>,
}

impl WrittenModel {
    /// From a `written` record.
    pub(super) fn of_record(run: &Path, step: u64, record: &Written) -> Option<WrittenModel> {
        let path = shown(record.path.as_deref()?);
        Some(WrittenModel {
            exists: run.join(&path).join("config.json").is_file(),
            path,
            step: Some(step),
            parameters_before: record.parameters_before,
            parameters_after: record.parameters_after,
            shape: record.shape.clone(),
            dtype: record.dtype.as_deref().map(shown),
            equivalence: record.equivalence.as_ref().map(WrittenEquivalence::of_record),
            cut: None,
            kept: None,
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
            equivalence: card.equivalence.as_ref().map(WrittenEquivalence::of_card),
            cut: card.cut.filter(|_| name == PRUNED),
            kept: card.kept.filter(|_| name == PRUNED && card.cut.is_some()),
        })
    }
}

impl WrittenEquivalence {
    fn of_record(check: &Comparison) -> WrittenEquivalence {
        let rounding = check.rounding.as_ref();
        WrittenEquivalence {
            passed: check.passed,
            loss_change: rounding.and_then(|rounding| rounding.written.loss_change),
            mean_kl: rounding.and_then(|rounding| rounding.written.mean_kl),
            source_mean_kl: rounding.and_then(|rounding| rounding.source.mean_kl),
            folded: check.folded,
            folded_bound: check.folded_bound,
            written: check.written,
            written_bound: check.written_bound,
            rows: check.rows,
            tokens: check.tokens,
        }
    }

    fn of_card(check: &Equivalence) -> WrittenEquivalence {
        if check.dtype.is_none() {
            let (written, written_bound) = (Some(check.error), Some(check.bound));
            return WrittenEquivalence { written, written_bound, ..WrittenEquivalence::default() };
        }
        WrittenEquivalence {
            passed: Some(check.unproven.is_none()),
            folded: Some(check.error),
            folded_bound: Some(check.bound),
            loss_change: check.loss_change,
            mean_kl: check.mean_kl,
            ..WrittenEquivalence::default()
        }
    }

    /// Whether it passed, where that is known.
    pub fn verdict(&self) -> Option<bool> {
        let within = |error: Option<f64>, bound: Option<f64>| Some(error? <= bound?);
        let bounds = [within(self.folded, self.folded_bound), within(self.written, self.written_bound)];
        let by_bounds = bounds.into_iter().flatten().reduce(|a, b| a && b);
        self.passed.or(by_bounds)
    }
}
