//! What a step minimises, and its gradients.
//!
//! ```text
//! loss = Σ_rows Σ_tokens CE / (target tokens of the batch) + L_lag
//! ```
//!
//! Routers (`[lte]`) may add the penalty of their scores, which the blocks take along themselves (`model::router`).
//! With a teacher the loss of a token is `(1−λ)·CE + λ·T²·KL(teacher ‖ model)` in place of CE (`[distill]`).
//! The cross entropy is divided by the target tokens of the whole batch, so the number of micro-batches does not
//! change the gradient. The Lagrangian has no noise and is added once. A term of the tokens belongs beside the cross
//! entropy, in the loop over micro-batches; one of the masks alone beside the Lagrangian.

use super::Error;
use super::phases::Phase;
use super::sharding::Shards;
use super::trainer::Trainer;
use crate::model::ModelGates;
use crate::model::gates::GateLinks;
use crate::model::loss::{self, BatchLosses};
use shearling_domains::Batch;
use shearling_masks::{Lagrangian, NoiseKey};
use tch::{TchError, Tensor};

/// Sums over the tokens of every row of a batch `[rows]`, on the device; of rows that another rank does, zeros.
pub(super) struct RowSums {
    /// Of the cross entropy.
    pub(super) losses: Tensor,
    /// Of the divergence from the teacher, if there is one.
    pub(super) divergences: Option<Tensor>,
}

impl Trainer {
    /// Forward and backward of all micro-batches that are this rank's. Their noise is that of their place in the batch.
    pub(super) fn accumulate(&mut self, batch: &Batch, step: u64) -> Result<RowSums, Error> {
        let tokens = batch.sequence_length;
        let scale = 1.0 / (batch.rows * loss::targets_per_row(tokens)) as f64;
        let micro = self.config.train.micro_batch() as i64;
        let ids: Vec<i64> = batch.tokens.iter().map(|id| i64::from(*id)).collect();
        let ids = Tensor::f_from_slice(&ids)?.f_view([-1, tokens as i64])?.f_to_device(self.device)?;
        let (mut losses, mut divergences) = (Vec::new(), Vec::new());
        let world = self.exchange.world.clone();
        let all = (0..batch.rows as i64).step_by(micro as usize).enumerate();
        let mut own = all.filter(|(index, _)| world.takes(*index)).peekable();
        self.weights.shards.as_ref().map_or(Ok(()), Shards::begin_step)?;
        while let Some((micro_batch, start)) = own.next() {
            self.exchange.expect(own.peek().is_none());
            let ids = ids.f_narrow(0, start, micro.min(batch.rows as i64 - start))?;
            let (gates, links) = self.drawn_gates(step, micro_batch as u64)?;
            self.clock.mark(Phase::Masks);
            // Before the model's own forward: what the teacher's blocks take is free again when the model's fill up.
            let taught = self.teacher.as_ref().map(|teacher| teacher.stream(&ids)).transpose()?;
            self.clock.mark(Phase::Teacher);
            let x = self.model.residual_stream(&ids, &self.context, &gates)?;
            self.observe_routers(&ids)?;
            self.clock.mark(Phase::Forward);
            let found = self.token_losses(&x, &ids, scale, &gates, taught.as_ref())?;
            drop((x, taught));
            self.clock.mark(Phase::Loss);
            // Frozen weights under gates that have decided for good leave nothing to train.
            if found.objective.requires_grad() {
                found.objective.f_backward()?;
            }
            // What blocks that were recomputed have left again.
            drop(self.model.take_router_logits());
            self.clock.mark(Phase::Backward);
            links.map_or(Ok(()), |links| links.backward())?;
            losses.push((start, found.rows()?));
            divergences.extend(found.row_divergences()?.map(|found| (start, found)));
            self.clock.mark(Phase::Masks);
        }
        let rows = batch.rows as i64;
        let without = || Error::Mismatch("a rank has no micro-batch of a step".to_string());
        let losses = spread(rows, &losses)?.ok_or_else(without)?;
        Ok(RowSums { losses, divergences: spread(rows, &divergences)? })
    }

    fn observe_routers(&mut self, ids: &Tensor) -> Result<(), TchError> {
        let (rows, tokens) = ids.size2()?;
        self.routers.as_mut().map_or(Ok(()), |routers| routers.observe(&self.model, rows * tokens))
    }

    /// The losses of a micro-batch from the residual stream `x [B, T, D]`; with a teacher also from its normed stream.
    fn token_losses(
        &self,
        x: &Tensor,
        ids: &Tensor,
        scale: f64,
        gates: &ModelGates,
        taught: Option<&Tensor>,
    ) -> Result<BatchLosses, TchError> {
        match self.teacher.as_ref().zip(taught) {
            Some((teacher, stream)) => {
                self.model.distilled_losses(x, ids, scale, gates, teacher.head(stream), teacher.blend)
            }
            None => self.model.losses(x, ids, scale, gates),
        }
    }

    /// The gates of a micro-batch, with the way back to the masks.
    fn drawn_gates(&self, step: u64, micro_batch: u64) -> Result<(ModelGates, Option<GateLinks>), Error> {
        let Some(masks) = &self.masks else { return Ok((ModelGates::none(), None)) };
        let key = NoiseKey { seed: self.config.run.seed, step, micro_batch };
        let (gates, links) = ModelGates::leaves(&self.model_config, &masks.set.sample(&key)?)?;
        Ok((gates, Some(links)))
    }

    /// Backward of the Lagrangian: once, in rank 0, whose gradient then goes to all with those of the tokens.
    pub(super) fn constrain(&mut self, step: u64) -> Result<Option<Lagrangian>, Error> {
        let Some(masks) = &mut self.masks else { return Ok(None) };
        let lagrangian = masks.set.lagrangian(step)?;
        if lagrangian.loss.requires_grad() && self.exchange.world.is_first() {
            lagrangian.loss.f_backward()?;
        }
        self.clock.mark(Phase::Masks);
        Ok(Some(lagrangian))
    }
}

/// A vector of `rows` with parts, in order, in their places, and zeros elsewhere.
fn spread(rows: i64, parts: &[(i64, Tensor)]) -> Result<Option<Tensor>, TchError> {
    let Some((_, first)) = parts.first() else { return Ok(None) };
    let _no_grad = tch::no_grad_guard();
    if parts.iter().map(|(_, part)| part.numel() as i64).sum::<i64>() == rows {
        return Tensor::f_cat(&parts.iter().map(|(_, part)| part).collect::<Vec<_>>(), 0).map(Some);
    }
    let all = Tensor::f_zeros([rows], (first.kind(), first.device()))?;
    for (start, part) in parts {
        all.f_narrow(0, *start, part.numel() as i64)?.f_copy_(part)?;
    }
    Ok(Some(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_to_their_places() {
        let part = |values: &[f32]| Tensor::from_slice(values);
        let all = spread(5, &[(0, part(&[3.0])), (3, part(&[1.0, 2.0]))]).unwrap().unwrap();
        assert_eq!(Vec::<f32>::try_from(all).unwrap(), [3.0, 0.0, 0.0, 1.0, 2.0]);
        let whole = spread(3, &[(0, part(&[1.0])), (1, part(&[2.0, 3.0]))]).unwrap().unwrap();
        assert_eq!(Vec::<f32>::try_from(whole).unwrap(), [1.0, 2.0, 3.0]);
        assert!(spread(5, &[]).unwrap().is_none());
    }
}
