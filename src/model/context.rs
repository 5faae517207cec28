//! What the layers of one forward share besides weights and gates: rotary tables and the attention masks of sliding
//! windows. Made once for a model and a row length and never changed; the gates are an argument of each forward.

use super::ModelConfig;
use super::gates::{LayerGates, ModelGates};
use super::norm::HiddenGate;
use super::rope::RopeTable;
use crate::native::ops::projection::Input;
use std::collections::HashMap;
use tch::{Device, Kind, TchError, Tensor};

/// Tables of a model for rows of up to a number of tokens.
#[derive(Debug)]
pub struct ForwardContext {
    rope: RopeTable,
    /// Attention masks `[T, T]` of the sliding windows that are shorter than T, by window.
    window_masks: HashMap<i64, Tensor>,
    /// Inputs of maps in the backward.
    inputs: Input,
}

/// What one layer needs besides its weights and its input.
#[derive(Debug)]
pub struct LayerContext {
    pub(super) rope: RopeTable,
    pub(super) hidden: Option<HiddenGate>,
    pub(super) gates: LayerGates,
    /// Attention mask `[T, T]` of a sliding window; `None` where plain causal attention does.
    pub(super) window: Option<Tensor>,
    /// What maps have in the backward of what norms and SwiGLU gave them.
    pub(super) inputs: Input,
}

impl LayerContext {
    /// Without gates: what decoding needs.
    pub(super) fn plain(rope: RopeTable) -> LayerContext {
        LayerContext { rope, hidden: None, gates: LayerGates::default(), window: None, inputs: Input::Kept }
    }
}

impl ForwardContext {
    /// Context for rows of up to `tokens` tokens.
    pub fn new(model: &ModelConfig, tokens: i64, device: Device) -> Result<ForwardContext, TchError> {
        let rope = RopeTable::new(&model.rope, model.head_dim, tokens, device)?;
        let mut window_masks = HashMap::new();
        for window in model.sliding_window.iter().flatten().filter(|window| **window < tokens) {
            window_masks.insert(*window, window_mask(tokens, *window, device)?);
        }
        Ok(ForwardContext { rope, window_masks, inputs: Input::Kept })
    }

    /// The same for layers that make outputs of norms and SwiGLU again in the backward, or keep them.
    pub fn with_selective_recomputation(self, recomputes: bool) -> ForwardContext {
        ForwardContext { inputs: if recomputes { Input::MadeAgain } else { Input::Kept }, ..self }
    }

    /// What layer `layer` of `model` needs for rows of `tokens` under `gates`.
    pub fn layer(
        &self,
        model: &ModelConfig,
        gates: &ModelGates,
        layer: i64,
        tokens: i64,
    ) -> Result<LayerContext, TchError> {
        let window = model.sliding_window.get(layer as usize).copied().flatten().filter(|window| *window < tokens);
        let window = window.and_then(|window| self.window_masks.get(&window));
        Ok(LayerContext {
            rope: self.rope.shallow_clone(),
            hidden: gates.hidden.as_ref().map(HiddenGate::shallow_clone),
            gates: gates.layers.get(layer as usize).map(LayerGates::shallow_clone).unwrap_or_default(),
            window: window.map(|mask| mask.f_narrow(0, 0, tokens)?.f_narrow(1, 0, tokens)).transpose()?,
            inputs: self.inputs,
        })
    }
}

/// `[T, T]`, true where position i may read position j: `0 ≤ i − j < window`.
pub(super) fn window_mask(tokens: i64, window: i64, device: Device) -> Result<Tensor, TchError> {
    let ones = Tensor::f_ones([tokens, tokens], (Kind::Bool, device))?;
    ones.f_tril(0)?.f_logical_and(&ones.f_triu(1 - window)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_mask_counts_the_token_itself() {
        let mask = window_mask(5, 2, Device::Cpu).unwrap();
        let rows: Vec<i64> = (0..5).map(|i| mask.get(i).sum(Kind::Int64).int64_value(&[])).collect();
        assert_eq!(rows, [1, 2, 2, 2, 2]);
        assert_eq!(mask.int64_value(&[4, 3]), 1);
        assert_eq!(mask.int64_value(&[4, 2]), 0);
    }
}
