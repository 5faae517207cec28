//! Weights that are gathered and freed together: those of a layer, or those outside of all layers.
//!
//! ```text
//! a rank keeps      its chunk of the master (fp32, in bf16 runs in two halves) and of the gradient (fp32); moments are in
//!                   the optimiser
//! unshard           all-gather: chunks of all ranks ─► whole weights            before a forward, and before its backward
//! reshard           the memory of the whole weights is freed                    after it
//! reduce            reduce-scatter: whole gradients ─► this rank's chunk of the sum   after the backward of each micro-batch
//! ```

use super::layout::{Layout, Piece, Placed};
use crate::dist::{Error, Reduction, Started, World};
use crate::native::ops::gradient::set_gradient_buffer;
use crate::native::ops::halves;
use crate::native::runtime::storage::Buffer;
use crate::train::optimizer::OwnPart;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, TchError, Tensor};

/// Weights in a flat buffer, and this rank's chunk of them.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) layout: Layout,
    /// What this rank's chunk has of which weight.
    pub(super) pieces: Vec<Piece>,
    /// The ranks that shard it.
    ranks: World,
    /// Whole, in the dtype of the computation.
    weights: Buffer,
    /// Whole, fp32; none where the weights are frozen.
    gradients: Option<Buffer>,
    /// This rank's chunk `[chunk]` in the dtype of the computation: what is sent.
    shard: Tensor,
    /// What a bf16 chunk lacks of fp32 masters, int16; none in fp32, or where the weights are frozen.
    low: Option<Tensor>,
    /// This rank's chunk of the gradient's sum; none where the weights are frozen.
    gradient: Option<Tensor>,
    /// An all-gather that goes on.
    gathering: Option<Started>,
    /// Whether the weights are whole.
    is_unsharded: bool,
    /// A reduce-scatter that goes on, and where its result arrives.
    reducing: Option<(Started, Tensor)>,
}

impl Unit {
    /// Of zeros, to be [filled](Unit::fill).
    pub(super) fn new(
        layout: Layout,
        ranks: World,
        compute: Kind,
        trains: bool,
        device: Device,
    ) -> Result<Unit, TchError> {
        let zeros = |kind| Tensor::f_zeros([layout.chunk], (kind, device));
        Ok(Unit {
            pieces: layout.pieces(ranks.rank()),
            ranks,
            weights: Buffer::new(layout.elements(), compute, device)?,
            gradients: trains.then(|| Buffer::new(layout.elements(), Kind::Float, device)).transpose()?,
            gradient: trains.then(|| zeros(Kind::Float)).transpose()?,
            shard: zeros(compute)?,
            low: (trains && compute != Kind::Float).then(|| zeros(Kind::Int16)).transpose()?,
            gathering: None,
            is_unsharded: false,
            reducing: None,
            layout,
        })
    }

    /// Takes what this rank's chunk has of weight number `tensor`.
    pub(super) fn fill(&self, tensor: usize, weight: &Tensor) -> Result<(), TchError> {
        for piece in self.pieces.iter().filter(|piece| piece.tensor == tensor) {
            let part = weight.f_flatten(0, -1)?.f_narrow(0, piece.in_tensor, piece.length)?;
            let own = |chunk: &Tensor| chunk.f_narrow(0, piece.in_chunk, piece.length);
            match &self.low {
                Some(low) => halves::split_into(&part, &own(&self.shard)?, &own(low)?)?,
                None => own(&self.shard)?.f_copy_(&part)?,
            }
        }
        Ok(())
    }

    /// The weights as forward uses them, by name. They have memory while they are unsharded.
    pub(super) fn leaves(&self) -> Result<Vec<(String, Tensor)>, TchError> {
        let leaf = |placed: &Placed| {
            let leaf = self.weights.part(placed.start, &placed.shape, self.gradients.is_some())?;
            if let Some(gradients) = &self.gradients {
                set_gradient_buffer(&leaf, &gradients.part(placed.start, &placed.shape, false)?)?;
            }
            Ok((placed.name.clone(), leaf))
        };
        self.layout.tensors.iter().map(leaf).collect()
    }

    /// What the optimiser updates: the pieces of this rank's chunk; nothing where the weights are frozen.
    pub(super) fn own_parts(&self) -> Result<Vec<OwnPart>, TchError> {
        let Some(gradient) = &self.gradient else { return Ok(Vec::new()) };
        let part = |piece: &Piece| {
            let narrow = |chunk: &Tensor| chunk.f_narrow(0, piece.in_chunk, piece.length);
            let placed = &self.layout.tensors[piece.tensor];
            Ok(OwnPart {
                name: placed.name.clone(),
                whole: placed.shape.clone(),
                start: piece.in_tensor,
                values: narrow(&self.shard)?,
                low: self.low.as_ref().map(narrow).transpose()?,
                gradient: narrow(gradient)?,
            })
        };
        self.pieces.iter().map(part).collect()
    }

    /// This rank's chunk `[chunk]` as it is kept: fp32 masters, or frozen weights.
    pub(super) fn kept(&self) -> Result<Tensor, TchError> {
        match &self.low {
            Some(low) => halves::join(&self.shard, low),
            None => Ok(self.shard.shallow_clone()),
        }
    }

    /// Where it is.
    pub(super) fn device(&self) -> Device {
        self.shard.device()
    }

    /// This rank's chunk of the gradient's sum, if the weights train.
    pub(super) fn gradient(&self) -> Option<&Tensor> {
        self.gradient.as_ref()
    }

    /// Begins to gather the weights, unless that has been done.
    pub(super) fn start_unshard(&mut self) -> Result<(), Error> {
        if !self.is_unsharded && self.gathering.is_none() {
            self.weights.allocate().map_err(failed)?;
            self.gathering = Some(self.ranks.start_all_gather(self.weights.flat(), &self.shard)?);
        }
        Ok(())
    }

    /// The weights are whole.
    pub(super) fn unshard(&mut self) -> Result<(), Error> {
        self.start_unshard()?;
        self.gathering.take().map_or(Ok(()), Started::wait)?;
        self.is_unsharded = true;
        Ok(())
    }

    /// Frees the whole weights.
    pub(super) fn reshard(&mut self) -> Result<(), Error> {
        self.gathering.take().map_or(Ok(()), Started::wait)?;
        self.is_unsharded = false;
        self.weights.release().map_err(failed)
    }

    /// Makes room for whole gradients, all zero.
    pub(super) fn allocate_gradients(&mut self) -> Result<(), Error> {
        let Some(gradients) = &self.gradients else { return Ok(()) };
        gradients.allocate().map_err(failed)?;
        gradients.flat().shallow_clone().f_zero_().map(|_| ()).map_err(failed)
    }

    /// Begins to sum the gradients of all ranks.
    pub(super) fn start_reduce(&mut self) -> Result<(), Error> {
        let (Some(gradients), Some(own)) = (&self.gradients, &self.gradient) else { return Ok(()) };
        let arrived = own.f_empty_like().map_err(failed)?;
        let started = self.ranks.start_reduce_scatter(&arrived, gradients.flat(), Reduction::Sum)?;
        self.reducing = Some((started, arrived));
        Ok(())
    }

    /// Adds the sum that was begun, if one was, to this rank's chunk, and frees the whole gradients.
    pub(super) fn finish_reduce(&mut self) -> Result<(), Error> {
        let (Some(gradients), Some(own)) = (&self.gradients, &self.gradient) else { return Ok(()) };
        let Some((started, arrived)) = self.reducing.take() else { return Ok(()) };
        started.wait()?;
        let _ = own.shallow_clone().f_add_(&arrived).map_err(failed)?;
        gradients.release().map_err(failed)
    }
}

/// Tensors are used by one thread at a time: on a GPU the backward has one of its own.
pub(super) type Units = Arc<Vec<Mutex<Unit>>>;

pub(super) fn lock(unit: &Mutex<Unit>) -> MutexGuard<'_, Unit> {
    unit.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(problem: TchError) -> Error {
    Error::Tensor { what: "sharded weights", problem: problem.to_string() }
}
