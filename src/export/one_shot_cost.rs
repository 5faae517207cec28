//! What a cut at once costs before it is made: FLOPs of the scores, of the basis and of the comparison, and the memory of
//! the largest of them. What `plan` prints where no step is taken.

use crate::config::{HiddenBasis, LayerScore, MaskInit, PruneMethod, RunConfig};
use crate::model::ModelConfig;
use crate::model::count::{ParameterCount, forward_flops_per_token, training_flops_per_token};
use crate::prune::equivalence::LOGITS_AT_ONCE;
use serde::Serialize;
use shearling_masks::{MaskSpec, UnitKind};

/// How many products of the computation take as long as one in fp64, as measured on a CPU.
const FP64_COST: f64 = 4.0;

/// Chunks of fp64 logits that the comparison holds at a time: of four models, their differences, their distributions.
const LOGIT_CHUNKS: f64 = 8.0;

/// FLOPs and bytes of a cut at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OneShotCost {
    /// Of the scores of units, layers among them, and of the source's loss on the rows of the comparison.
    pub scoring_flops: f64,
    /// Of the principal basis: a forward and the second moments of the stream; 0 without one.
    pub basis_flops: f64,
    /// Of the comparison: masked source and cut, each exact in fp64 and rounded in fp32.
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
        let checked = 2.0 * (forward + forward_flops_per_token(small, tokens));
        let parameters = ParameterCount::of(model);
        OneShotCost {
            scoring_flops: calibration_tokens * scoring_flops_per_token(config, model, spec, tokens)
                + check_tokens * forward,
            basis_flops: if rotated { calibration_tokens * (forward + moments) } else { 0.0 },
            check_flops: check_tokens * checked,
            memory_bytes: memory_bytes(config, model, small, tokens, check_tokens, element_bytes, rotated),
            scratch_bytes: if rotated { 4.0 * parameters.total() as f64 } else { 0.0 },
        }
    }

    /// What of it a run that learns masks takes too, around its steps, in products of the dtype that is computed in: the basis,
    /// the scores if masks start from them, the comparison.
    pub fn around_masks(&self, start: MaskInit) -> f64 {
        let scores = if start == MaskInit::Scores { self.scoring_flops } else { 0.0 };
        scores + self.basis_flops + FP64_COST * self.check_flops
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

/// The largest of: rows through one layer at a time; under `taylor` all layers and their backward; the embedding being rotated;
/// the four models of the comparison (`prune::equivalence::streams`). As measured with a 135M on a CPU: 1.58 GB of anonymous
/// memory, 1.5 predicted.
fn memory_bytes(
    config: &RunConfig,
    model: &ModelConfig,
    small: &ModelConfig,
    tokens: i64,
    check_tokens: f64,
    element_bytes: f64,
    rotated: bool,
) -> f64 {
    const FP32: f64 = 4.0;
    const FP64: f64 = 8.0;
    let count = ParameterCount::of(model);
    let (hidden, vocab, row) = (model.hidden_size as f64, model.vocab_size as f64, tokens as f64);
    let embedding = count.embedding as f64;
    let layer = (count.attention + count.mlp) as f64 / model.num_hidden_layers.max(1) as f64;
    let wide = (model.num_attention_heads * model.head_dim * 2 + 4 * model.intermediate_size) as f64 + 4.0 * hidden;
    let batch_tokens = config.train.scoring_batch() as f64 * row;
    let rows = config.prune.calibration_rows as f64 * row * hidden;
    let streamed = element_bytes * (rows + embedding.max(layer + batch_tokens * wide));
    let scored = match config.prune.method() {
        PruneMethod::Magnitude => 0.0,
        PruneMethod::Taylor => {
            let kept = batch_tokens * wide * model.num_hidden_layers as f64;
            element_bytes * (count.total() as f64 + kept + batch_tokens * vocab)
        }
        PruneMethod::Activations | PruneMethod::Learned => streamed,
    };
    let basis = if rotated { streamed.max(3.0 * FP32 * embedding) + 3.0 * FP64 * hidden * hidden } else { 0.0 };
    // Heads and streams of the source and the cut, each in fp64 and in fp32; a layer takes its rows one by one.
    let held = (FP64 + FP32) * (hidden + small.hidden_size as f64) * (vocab + check_tokens);
    let chunk = vocab * row.min((LOGITS_AT_ONCE as f64 / vocab).max(1.0));
    let checked = held + FP64 * (layer + row * (wide + 2.0 * row)).max(LOGIT_CHUNKS * chunk);
    scored.max(basis).max(checked)
}
