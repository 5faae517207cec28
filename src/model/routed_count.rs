//! What routers add to a model and what they leave to compute and to read, from the config alone.
//!
//! ```text
//! GF(ρ) = 2 · (A + M·ρ + R) / 2^30      A: weights of q, k, v, o   M: of gate, up, down   R: of the routers, N·D per layer
//! ```
//!
//! GF is "GFLOPs per token" as LTE's Table 1 counts them (arXiv 2402.06126): in units of 2^30, two per weight, projections of the
//! layers alone, without output head, embedding, attention scores and norms. The paper does not say so; the definition gives
//! its 12.06 for LLaMA-7B to the last digit. What decoding reads is counted in full, output head included.

use super::ModelConfig;
use super::count::decoding_weight_bytes;
use serde::Serialize;

/// Bytes of a router's weight as it is stored.
const ROUTER_ELEMENT_BYTES: f64 = 2.0;
/// GiFLOP.
const GIBI: f64 = (1u64 << 30) as f64;

/// The routers of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RoutedCount {
    /// Layers with a router.
    pub layers: i64,
    /// Experts of a layer, N.
    pub experts: i64,
    /// Weights of all routers, N·D per layer; a bias per expert is not counted.
    pub parameters: i64,
}

impl RoutedCount {
    /// Routers in `layers` layers of `model` over experts of `expert_size` units.
    pub fn new(model: &ModelConfig, layers: i64, expert_size: i64) -> RoutedCount {
        let experts = (model.intermediate_size as u64).div_ceil(expert_size.max(1) as u64) as i64;
        RoutedCount { layers, experts, parameters: layers * experts * model.hidden_size }
    }

    /// GiFLOP per token where the share `density` of the units runs in the layers with a router.
    pub fn gib_flops_per_token(&self, model: &ModelConfig, density: f64) -> f64 {
        let skipped = (1.0 - density) * (self.layers * feed_forward_weights(model)) as f64;
        dense_gib_flops_per_token(model) + 2.0 * (self.parameters as f64 - skipped) / GIBI
    }

    /// Bytes of weights that a step of decoding one row reads.
    pub fn decoding_bytes(&self, model: &ModelConfig, density: f64, element_bytes: i64) -> f64 {
        let skipped = (1.0 - density) * (self.layers * feed_forward_weights(model) * element_bytes) as f64;
        decoding_weight_bytes(model, element_bytes) - skipped + ROUTER_ELEMENT_BYTES * self.parameters as f64
    }
}

/// The same without routers.
pub fn dense_gib_flops_per_token(model: &ModelConfig) -> f64 {
    let (d, layers) = (model.hidden_size, model.num_hidden_layers);
    let heads = 2 * (model.num_attention_heads + model.num_key_value_heads) * model.head_dim;
    2.0 * (layers * (d * heads + feed_forward_weights(model))) as f64 / GIBI
}

/// Weights of gate, up and down projection of a layer.
fn feed_forward_weights(model: &ModelConfig) -> i64 {
    3 * model.hidden_size * model.intermediate_size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama_7b() -> ModelConfig {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        crate::hf::RawConfig::from_raw(raw, std::path::Path::new("llama2-7b.json")).model().unwrap()
    }

    /// Table 1 of the paper at the sparsities that its cells imply.
    #[test]
    fn flops_are_those_of_the_paper() {
        let model = llama_7b();
        let routed = RoutedCount::new(&model, 32, 32);
        assert_eq!((routed.experts, routed.parameters), (344, 32 * 1_409_024));
        assert_eq!(dense_gib_flops_per_token(&model), 12.0625);
        for (sparsity, printed) in [(0.689, "6.59"), (0.839, "5.38"), (0.930, "4.65"), (0.0, "12.15")] {
            let found = routed.gib_flops_per_token(&model, 1.0 - sparsity);
            assert_eq!(format!("{found:.2}"), printed, "{sparsity}: {found}");
        }
        let some = RoutedCount::new(&model, 8, 32).gib_flops_per_token(&model, 0.0);
        assert!((some - (12.0625 - 8.0625 / 4.0 + 0.084 / 4.0)).abs() < 1e-4, "a quarter of the layers: {some}");
    }

    #[test]
    fn decoding_reads_what_the_chosen_experts_hold() {
        let model = llama_7b();
        let routed = RoutedCount::new(&model, 32, 32);
        let gigabytes = |density| format!("{:.2}", routed.decoding_bytes(&model, density, 2) / 1e9);
        assert_eq!(format!("{:.2}", decoding_weight_bytes(&model, 2) / 1e9), "13.21");
        assert_eq!([1.0, 0.5, 0.3, 0.1].map(gigabytes), ["13.30", "8.98", "7.24", "5.51"]);
    }
}
