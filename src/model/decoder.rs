//! The decoder: embedding, blocks, final norm, logits; and what one forward shares between its layers.
//!
//! Weights are taken by name from any source through a closure, so the same code serves training (leaf tensors),
//! inspection (memory-mapped checkpoints) and the block-by-block equivalence check (one layer at a time).
//!
//! Which masks multiply where follows Sheared-LLaMA with its inconsistencies removed: an untied embedding is
//! masked by the hidden gates, a tied one is not (it is only sliced at the end, so that it stays tied), and the
//! output head never is, because the final norm already carries the gates.

use super::HfModel;
use super::attention::{Attention, window_mask};
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::{HiddenGate, rms_norm};
use super::parameters::{EMBEDDING, FINAL_NORM, HEAD, layer_name};
use super::rope::RopeTable;
use shearling_masks::Gates;
use std::collections::HashMap;
use tch::{Device, TchError, Tensor};

/// What all layers of one forward share: rotary tables and the gates.
#[derive(Debug)]
pub struct ForwardContext {
    /// Rotary tables for at least T positions.
    pub rope: RopeTable,
    /// Gates of this forward; `Gates::none()` is the plain model.
    pub gates: Gates,
    /// The hidden gates, prepared for the norms.
    pub hidden: Option<HiddenGate>,
    /// Attention masks `[T, T]` of the sliding windows that are shorter than T, by window.
    window_masks: HashMap<i64, Tensor>,
}

impl ForwardContext {
    /// Context for rows of up to `tokens` tokens.
    pub fn new(model: &HfModel, tokens: i64, device: Device, gates: Gates) -> Result<ForwardContext, TchError> {
        let rope = RopeTable::new(&model.rope, model.head_dim, tokens, device)?;
        let mut window_masks = HashMap::new();
        for window in model.sliding_window.iter().flatten().filter(|window| **window < tokens) {
            window_masks.insert(*window, window_mask(tokens, *window, device)?);
        }
        let mut context = ForwardContext { rope, gates: Gates::none(), hidden: None, window_masks };
        context.set_gates(gates)?;
        Ok(context)
    }

    /// Replaces the gates, keeping the tables.
    pub fn set_gates(&mut self, gates: Gates) -> Result<(), TchError> {
        self.hidden = gates.hidden.as_ref().map(HiddenGate::new).transpose()?;
        self.gates = gates;
        Ok(())
    }

    /// The mask of a layer's sliding window for rows of `tokens`; `None` where plain causal attention does.
    pub(super) fn window_mask(&self, model: &HfModel, layer: i64, tokens: i64) -> Result<Option<Tensor>, TchError> {
        let window = model.sliding_window.get(layer as usize).copied().flatten().filter(|window| *window < tokens);
        let mask = window.and_then(|window| self.window_masks.get(&window));
        mask.map(|mask| mask.f_narrow(0, 0, tokens)?.f_narrow(1, 0, tokens)).transpose()
    }

    /// `z^layer · h ⊙ y`: what a half-layer `y [B, T, D]` writes to the residual stream.
    pub(super) fn gate_residual(&self, layer: i64, y: Tensor) -> Result<Tensor, TchError> {
        let layer_gate = self.gates.layer.as_ref().map(|gates| gates.f_select(0, layer)).transpose()?;
        let hidden = self.hidden.as_ref().map(|hidden| &hidden.gate);
        // The two gates are combined first: one pass over the activations instead of two.
        let gate = match (layer_gate, hidden) {
            (Some(layer), Some(hidden)) => hidden.f_mul(&layer)?,
            (Some(layer), None) => layer,
            (None, Some(hidden)) => hidden.shallow_clone(),
            (None, None) => return Ok(y),
        };
        y.f_mul(&gate.f_to_kind(y.f_kind()?)?)
    }
}

/// One layer.
#[derive(Debug)]
pub struct Block {
    attention: Attention,
    mlp: Mlp,
}

impl Block {
    /// Takes the weights of `layer` from `weight`, which is asked only for names that the config says exist.
    pub fn build<E>(
        model: &HfModel,
        layer: i64,
        weight: &mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<Block, E> {
        let mut get = |suffix: &str| weight(&layer_name(layer, suffix));
        let bias = model.attention_bias;
        let attention = Attention {
            norm: get("input_layernorm.weight")?,
            query: linear(&mut get, "self_attn.q_proj", bias.qkv)?,
            key: linear(&mut get, "self_attn.k_proj", bias.qkv)?,
            value: linear(&mut get, "self_attn.v_proj", bias.qkv)?,
            query_norm: model.qk_norm.then(|| get("self_attn.q_norm.weight")).transpose()?,
            key_norm: model.qk_norm.then(|| get("self_attn.k_norm.weight")).transpose()?,
            output: linear(&mut get, "self_attn.o_proj", bias.output)?,
        };
        let mlp = Mlp {
            norm: get("post_attention_layernorm.weight")?,
            gate: linear(&mut get, "mlp.gate_proj", model.mlp_bias)?,
            up: linear(&mut get, "mlp.up_proj", model.mlp_bias)?,
            down: linear(&mut get, "mlp.down_proj", model.mlp_bias)?,
        };
        Ok(Block { attention, mlp })
    }

    /// Residual stream `x [B, T, D]` after this layer; `layer` is its index in the context's gates.
    pub fn forward(
        &self,
        model: &HfModel,
        layer: i64,
        x: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor, TchError> {
        let x = x.f_add(&self.attention.forward(model, layer, x, context)?)?;
        x.f_add(&self.mlp.forward(model, layer, &x, context)?)
    }
}

fn linear<E>(get: &mut impl FnMut(&str) -> Result<Tensor, E>, stem: &str, bias: bool) -> Result<Linear, E> {
    let weight = get(&format!("{stem}.weight"))?;
    let bias = bias.then(|| get(&format!("{stem}.bias"))).transpose()?;
    Ok(Linear { weight, bias })
}

/// The way in: token embedding.
#[derive(Debug)]
pub struct Embedding {
    weight: Tensor,
    /// A tied embedding is not masked: the head, which is the same tensor, is only read through the final norm.
    masked: bool,
}

impl Embedding {
    /// Takes the embedding from `weight`.
    pub fn build<E>(model: &HfModel, weight: &mut dyn FnMut(&str) -> Result<Tensor, E>) -> Result<Embedding, E> {
        Ok(Embedding { weight: weight(EMBEDDING)?, masked: !model.tie_word_embeddings })
    }

    /// `input_ids [B, T]` (int64) to the residual stream `[B, T, D]`.
    pub fn forward(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let x = Tensor::f_embedding(&self.weight, input_ids, -1, false, false)?;
        match &context.hidden {
            Some(hidden) if self.masked => x.f_mul(&hidden.gate.f_to_kind(x.f_kind()?)?),
            _ => Ok(x),
        }
    }
}

/// The way out: final norm and output head.
#[derive(Debug)]
pub struct Head {
    norm: Tensor,
    weight: Tensor,
}

impl Head {
    /// Takes norm and head from `weight`. A tied head is the tensor of `embedding` if that is given, else asked for.
    pub fn build<E>(
        model: &HfModel,
        embedding: Option<&Embedding>,
        weight: &mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<Head, E> {
        let norm = weight(FINAL_NORM)?;
        let weight = match (model.tie_word_embeddings, embedding) {
            (true, Some(embedding)) => embedding.weight.shallow_clone(),
            (true, None) => weight(EMBEDDING)?,
            (false, _) => weight(HEAD)?,
        };
        Ok(Head { norm, weight })
    }

    /// Residual stream `x [B, T, D]` to logits `[B, T, V]`.
    pub fn forward(&self, model: &HfModel, x: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let normed = rms_norm(x, &self.norm, model.rms_norm_eps, context.hidden.as_ref())?;
        normed.f_linear(&self.weight, None::<&Tensor>)
    }
}

/// A whole model.
#[derive(Debug)]
pub struct Decoder {
    model: HfModel,
    embedding: Embedding,
    blocks: Vec<Block>,
    head: Head,
}

impl Decoder {
    /// Takes all weights from `weight` by Hugging Face name.
    pub fn build<E>(model: &HfModel, weight: &mut dyn FnMut(&str) -> Result<Tensor, E>) -> Result<Decoder, E> {
        let embedding = Embedding::build(model, weight)?;
        let blocks = (0..model.num_hidden_layers).map(|layer| Block::build(model, layer, weight));
        let blocks = blocks.collect::<Result<_, E>>()?;
        let head = Head::build(model, Some(&embedding), weight)?;
        Ok(Decoder { model: model.clone(), embedding, blocks, head })
    }

    /// The configuration it was built from.
    pub fn model(&self) -> &HfModel {
        &self.model
    }

    /// Logits `[B, T, V]` of `input_ids [B, T]` (int64).
    pub fn forward(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let mut x = self.embedding.forward(input_ids, context)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&self.model, layer as i64, &x, context)?;
        }
        self.head.forward(&self.model, &x, context)
    }
}
