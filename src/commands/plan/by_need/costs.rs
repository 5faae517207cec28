//! What a shape costs: to store, to serve, to decode a token with, to train.

use super::bandwidth::Rate;
use super::training::{Training, fit};
use crate::commands::shapes::Serving;
use crate::hf::ModelConfig;
use crate::model::count::{ParameterCount, cache_bytes, training_flops_per_token};
use crate::native::runtime::cards::CARDS;
use crate::train::memory::MemoryEstimate;
use serde_json::{Value, json};

/// Tokens that the cache is told for.
const TOLD_TOKENS: f64 = 1000.0;

/// The numbers of a row.
#[derive(Debug)]
pub(super) struct Costs {
    pub(super) parameters: ParameterCount,
    pub(super) weight_bytes: f64,
    /// Keys and values of one row of 1,000 tokens.
    pub(super) cache_bytes_per_1000: f64,
    /// Weights and the cache of all rows, full.
    pub(super) serve_bytes: f64,
    pub(super) bytes_per_step: f64,
    /// Of a step that is nothing but reading; `None` where no rate is known.
    pub(super) seconds_per_step: Option<f64>,
    /// Of a token in training at the context's length: three times those of decoding one.
    pub(super) flops_per_token: f64,
    pub(super) continuing: MemoryEstimate,
}

impl Costs {
    pub(super) fn of(model: &ModelConfig, serving: Serving, rate: Option<&Rate>, training: &Training) -> Costs {
        let parameters = ParameterCount::of(model);
        let bytes_per_step = serving.bytes_per_step(model);
        Costs {
            parameters,
            weight_bytes: (parameters.total() * serving.element_bytes) as f64,
            cache_bytes_per_1000: cache_bytes(model, TOLD_TOKENS, serving.element_bytes),
            serve_bytes: serving.memory_bytes(model),
            bytes_per_step,
            seconds_per_step: rate.map(|rate| bytes_per_step / rate.bytes_per_second),
            flops_per_token: training_flops_per_token(model, serving.context),
            continuing: training.continuing(model),
        }
    }

    /// For `--json`; `source` are those of the source.
    pub(super) fn json(&self, source: &Costs) -> Value {
        let cards =
            CARDS.iter().map(|card| json!({ "card": card.name, "id": card.id, "fits": fit(&self.continuing, card) }));
        json!({
            "parameters": self.parameters,
            "total_parameters": self.parameters.total(),
            "share_of_source": self.parameters.total() as f64 / source.parameters.total() as f64,
            "weight_bytes": self.weight_bytes,
            "cache_bytes_per_1000_tokens": self.cache_bytes_per_1000,
            "serve_bytes": self.serve_bytes,
            "bytes_per_step": self.bytes_per_step,
            "seconds_per_token": self.seconds_per_step,
            "tokens_per_second": self.seconds_per_step.map(|seconds| 1.0 / seconds),
            "flops_of_source": self.flops_per_token / source.flops_per_token,
            "continue_memory_bytes": self.continuing.total_bytes(),
            "continue_fits": cards.collect::<Vec<_>>(),
        })
    }
}
