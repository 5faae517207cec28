//! The decoder: embedding, blocks, final norm, logits or losses.
//!
//! Weights are taken by name from any source through a closure, so the same code serves training (leaf tensors),
//! inspection (memory-mapped checkpoints) and the block-by-block equivalence check (one layer at a time).
//!
//! Which masks multiply where follows Sheared-LLaMA with its inconsistencies removed: an untied embedding is
//! masked by the hidden gates, a tied one is not (it is only sliced at the end, so that it stays tied), and the
//! output head never is, because the final norm already carries the gates.

use super::ModelConfig;
use super::block::{AroundLayer, Block, Keep};
use super::context::ForwardContext;
use super::gates::ModelGates;
use super::loss::{self, BatchLosses, Blend, TeacherHead};
use super::norm::rms_norm;
use super::parameters::Role;
use crate::native::ops::embedding::embedding;
use crate::native::ops::sparse_feed_forward::PackedExperts;
use std::sync::Arc;
use tch::{TchError, Tensor};

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
        Ok(Embedding { weight: weight(&Role::Embedding.name(None))?, masked: !model.tie_word_embeddings })
    }

    /// `input_ids [B, T]` (int64) to the residual stream `[B, T, D]`.
    pub fn forward(&self, input_ids: &Tensor, gates: &ModelGates) -> Result<Tensor, TchError> {
        let gate = gates.hidden.as_ref().filter(|_| self.masked).map(|hidden| &hidden.gate);
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
        let norm = weight(&Role::FinalNorm.name(None))?;
        let weight = match (model.tie_word_embeddings, embedding) {
            (true, Some(embedding)) => embedding.weight.shallow_clone(),
            (true, None) => weight(&Role::Embedding.name(None))?,
            (false, _) => weight(&Role::Head.name(None))?,
        };
        Ok(Head { norm, weight })
    }

    /// V: rows of the head.
    pub fn vocab_size(&self) -> i64 {
        self.weight.size()[0]
    }

    /// Residual stream `x [B, T, D]` to logits `[B, T, V]`.
    pub fn forward(&self, model: &ModelConfig, x: &Tensor, gates: &ModelGates) -> Result<Tensor, TchError> {
        self.normed(model, x, gates)?.f_linear(&self.weight, None::<&Tensor>)
    }

    fn normed(&self, model: &ModelConfig, x: &Tensor, gates: &ModelGates) -> Result<Tensor, TchError> {
        Ok(rms_norm(x, &self.norm, model.rms_norm_eps, gates.hidden.as_ref())?.0)
    }

    /// Residual stream `x [B, T, D]` of `input_ids [B, T]` to the losses of the next tokens, without holding all
    /// logits.
    pub fn losses(
        &self,
        model: &ModelConfig,
        x: &Tensor,
        input_ids: &Tensor,
        scale: f64,
        gates: &ModelGates,
    ) -> Result<BatchLosses, TchError> {
        loss::next_token_losses(&self.normed(model, x, gates)?, &self.weight, input_ids, scale)
    }

    /// Residual stream `x [B, T, D]` to the losses `[N]` of `targets [N]` at `positions [N]` of the B·T tokens.
    fn target_losses(
        &self,
        model: &ModelConfig,
        x: &Tensor,
        positions: &Tensor,
        targets: &Tensor,
        gates: &ModelGates,
    ) -> Result<Tensor, TchError> {
        let chosen = x.f_reshape([-1, model.hidden_size])?.f_index_select(0, positions)?;
        loss::target_losses(&self.normed(model, &chosen, gates)?, &self.weight, targets)
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
        Decoder::build_packed(model, &mut |_| Ok(None), weight)
    }

    /// As [`Decoder::build`], with the packed feed-forward that `packed` gives for a layer in place of its matrices. Such a
    /// model decodes and has no gradients.
    pub fn build_packed<E>(
        model: &ModelConfig,
        packed: &mut dyn FnMut(i64) -> Result<Option<PackedExperts>, E>,
        weight: &mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> Result<Decoder, E> {
        let embedding = Embedding::build(model, weight)?;
        let blocks =
            (0..model.num_hidden_layers).map(|layer| Block::build_packed(model, layer, packed(layer)?, weight));
        let blocks = blocks.collect::<Result<_, E>>()?;
        let head = Head::build(model, Some(&embedding), weight)?;
        Ok(Decoder { model: model.clone(), embedding, blocks, head, recompute_every: 0 })
    }

    /// Trades time for memory: every n-th block keeps only its input and is computed again in the backward; 0: none.
    pub fn with_recomputation(self, recompute_every: usize) -> Decoder {
        Decoder { recompute_every, ..self }
    }

    /// Tells of the passes of each layer, in their order; a layer more than are given keeps to itself.
    pub fn surround(&mut self, around: impl IntoIterator<Item = Arc<dyn AroundLayer>>) {
        for (block, around) in self.blocks.iter_mut().zip(around) {
            block.around = Some(around);
        }
    }

    /// The configuration it was built from.
    pub fn model(&self) -> &ModelConfig {
        &self.model
    }

    /// Logits `[B, T, V]` of `input_ids [B, T]` (int64).
    pub fn forward(
        &self,
        input_ids: &Tensor,
        context: &ForwardContext,
        gates: &ModelGates,
    ) -> Result<Tensor, TchError> {
        self.head.forward(&self.model, &self.residual_stream(input_ids, context, gates)?, gates)
    }

    /// The residual stream `[B, T, D]` after the last block.
    pub fn residual_stream(
        &self,
        input_ids: &Tensor,
        context: &ForwardContext,
        gates: &ModelGates,
    ) -> Result<Tensor, TchError> {
        let tokens = input_ids.size()[1];
        let mut x = self.embedding.forward(input_ids, gates)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.run(&x, context.layer(&self.model, gates, layer as i64, tokens)?, self.keep(layer))?;
        }
        Ok(x)
    }

    /// What block `layer` keeps for the backward.
    fn keep(&self, layer: usize) -> Keep {
        let recomputed = self.recompute_every > 0 && layer.is_multiple_of(self.recompute_every);
        if recomputed { Keep::Input } else { Keep::All }
    }

    /// Losses of the next tokens of `input_ids [B, T]`, from the residual stream after the last block `x [B, T, D]`;
    /// their sum times `scale` is the objective. Logits exist for a few rows at a time only.
    pub fn losses(
        &self,
        x: &Tensor,
        input_ids: &Tensor,
        scale: f64,
        gates: &ModelGates,
    ) -> Result<BatchLosses, TchError> {
        self.head.losses(&self.model, x, input_ids, scale, gates)
    }

    /// The normed residual stream `[B, T, D]` of `input_ids [B, T]`: what the output head reads.
    pub fn normed_stream(
        &self,
        input_ids: &Tensor,
        context: &ForwardContext,
        gates: &ModelGates,
    ) -> Result<Tensor, TchError> {
        self.head.normed(&self.model, &self.residual_stream(input_ids, context, gates)?, gates)
    }

    /// This model as a teacher: what its head makes of the normed stream `hidden`.
    pub fn as_teacher<'a>(&'a self, hidden: &'a Tensor) -> TeacherHead<'a> {
        TeacherHead { hidden, weight: &self.head.weight }
    }

    /// [`losses`](Decoder::losses) beside a teacher with the same vocabulary: their blend is the objective, and the
    /// logits of neither model exist as a whole.
    pub fn distilled_losses(
        &self,
        x: &Tensor,
        input_ids: &Tensor,
        scale: f64,
        gates: &ModelGates,
        teacher: TeacherHead,
        blend: Blend,
    ) -> Result<BatchLosses, TchError> {
        let normed = self.head.normed(&self.model, x, gates)?;
        loss::distilled_losses(&normed, &self.head.weight, input_ids, scale, teacher, blend)
    }

    /// Losses `[N]` (nats, fp32) of single targets: token `targets [N]` (int64) after position `positions [N]` (int64) of
    /// the B·T tokens of the residual stream `x [B, T, D]`. Only these positions get logits.
    pub fn target_losses(
        &self,
        x: &Tensor,
        positions: &Tensor,
        targets: &Tensor,
        gates: &ModelGates,
    ) -> Result<Tensor, TchError> {
        self.head.target_losses(&self.model, x, positions, targets, gates)
    }
}
