//! Scores of layers by the loss of the model without them, on calibration rows (as SLEB, arXiv 2402.09025): the layer whose
//! absence costs least goes first, then the next one from what is left, until the target is reached.
//!
//! The score of a layer is the step at which it left, and for those that stay a number above all of these, ordered by what
//! leaving next would cost. Dear beside the other scores, and fairer: a layer that turns the stream little may still be
//! one that everything after it needs.
//!
//! One part of the rows at a time runs through the layers that are left; the stream before a candidate is shared with
//! those behind it, so that a round over n layers takes n²/2 layers of forward. All weights are held in the dtype of the
//! computation.

use super::super::Error;
use super::{Calibration, Progress, micro_batches, weights};
use crate::hf::Checkpoint;
use crate::model::{Block, Embedding, ForwardContext, Head, ModelConfig, ModelGates};
use tch::{Device, Kind, Tensor};

/// Scores `[L]` of the layers, of which `target` are to stay.
pub(super) fn scores(
    source: &Checkpoint,
    target: i64,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Tensor, Error> {
    let _no_grad = tch::no_grad_guard();
    let model = Layers::open(source, calibration, device)?;
    let batches = micro_batches(calibration)?;
    let count = model.blocks.len();
    let mut scores = vec![0.0f32; count];
    let mut left: Vec<usize> = (0..count).collect();
    let rounds = count - target as usize;
    // One more round than layers go: it orders those that stay.
    for round in 0..=rounds {
        let mut losses = vec![0.0f64; left.len()];
        for (index, ids) in batches.iter().enumerate() {
            progress("taking out layers, part", round * batches.len() + index, (rounds + 1) * batches.len());
            for (sum, loss) in losses.iter_mut().zip(model.losses_without_each(&left, ids)?) {
                *sum += loss;
            }
        }
        if round == rounds {
            let mut order: Vec<usize> = (0..left.len()).collect();
            order.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));
            order.into_iter().enumerate().for_each(|(rank, at)| scores[left[at]] = (rounds + rank) as f32);
        } else if let Some(at) = (0..left.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])) {
            scores[left.remove(at)] = round as f32;
        }
    }
    Ok(Tensor::f_from_slice(&scores)?.f_to_device(device)?)
}

/// A model whose layers can be left out.
struct Layers {
    model: ModelConfig,
    context: ForwardContext,
    embedding: Embedding,
    blocks: Vec<Block>,
    head: Head,
}

impl Layers {
    fn open(source: &Checkpoint, calibration: &Calibration, device: Device) -> Result<Layers, Error> {
        let (model, mut weight) = (source.model(), weights(source, calibration, device));
        let embedding = Embedding::build(model, &mut weight)?;
        let blocks = (0..model.num_hidden_layers).map(|layer| Block::build(model, layer, &mut weight));
        let blocks = blocks.collect::<Result<_, Error>>()?;
        let head = Head::build(model, Some(&embedding), &mut weight)?;
        source.release();
        let context = ForwardContext::new(model, calibration.rows.size()[1], device)?;
        Ok(Layers { model: model.clone(), context, embedding, blocks, head })
    }

    /// Summed loss of `ids [B, T]` without each of the layers in `left`, the other layers in `left` present.
    fn losses_without_each(&self, left: &[usize], ids: &Tensor) -> Result<Vec<f64>, Error> {
        let none = ModelGates::none();
        let mut before = self.embedding.forward(ids, &none)?;
        let mut losses = Vec::with_capacity(left.len());
        for (at, layer) in left.iter().enumerate() {
            let mut x = before.shallow_clone();
            for later in &left[at + 1..] {
                x = self.run(*later, &x)?;
            }
            let tokens = self.head.losses(&self.model, &x, ids, 1.0, &none)?.tokens;
            losses.push(tokens.f_sum(Kind::Double)?.f_double_value(&[])?);
            before = self.run(*layer, &before)?;
        }
        Ok(losses)
    }

    fn run(&self, layer: usize, x: &Tensor) -> Result<Tensor, Error> {
        let context = self.context.layer(&self.model, &ModelGates::none(), layer as i64, x.size()[1])?;
        Ok(self.blocks[layer].forward(x, &context)?)
    }
}
