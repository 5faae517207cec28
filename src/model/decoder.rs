//! The decoder: embedding, blocks, final norm, logits or losses; and what one forward shares between its layers.
//!
//! Weights are taken by name from any source through a closure, so the same code serves training (leaf tensors),
//! inspection (memory-mapped checkpoints) and the block-by-block equivalence check (one layer at a time).
//!
//! Which masks multiply where follows Sheared-LLaMA with its inconsistencies removed: an untied embedding is
//! masked by the hidden gates, a tied one is not (it is only sliced at the end, so that it stays tied), and the
//! output head never is, because the final norm already carries the gates.

use super::ModelConfig;
use super::attention::{Attention, HeadLayout, window_mask};
use super::gates::{GateLinks, LayerGates, ModelGates};
use super::linear::Linear;
use super::loss::{self, BatchLosses};
use super::mlp::Mlp;
use super::norm::{HiddenGate, rms_norm};
use super::parameters::{EMBEDDING, FINAL_NORM, HEAD, layer_name};
use super::rope::RopeTable;
use crate::native::embedding::embedding;
use crate::native::recompute::recompute;
use shearling_masks::Gates;
use std::collections::HashMap;
use tch::{Device, TchError, Tensor};

/// What all layers of one forward share: rotary tables, attention masks and the gates.
#[derive(Debug)]
pub struct ForwardContext {
    rope: RopeTable,
    gates: ModelGates,
    /// Attention masks `[T, T]` of the sliding windows that are shorter than T, by window.
    window_masks: HashMap<i64, Tensor>,
}

/// What one layer needs besides its weights and its input.
#[derive(Debug)]
pub struct LayerContext {
    pub(super) rope: RopeTable,
    pub(super) hidden: Option<HiddenGate>,
    pub(super) gates: LayerGates,
    /// Attention mask `[T, T]` of a sliding window; `None` where plain causal attention does.
    pub(super) window: Option<Tensor>,
}

impl LayerContext {
    /// Without gates: what decoding needs.
    pub(super) fn plain(rope: RopeTable) -> LayerContext {
        LayerContext { rope, hidden: None, gates: LayerGates::default(), window: None }
    }
}

impl ForwardContext {
    /// Context for rows of up to `tokens` tokens.
    pub fn new(model: &ModelConfig, tokens: i64, device: Device, gates: &Gates) -> Result<ForwardContext, TchError> {
        let rope = RopeTable::new(&model.rope, model.head_dim, tokens, device)?;
        let mut window_masks = HashMap::new();
        for window in model.sliding_window.iter().flatten().filter(|window| **window < tokens) {
            window_masks.insert(*window, window_mask(tokens, *window, device)?);
        }
        Ok(ForwardContext { rope, gates: ModelGates::new(model, gates)?, window_masks })
    }

    /// Context of a model without masks.
    pub fn unmasked(model: &ModelConfig, tokens: i64, device: Device) -> Result<ForwardContext, TchError> {
        ForwardContext::new(model, tokens, device, &Gates::none())
    }

    /// Replaces the gates, keeping the tables.
    pub fn set_gates(&mut self, model: &ModelConfig, gates: &Gates) -> Result<(), TchError> {
        self.gates = ModelGates::new(model, gates)?;
        Ok(())
    }

    /// Replaces the gates by leaves (see [`ModelGates::leaves`]): for a backward that recomputes layers.
    pub fn set_gate_leaves(&mut self, model: &ModelConfig, gates: &Gates) -> Result<GateLinks, TchError> {
        let (leaves, links) = ModelGates::leaves(model, gates)?;
        self.gates = leaves;
        Ok(links)
    }

    /// What layer `layer` of `model` needs for rows of `tokens`.
    pub fn layer(&self, model: &ModelConfig, layer: i64, tokens: i64) -> Result<LayerContext, TchError> {
        let gates = self.gates.layers.get(layer as usize);
        let window = model.sliding_window.get(layer as usize).copied().flatten().filter(|window| *window < tokens);
        let window = window.and_then(|window| self.window_masks.get(&window));
        Ok(LayerContext {
            rope: self.rope.shallow_clone(),
            hidden: self.hidden().map(HiddenGate::shallow_clone),
            gates: gates.map(LayerGates::shallow_clone).unwrap_or_default(),
            window: window.map(|mask| mask.f_narrow(0, 0, tokens)?.f_narrow(1, 0, tokens)).transpose()?,
        })
    }

    fn hidden(&self) -> Option<&HiddenGate> {
        self.gates.hidden.as_ref()
    }
}

/// One layer.
#[derive(Debug)]
pub struct Block {
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
}

impl Block {
    /// Takes the weights of `layer` from `weight`, which is asked only for names that the config says exist.
    pub fn build<E>(
        model: &ModelConfig,
        layer: i64,
        weight: &mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<Block, E> {
        let mut get = |suffix: &str| weight(&layer_name(layer, suffix));
        let bias = model.attention_bias;
        let eps = model.rms_norm_eps;
        let attention = Attention {
            norm: get("input_layernorm.weight")?,
            query: linear(&mut get, "self_attn.q_proj", bias.qkv)?,
            key: linear(&mut get, "self_attn.k_proj", bias.qkv)?,
            value: linear(&mut get, "self_attn.v_proj", bias.qkv)?,
            query_norm: model.qk_norm.then(|| get("self_attn.q_norm.weight")).transpose()?,
            key_norm: model.qk_norm.then(|| get("self_attn.k_norm.weight")).transpose()?,
            output: linear(&mut get, "self_attn.o_proj", bias.output)?,
            layout: HeadLayout::of(model),
            eps,
        };
        let mlp = Mlp {
            norm: get("post_attention_layernorm.weight")?,
            gate: linear(&mut get, "mlp.gate_proj", model.mlp_bias)?,
            up: linear(&mut get, "mlp.up_proj", model.mlp_bias)?,
            down: linear(&mut get, "mlp.down_proj", model.mlp_bias)?,
            eps,
        };
        Ok(Block { attention, mlp })
    }

    /// Residual stream `x [B, T, D]` after this layer.
    pub fn forward(&self, x: &Tensor, context: &LayerContext) -> Result<Tensor, TchError> {
        self.mlp.forward(&self.attention.forward(x, context)?, context)
    }

    /// As [`Block::forward`], keeping only `x` for the backward, which computes the layer again.
    fn forward_recomputed(&self, x: &Tensor, context: LayerContext) -> Result<Tensor, TchError> {
        let block = Block { attention: self.attention.shallow_clone(), mlp: self.mlp.shallow_clone() };
        recompute(x, move |x| block.forward(x, &context))
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
    pub(super) weight: Tensor,
    /// A tied embedding is not masked: the head, which is the same tensor, is only read through the final norm.
    masked: bool,
}

impl Embedding {
    /// Takes the embedding from `weight`.
    pub fn build<E>(model: &ModelConfig, weight: &mut dyn FnMut(&str) -> Result<Tensor, E>) -> Result<Embedding, E> {
        Ok(Embedding { weight: weight(EMBEDDING)?, masked: !model.tie_word_embeddings })
    }

    /// `input_ids [B, T]` (int64) to the residual stream `[B, T, D]`.
    pub fn forward(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let gate = context.hidden().filter(|_| self.masked).map(|hidden| &hidden.gate);
        embedding(input_ids, &self.weight, gate)
    }
}

/// The way out: final norm and output head.
#[derive(Debug)]
pub struct Head {
    pub(super) norm: Tensor,
    pub(super) weight: Tensor,
}

impl Head {
    /// Takes norm and head from `weight`. A tied head is the tensor of `embedding` if that is given, else asked for.
    pub fn build<E>(
        model: &ModelConfig,
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

    /// V: rows of the head.
    pub fn vocab_size(&self) -> i64 {
        self.weight.size()[0]
    }

    /// Residual stream `x [B, T, D]` to logits `[B, T, V]`.
    pub fn forward(&self, model: &ModelConfig, x: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let (normed, _) = rms_norm(x, &self.norm, model.rms_norm_eps, context.hidden())?;
        normed.f_linear(&self.weight, None::<&Tensor>)
    }

    /// Residual stream `x [B, T, D]` of `input_ids [B, T]` to the losses of the next tokens, without holding all
    /// logits.
    fn losses(
        &self,
        model: &ModelConfig,
        x: &Tensor,
        input_ids: &Tensor,
        scale: f64,
        context: &ForwardContext,
    ) -> Result<BatchLosses, TchError> {
        let (normed, _) = rms_norm(x, &self.norm, model.rms_norm_eps, context.hidden())?;
        loss::next_token_losses(&normed, &self.weight, input_ids, scale)
    }

    /// Residual stream `x [B, T, D]` to the losses `[N]` of `targets [N]` at `positions [N]` of the B·T tokens.
    fn target_losses(
        &self,
        model: &ModelConfig,
        x: &Tensor,
        positions: &Tensor,
        targets: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor, TchError> {
        let chosen = x.f_reshape([-1, model.hidden_size])?.f_index_select(0, positions)?;
        let (normed, _) = rms_norm(&chosen, &self.norm, model.rms_norm_eps, context.hidden())?;
        loss::target_losses(&normed, &self.weight, targets)
    }
}

/// A whole model.
#[derive(Debug)]
pub struct Decoder {
    model: ModelConfig,
    pub(super) embedding: Embedding,
    pub(super) blocks: Vec<Block>,
    pub(super) head: Head,
    /// Every n-th block is computed again in the backward; 0: none.
    recompute_every: usize,
}

impl Decoder {
    /// Takes all weights from `weight` by Hugging Face name.
    pub fn build<E>(model: &ModelConfig, weight: &mut dyn FnMut(&str) -> Result<Tensor, E>) -> Result<Decoder, E> {
        let embedding = Embedding::build(model, weight)?;
        let blocks = (0..model.num_hidden_layers).map(|layer| Block::build(model, layer, weight));
        let blocks = blocks.collect::<Result<_, E>>()?;
        let head = Head::build(model, Some(&embedding), weight)?;
        Ok(Decoder { model: model.clone(), embedding, blocks, head, recompute_every: 0 })
    }

    /// Trades time for memory: every n-th block keeps only its input and is computed again in the backward; 0: none.
    pub fn with_activation_checkpointing(self, recompute_every: usize) -> Decoder {
        Decoder { recompute_every, ..self }
    }

    /// The configuration it was built from.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Logits `[B, T, V]` of `input_ids [B, T]` (int64).
    pub fn forward(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        self.head.forward(&self.model, &self.residual_stream(input_ids, context)?, context)
    }

    /// The residual stream `[B, T, D]` after the last block.
    pub fn residual_stream(&self, input_ids: &Tensor, context: &ForwardContext) -> Result<Tensor, TchError> {
        let tokens = input_ids.size()[1];
        let mut x = self.embedding.forward(input_ids, context)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let layer_context = context.layer(&self.model, layer as i64, tokens)?;
            x = match self.recompute_every > 0 && layer.is_multiple_of(self.recompute_every) {
                true => block.forward_recomputed(&x, layer_context)?,
                false => block.forward(&x, &layer_context)?,
            };
        }
        Ok(x)
    }

    /// Losses of the next tokens of `input_ids [B, T]`, from the residual stream after the last block `x [B, T, D]`;
    /// their sum times `scale` is the objective. Logits exist for a few rows at a time only.
    pub fn losses(
        &self,
        x: &Tensor,
        input_ids: &Tensor,
        scale: f64,
        context: &ForwardContext,
    ) -> Result<BatchLosses, TchError> {
        self.head.losses(&self.model, x, input_ids, scale, context)
    }

    /// Losses `[N]` (nats, fp32) of single targets: token `targets [N]` (int64) after position `positions [N]` (int64) of
    /// the B·T tokens of the residual stream `x [B, T, D]`. Only these positions get logits.
    pub fn target_losses(
        &self,
        x: &Tensor,
        positions: &Tensor,
        targets: &Tensor,
        context: &ForwardContext,
    ) -> Result<Tensor, TchError> {
        self.head.target_losses(&self.model, x, positions, targets, context)
    }
}
