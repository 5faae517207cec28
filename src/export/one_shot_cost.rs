//! What a cut at once costs before it is made: FLOPs of the scores, of the basis and of the comparison, and the memory of
//! the largest of them. What `plan` prints where no step is taken.

use crate::config::{HiddenBasis, LayerScore, PruneMethod, RunConfig};
use crate::model::ModelConfig;
use crate::model::count::{ParameterCount, forward_flops_per_token, training_flops_per_token};
use serde::Serialize;
use shearling_masks::{MaskSpec, UnitKind};

/// How many products of the computation take as long as one in fp64, as measured on a CPU.
const FP64_COST: f64 = 4.0;

/// What the comparison takes of memory, in multiples of what its streams and weights do: operators in fp64 are composed. As
/// measured with a 135M on a CPU, 1.58 GB of anonymous memory.
const TEMPORARIES: f64 = 2.2;

/// FLOPs and bytes of a cut at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OneShotCost {
    /// Of the scores of units, layers among them.
    pub scoring_flops: f64,
    /// Of the principal basis: a forward and the second moments of the stream; 0 without one.
    pub basis_flops: f64,
    /// Of the comparison, in fp64: the gated source, the exact cut and the written model.
    pub check_flops: f64,
    /// At the peak, on the device.
    pub memory_bytes: f64,
    /// Of the source in its principal basis, on disk until the cut is written; 0 without one.
    pub scratch_bytes: f64,
}

impl OneShotCost {
    /// Of `config` on a source of the shape `model` cut to `spec`, in a dtype of `element_bytes`, with rows of `tokens`
    /// and `check_rows` rows to compare on.
    pub fn new(
        config: &RunConfig,
        model: &ModelConfig,
        small: &ModelConfig,
        spec: &MaskSpec,
        tokens: i64,
        check_rows: u64,
        element_bytes: f64,
    ) -> OneShotCost {
        let rotated = config.hidden_basis() == HiddenBasis::Principal && spec.get(UnitKind::Hidden).is_some();
        let calibration_tokens = config.prune.calibration_rows as f64 * tokens as f64;
        let forward = forward_flops_per_token(model, tokens);
        let hidden = model.hidden_size as f64;
        // A product of the stream with itself at the input of every norm.
        let moments = (2 * model.num_hidden_layers + 1) as f64 * 2.0 * hidden * hidden;
        let check_tokens = check_rows as f64 * tokens as f64;
        let checked = forward + 2.0 * forward_flops_per_token(small, tokens);
        let parameters = ParameterCount::of(model);
        OneShotCost {
            scoring_flops: calibration_tokens * scoring_flops_per_token(config, model, spec, tokens),
            basis_flops: if rotated { calibration_tokens * (forward + moments) } else { 0.0 },
            check_flops: check_tokens * checked,
            memory_bytes: memory_bytes(config, model, tokens, check_tokens, element_bytes, rotated),
            scratch_bytes: if rotated { 4.0 * parameters.total() as f64 } else { 0.0 },
        }
    }

    /// All products, in those of the dtype that is computed in.
    pub fn flops(&self) -> f64 {
        self.scoring_flops + self.basis_flops + FP64_COST * self.check_flops
    }
}

fn scoring_flops_per_token(config: &RunConfig, model: &ModelConfig, spec: &MaskSpec, tokens: i64) -> f64 {
    let forward = forward_flops_per_token(model, tokens);
    let scores = match config.prune.method() {
        PruneMethod::Magnitude => return 0.0,
        PruneMethod::Taylor => training_flops_per_token(model, tokens),
        PruneMethod::Activations | PruneMethod::Learned => forward,
    };
    let layers = match (config.prune.layer_score, spec.get(UnitKind::Layer)) {
        // Every layer that is left is left out in turn, until as many are gone as should be.
        (LayerScore::Loss, Some(layers)) => (layers.target..layers.size)
            .map(|left| (left + 1) as f64 * forward * left as f64 / layers.size as f64)
            .sum(),
        _ => 0.0,
    };
    scores + layers
}

/// The largest of: rows through one layer at a time; under `taylor` all layers and their backward; a tensor of the
/// embedding's size being rotated; both models of the comparison, one layer at a time.
fn memory_bytes(
    config: &RunConfig,
    model: &ModelConfig,
    tokens: i64,
    check_tokens: f64,
    element_bytes: f64,
    rotated: bool,
) -> f64 {
    const FP64: f64 = 8.0;
    let count = ParameterCount::of(model);
    let hidden = model.hidden_size as f64;
    let embedding = count.embedding as f64;
    let layer = (count.attention + count.mlp) as f64 / model.num_hidden_layers.max(1) as f64;
    let wide = (model.num_attention_heads * model.head_dim * 2 + 4 * model.intermediate_size) as f64 + 4.0 * hidden;
    let batch_tokens = config.train.scoring_batch() as f64 * tokens as f64;
    let rows = config.prune.calibration_rows as f64 * tokens as f64 * hidden;
    let streamed = element_bytes * (rows + embedding.max(layer + batch_tokens * wide));
    let scored = match config.prune.method() {
        PruneMethod::Magnitude => 0.0,
        PruneMethod::Taylor => {
            let kept = batch_tokens * wide * model.num_hidden_layers as f64;
            element_bytes * (count.total() as f64 + kept + batch_tokens * model.vocab_size as f64)
        }
        PruneMethod::Activations | PruneMethod::Learned => streamed,
    };
    let basis = if rotated { streamed.max(2.0 * FP64 * embedding) + 3.0 * FP64 * hidden * hidden } else { 0.0 };
    let checked = TEMPORARIES * FP64 * (2.0 * check_tokens * (hidden + wide / 2.0) + embedding.max(2.0 * layer));
    scored.max(basis).max(checked)
}
