//! Where the parameters are before the cut, as the masks expect them now, and after it. Embedding and head are only
//! known where a config.json near the mask file tells the vocabulary.

use super::units::Units;
use crate::hf::{ModelConfig, RawConfig};
use crate::model::count::ParameterCount;
use crate::prune::shape::resized;
use crate::run_dir::RunDir;
use crate::run_dir::layout::{MODEL, PRUNED, STEP_MODEL, step_folder};
use serde::Serialize;
use shearling_masks::{Shape, UnitKind};
use std::path::{Path, PathBuf};

/// Parameters by part.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parts {
    /// Token embedding.
    pub embedding: Option<f64>,
    /// Attention projections.
    pub attention: f64,
    /// Feed-forward projections.
    pub mlp: f64,
    /// Norms over the hidden dimension.
    pub norms: f64,
    /// Output head; 0 when tied to the embedding.
    pub head: Option<f64>,
    /// All of these.
    pub total: Option<f64>,
}

/// Parameters of source, masks and target.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parameters {
    /// The source.
    pub before: Parts,
    /// What the masks expect, Σ of products of scores; biases and norms inside heads are not counted.
    pub expected: Parts,
    /// After the cut to the target.
    pub after: Parts,
}

impl Parameters {
    /// Counts for masks; `model` is any model of the run, for its vocabulary and its kind of attention.
    pub fn of(units: &Units, model: Option<&ModelConfig>) -> Parameters {
        let count = |shape: &Shape| match model {
            Some(model) => Parts::of_model(&resized(model, shape)),
            None => Parts::of_shape(shape),
        };
        Parameters {
            before: count(units.spec.source()),
            expected: Parts::expected(units, model),
            after: count(units.spec.target()),
        }
    }
}

impl Parts {
    fn new(attention: f64, mlp: f64, norms: f64, tables: Option<(f64, f64)>) -> Parts {
        let (embedding, head) = (tables.map(|tables| tables.0), tables.map(|tables| tables.1));
        let total = tables.map(|(embedding, head)| attention + mlp + norms + embedding + head);
        Parts { embedding, attention, mlp, norms, head, total }
    }

    fn of_model(model: &ModelConfig) -> Parts {
        let count = ParameterCount::of(model);
        let tables = (count.embedding as f64, count.head as f64);
        Parts::new(count.attention as f64, count.mlp as f64, count.norms as f64, Some(tables))
    }

    fn of_shape(shape: &Shape) -> Parts {
        let [layers, hidden, heads, kv_heads, width, intermediate] = [
            shape.num_hidden_layers,
            shape.hidden_size,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
            shape.intermediate_size,
        ]
        .map(|size| size as f64);
        let attention = layers * hidden * 2.0 * width * (heads + kv_heads);
        Parts::new(attention, layers * hidden * 3.0 * intermediate, hidden * (2.0 * layers + 1.0), None)
    }

    /// As `masks::ExpectedSize`, with attention and MLP apart.
    fn expected(units: &Units, model: Option<&ModelConfig>) -> Parts {
        let (source, hidden) = (units.source(), units.expected_open(UnitKind::Hidden, 0));
        let (mut attention, mut mlp, mut layers) = (0.0, 0.0, 0.0);
        for (layer, open) in units.layer_scores().into_iter().enumerate() {
            let of = |module: UnitKind| units.expected_open(module, layer);
            let heads = of(UnitKind::KvHead) * (of(UnitKind::QueryHead) + 1.0);
            attention += open * hidden * 2.0 * source.head_dim as f64 * heads;
            mlp += open * hidden * 3.0 * of(UnitKind::Intermediate);
            layers += open;
        }
        let tables = model.map(|model| {
            let table = model.vocab_size as f64 * hidden;
            (table, if model.tie_word_embeddings { 0.0 } else { table })
        });
        Parts::new(attention, mlp, hidden * (2.0 * layers + 1.0), tables)
    }
}

/// A model of the run that a mask file belongs to: of its step folder, or one that the run wrote.
pub fn model_near(mask_file: &Path) -> Option<ModelConfig> {
    let folder = mask_file.parent()?;
    // checkpoints/step-N/masks.safetensors has the model beside it; of masks/step-N.safetensors the run is one up.
    let beside = folder.join(STEP_MODEL);
    let run = folder.parent().map(Path::to_path_buf);
    std::iter::once(beside).chain(run.iter().flat_map(|run| models_of(run))).find_map(|folder| model_of(&folder))
}

/// Folders of a run that may hold a model.
pub(super) fn models_of(run: &Path) -> Vec<PathBuf> {
    let steps = RunDir::open(run).and_then(|folder| folder.list_steps()).unwrap_or_default();
    let checkpoints = steps.into_iter().map(|step| step_folder(run, step).join(STEP_MODEL));
    checkpoints.chain([run.join(PRUNED), run.join(MODEL)]).collect()
}

/// The model that a folder's config.json describes, if it can be read.
pub(super) fn model_of(folder: &Path) -> Option<ModelConfig> {
    RawConfig::read(&folder.join("config.json")).and_then(|config| config.model()).ok()
}
