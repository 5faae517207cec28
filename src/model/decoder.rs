//! The decoder: embedding, blocks, final norm, logits; and what one forward shares between its layers.
//!
//! Weights are taken by name from any source through a closure, so the same code serves training (leaf tensors),
//! inspection (memory-mapped checkpoints) and the block-by-block equivalence check (one layer at a time).
//!
//! Which masks multiply where follows Sheared-LLaMA with its inconsistencies removed: an untied embedding is
//! masked by the hidden gates, a tied one is not (it is only sliced at the end, so that it stays tied), and the
//! output head never is, because the final norm already carries the gates.

use super::HfModel;
use super::attention::Attention;
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::{HiddenGate, rms_norm};
use super::parameters::{EMBEDDING, FINAL_NORM, HEAD, layer_name};
use super::rope::RopeTable;
use shearling_masks::Gates;
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
}

impl ForwardContext {
    /// Context for rows of up to `tokens` tokens.
    pub fn new(model: &HfModel, tokens: i64, device: Device, gates: Gates) -> Result<ForwardContext, TchError> {
        let rope = RopeTable::new(&model.rope, model.head_dim, tokens, device)?;
        let mut context = ForwardContext { rope, gates: Gates::none(), hidden: None };
        context.set_gates(gates)?;
        Ok(context)
    }

    /// Replaces the gates, keeping the tables.
    pub fn set_gates(&mut self, gates: Gates) -> Result<(), TchError> {
        self.hidden = gates.hidden.as_ref().map(HiddenGate::new).transpose()?;
        self.gates = gates;
        Ok(())
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

/// Both ends of the decoder: embedding, final norm and head.
#[derive(Debug)]
pub struct Ends {
    embedding: Tensor,
    norm: Tensor,
    head: Option<Tensor>,
}

impl Ends {
    /// Takes the weights outside the layers from `weight`.
    pub fn build<E>(model: &HfModel, weight: &mut dyn FnMut(&str) -> Result<Tensor, E>) -> Result<Ends, E> {
        let (embedding, norm) = (weight(EMBEDDING)?, weight(FINAL_NORM)?);
        let head = (!model.tie_word_embeddings).then(|| weight(HEAD)).transpose()?;
        Ok(Ends { embedding, norm, head })
    }

    /// `input_ids [B, T]` (int64) to the residual stream `[B, T, D]`.
    pub fn embed(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let x = Tensor::f_embedding(&self.embedding, input_ids, -1, false, false)?;
        match &context.hidden {
            Some(hidden) if self.head.is_some() => x.f_mul(&hidden.gate.f_to_kind(x.f_kind()?)?),
            _ => Ok(x),
        }
    }

    /// Residual stream `x [B, T, D]` to logits `[B, T, V]`.
    pub fn logits(&self, model: &HfModel, x: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let normed = rms_norm(x, &self.norm, model.rms_norm_eps, context.hidden.as_ref())?;
        normed.f_linear(self.head.as_ref().unwrap_or(&self.embedding), None::<&Tensor>)
    }
}

/// A whole model.
#[derive(Debug)]
pub struct Decoder {
    model: HfModel,
    ends: Ends,
    blocks: Vec<Block>,
}

impl Decoder {
    /// Takes all weights from `weight` by Hugging Face name.
    pub fn build<E>(model: &HfModel, weight: &mut dyn FnMut(&str) -> Result<Tensor, E>) -> Result<Decoder, E> {
        let ends = Ends::build(model, weight)?;
        let blocks = (0..model.num_hidden_layers).map(|layer| Block::build(model, layer, weight));
        Ok(Decoder { model: model.clone(), ends, blocks: blocks.collect::<Result<_, E>>()? })
    }

    /// The configuration it was built from.
    pub fn model(&self) -> &HfModel {
        &self.model
    }

    /// Logits `[B, T, V]` of `input_ids [B, T]` (int64).
    pub fn forward(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let mut x = self.ends.embed(input_ids, context)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&self.model, layer as i64, &x, context)?;
        }
        self.ends.logits(&self.model, &x, context)
    }
}
