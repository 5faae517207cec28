//! How much memory and disk a run takes, reckoned from the configuration: what `plan` prints.

use crate::config::Dtype;
use crate::model::HfModel;
use crate::model::count::ParameterCount;
use serde::Serialize;

/// Bytes by use while training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryEstimate {
    /// fp32 masters and, in bf16, the working copy.
    pub weight_bytes: f64,
    /// Gradients and their fp32 sums.
    pub gradient_bytes: f64,
    /// Moments of AdamW.
    pub optimizer_bytes: f64,
    /// What the forward keeps for the backward, one micro-batch.
    pub activation_bytes: f64,
}

impl MemoryEstimate {
    /// For micro-batches of `rows` × `tokens`. Activations are counted tensor by tensor as the composed layers save
    /// them; libtorch's workspace and fragmentation are not in it.
    pub fn new(model: &HfModel, dtype: Dtype, rows: i64, tokens: i64) -> MemoryEstimate {
        let parameters = ParameterCount::of(model).total() as f64;
        let (weight, gradient) = match dtype {
            Dtype::Fp32 => (4.0, 4.0),
            Dtype::Bf16 | Dtype::Fp16 => (6.0, 6.0),
        };
        MemoryEstimate {
            weight_bytes: weight * parameters,
            gradient_bytes: gradient * parameters,
            optimizer_bytes: 8.0 * parameters,
            activation_bytes: activation_bytes_per_token(model, dtype) * (rows * tokens) as f64,
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> f64 {
        self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes
    }
}

impl std::fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
        write!(
            f,
            "{:.2} GiB = weights {:.2} + gradients {:.2} + optimiser {:.2} + activations {:.2}",
            gib(self.total_bytes()),
            gib(self.weight_bytes),
            gib(self.gradient_bytes),
            gib(self.optimizer_bytes),
            gib(self.activation_bytes)
        )
    }
}

/// Bytes of a checkpoint: fp32 masters and two moments.
pub fn checkpoint_bytes(model: &HfModel) -> f64 {
    12.0 * ParameterCount::of(model).total() as f64
}

fn activation_bytes_per_token(model: &HfModel, dtype: Dtype) -> f64 {
    let c = if dtype == Dtype::Fp32 { 4.0 } else { 2.0 };
    let d = model.hidden_size as f64;
    let f = model.intermediate_size as f64;
    let q = (model.num_attention_heads * model.head_dim) as f64;
    let kv = (model.num_key_value_heads * model.head_dim) as f64;
    // Two norms: the fp32 input and its product, the result; two gated writes to the residual stream.
    let hidden = 2.0 * (8.0 * d + 2.0 * c * d);
    // Projections, rotation in fp32, expanded groups, the attention's output before and after its gate.
    let attention = c * (q + 2.0 * kv) + 8.0 * (q + kv) + c * 2.0 * q + 3.0 * c * q;
    // gate, silu(gate), up, gated up, their product.
    let mlp = 5.0 * c * f;
    let logits = (c + 8.0) * model.vocab_size as f64;
    model.num_hidden_layers as f64 * (hidden + attention + mlp) + logits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_billion_in_bf16_takes_twenty_bytes_a_parameter_and_activations() {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        let model = crate::checkpoint::HfConfig::from_raw(raw, std::path::Path::new("llama2-7b.json")).model().unwrap();
        let estimate = MemoryEstimate::new(&model, Dtype::Bf16, 1, 4096);
        let states = estimate.weight_bytes + estimate.gradient_bytes + estimate.optimizer_bytes;
        assert_eq!(states, 20.0 * 6_738_415_616.0);
        let gib = estimate.activation_bytes / (1u64 << 30) as f64;
        assert!((20.0..60.0).contains(&gib), "{gib}");
        let twice = MemoryEstimate::new(&model, Dtype::Bf16, 2, 4096);
        assert_eq!(twice.activation_bytes, 2.0 * estimate.activation_bytes);
    }
}
