//! What a small model is wanted for, as a number that its shape has: parameters, bytes to serve it, seconds per token.

use crate::cli::table::{bytes, grouped};
use crate::hf::ModelConfig;
use crate::model::count::{ParameterCount, cache_bytes, decoding_weight_bytes};

/// How the small model will answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::commands) struct Serving {
    /// Bytes of a weight, and of a number in the cache.
    pub(in crate::commands) element_bytes: i64,
    /// Tokens of a row, prompt and answer.
    pub(in crate::commands) context: i64,
    /// Rows that are answered at a time.
    pub(in crate::commands) batch: i64,
}

impl Serving {
    /// Bytes of weights, cache and both.
    pub(in crate::commands) fn memory_bytes(&self, model: &ModelConfig) -> f64 {
        (parameters(model) * self.element_bytes) as f64 + self.cache_bytes(model)
    }

    /// Bytes that one step reads, which gives every row a token: the weights once, the cache of every row when it is full.
    pub(in crate::commands) fn bytes_per_step(&self, model: &ModelConfig) -> f64 {
        decoding_weight_bytes(&one_layer(model, 0), self.element_bytes)
            + model.num_hidden_layers as f64 * layer_parameters(model) as f64 * self.element_bytes as f64
            + self.cache_bytes(model)
    }

    fn cache_bytes(&self, model: &ModelConfig) -> f64 {
        self.batch as f64 * cache_bytes(model, self.context as f64, self.element_bytes)
    }
}

/// What is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::commands) enum Need {
    /// So many parameters, about.
    Parameters(i64),
    /// Weights and cache in at most so many bytes.
    Memory {
        /// The most.
        bytes: f64,
        /// How it answers.
        serving: Serving,
    },
    /// At most so long for a token, if a step were nothing but reading.
    Latency {
        /// The most.
        seconds: f64,
        /// Bytes per second of the memory.
        bandwidth: f64,
        /// How it answers.
        serving: Serving,
    },
}

impl Need {
    /// The number to reach, or to stay below.
    pub(super) fn goal(&self) -> f64 {
        match self {
            Need::Parameters(count) => *count as f64,
            Need::Memory { bytes, .. } => *bytes,
            Need::Latency { seconds, .. } => *seconds,
        }
    }

    /// That number of a model. It is linear in every width, with the others held.
    pub(super) fn amount(&self, model: &ModelConfig) -> f64 {
        match self {
            Need::Parameters(_) => parameters(model) as f64,
            Need::Memory { serving, .. } => serving.memory_bytes(model),
            Need::Latency { bandwidth, serving, .. } => serving.bytes_per_step(model) / bandwidth,
        }
    }

    /// What one parameter adds to it.
    pub(super) fn of_a_parameter(&self) -> f64 {
        match self {
            Need::Parameters(_) => 1.0,
            Need::Memory { serving, .. } => serving.element_bytes as f64,
            Need::Latency { bandwidth, serving, .. } => serving.element_bytes as f64 / bandwidth,
        }
    }

    /// Whether the number is a limit: what is above it does not do.
    pub(super) fn is_limit(&self) -> bool {
        !matches!(self, Need::Parameters(_))
    }

    /// The option that says it, with what it says.
    pub(super) fn said(&self) -> String {
        match self {
            Need::Parameters(count) => format!("--target-params {count}"),
            Need::Memory { .. } => format!("--target-memory {}", self.amount_said(self.goal())),
            Need::Latency { .. } => format!("--target-latency {}", self.amount_said(self.goal())),
        }
    }

    /// Such a number in words.
    pub(super) fn amount_said(&self, amount: f64) -> String {
        match self {
            Need::Parameters(_) => format!("{} parameters", grouped(amount as i64)),
            Need::Memory { .. } => bytes(amount),
            Need::Latency { .. } => milliseconds(amount),
        }
    }
}

/// `20 ms`, with three digits.
pub(in crate::commands) fn milliseconds(seconds: f64) -> String {
    let value = seconds * 1e3;
    let decimals = (2 - value.max(1e-3).log10().floor() as i64).max(0) as usize;
    format!("{value:.decimals$} ms")
}

/// As [`ParameterCount::total`], without walking every layer: a search counts thousands of shapes.
pub(super) fn parameters(model: &ModelConfig) -> i64 {
    ParameterCount::of(&one_layer(model, 0)).total() + model.num_hidden_layers * layer_parameters(model)
}

fn layer_parameters(model: &ModelConfig) -> i64 {
    let [outside, with_one] = [0, 1].map(|layers| ParameterCount::of(&one_layer(model, layers)).total());
    with_one - outside
}

fn one_layer(model: &ModelConfig, num_hidden_layers: i64) -> ModelConfig {
    ModelConfig { num_hidden_layers, sliding_window: Vec::new(), eos_token_ids: Vec::new(), ..*model }
}

#[cfg(test)]
mod tests {
    use super::super::test_models::{all, llama2_7b};
    use super::*;

    #[test]
    fn counting_by_layer_is_counting() {
        for (name, model) in all() {
            assert_eq!(parameters(&model), ParameterCount::of(&model).total(), "{name}");
            let serving = Serving { element_bytes: 2, context: 100, batch: 3 };
            let read = decoding_weight_bytes(&model, 2) + 3.0 * cache_bytes(&model, 100.0, 2);
            assert_eq!(serving.bytes_per_step(&model), read, "{name}");
        }
    }

    /// Llama-2-7B in bf16: 6,738,415,616 weights of 2 bytes; keys and values of 32 layers of 32 heads of 128: 512 KiB a token.
    #[test]
    fn memory_and_time_of_a_known_model() {
        let (model, serving) = (llama2_7b(), Serving { element_bytes: 2, context: 4096, batch: 2 });
        let cache = 2.0 * 4096.0 * 524_288.0;
        let memory = Need::Memory { bytes: 1.0, serving };
        assert_eq!(memory.amount(&model), 2.0 * 6_738_415_616.0 + cache);
        // All but the embedding, whose row of the token is read.
        let read = 2.0 * (6_738_415_616.0 - 32_000.0 * 4096.0 + 4096.0) + cache;
        let latency = Need::Latency { seconds: 1.0, bandwidth: 1e12, serving };
        assert!((latency.amount(&model) - read / 1e12).abs() < 1e-15);
        assert_eq!(latency.said(), "--target-latency 1000 ms");
        assert_eq!([0.02, 0.00512, 0.000_012_3].map(milliseconds), ["20.0 ms", "5.12 ms", "0.0123 ms"]);
    }
}
