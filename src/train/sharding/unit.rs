//! Weights that are fetched and let go together: those of a layer, or those outside of all layers.
//!
//! ```text
//! a rank keeps      its chunk of master (fp32), working copy (in bf16), gradient (fp32); moments are in the optimiser
//! fetch             chunks of all ranks ─► weights, whole              before a forward, and again before its backward
//! let go            their memory is given back                         after it
//! give              gradients, whole ─► the sum of this rank's chunk   after the backward of each micro-batch
//! ```

use super::layout::{Layout, Piece, Placed};
use crate::dist::{Error, Reduction, Started, World};
use crate::native::ops::gradient::set_gradient_buffer;
use crate::native::runtime::storage::Buffer;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, TchError, Tensor};

/// What of a chunk is where.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) layout: Layout,
    /// The ranks that divide it.
    block: World,
    /// In the dtype of the computation.
    weights: Buffer,
    /// fp32; none where the weights are frozen.
    gradients: Option<Buffer>,
    /// This rank's chunk `[chunk]` in the dtype of the computation: what is sent.
    own: Tensor,
    /// This rank's chunk in fp32; `own` itself in fp32.
    master: Tensor,
    /// This rank's chunk of the gradient's sum; none where the weights are frozen.
    gradient: Option<Tensor>,
    /// Weights on their way.
    fetching: Option<Started>,
    /// Whether the weights are whole.
    here: bool,
    /// Gradients on their way, and where they arrive.
    giving: Option<(Started, Tensor)>,
}

impl Unit {
    /// Of zeros, to be [filled](Unit::fill).
    pub(super) fn new(
        layout: Layout,
        block: World,
        compute: Kind,
        trains: bool,
        device: Device,
    ) -> Result<Unit, TchError> {
        let zeros = |kind| Tensor::f_zeros([layout.chunk], (kind, device));
        let own = zeros(compute)?;
        let master = if trains && compute != Kind::Float { zeros(Kind::Float)? } else { own.shallow_clone() };
        let gradient = trains.then(|| zeros(Kind::Float)).transpose()?;
        let weights = Buffer::new(layout.elements(), compute, device)?;
        let gradients = trains.then(|| Buffer::new(layout.elements(), Kind::Float, device)).transpose()?;
        let (fetching, here, giving) = (None, false, None);
        Ok(Unit { layout, block, weights, gradients, own, master, gradient, fetching, here, giving })
    }

    /// Takes this rank's part of a weight.
    pub(super) fn fill(&self, piece: Piece, weight: &Tensor) -> Result<(), TchError> {
        let part = weight.f_flatten(0, -1)?.f_narrow(0, piece.in_tensor, piece.length)?;
        for chunk in [&self.master, &self.own] {
            chunk.f_narrow(0, piece.in_chunk, piece.length)?.f_copy_(&part)?;
        }
        Ok(())
    }

    /// The weights as forward uses them, by name. They have memory while they are fetched.
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

    /// A part of this rank's chunks: master, gradient and, in bf16, working copy.
    pub(super) fn part(&self, piece: Piece) -> Result<Part, TchError> {
        let narrow = |chunk: &Tensor| chunk.f_narrow(0, piece.in_chunk, piece.length);
        let gradient = self.gradient.as_ref().map(narrow).transpose()?;
        let gradient = gradient.ok_or_else(|| TchError::Torch("frozen weights have no gradient".to_string()))?;
        let working = (self.own.kind() != Kind::Float).then(|| narrow(&self.own)).transpose()?;
        Ok(Part { master: narrow(&self.master)?, gradient, working })
    }

    /// This rank's chunk `[chunk]` of what is kept: the fp32 master, or a frozen weight.
    pub(super) fn kept(&self) -> &Tensor {
        &self.master
    }

    /// The sum of this rank's chunk of the gradient, if there is one.
    pub(super) fn gradient(&self) -> Option<&Tensor> {
        self.gradient.as_ref()
    }

    /// Begins to fetch, unless that has been done.
    pub(super) fn start_fetch(&mut self) -> Result<(), Error> {
        if !self.here && self.fetching.is_none() {
            self.weights.allocate().map_err(failed)?;
            self.fetching = Some(self.block.start_all_gather(self.weights.flat(), &self.own)?);
        }
        Ok(())
    }

    /// The weights are whole.
    pub(super) fn fetch(&mut self) -> Result<(), Error> {
        self.start_fetch()?;
        self.fetching.take().map_or(Ok(()), Started::wait)?;
        self.here = true;
        Ok(())
    }

    /// The weights are no longer needed.
    pub(super) fn let_go(&mut self) -> Result<(), Error> {
        self.fetching.take().map_or(Ok(()), Started::wait)?;
        self.here = false;
        self.weights.release().map_err(failed)
    }

    /// Makes room for gradients, all zero.
    pub(super) fn open_gradients(&mut self) -> Result<(), Error> {
        let Some(gradients) = &self.gradients else { return Ok(()) };
        let zero = || -> Result<(), TchError> {
            gradients.allocate()?;
            let _ = gradients.flat().shallow_clone().f_zero_()?;
            Ok(())
        };
        zero().map_err(failed)
    }

    /// Begins to sum the gradients of all ranks.
    pub(super) fn start_giving(&mut self) -> Result<(), Error> {
        let (Some(gradients), Some(own)) = (&self.gradients, &self.gradient) else { return Ok(()) };
        let arrived = own.f_empty_like().map_err(failed)?;
        let started = self.block.start_reduce_scatter(&arrived, gradients.flat(), Reduction::Sum)?;
        self.giving = Some((started, arrived));
        Ok(())
    }

    /// Adds what was begun to be summed to this rank's chunk, and gives the memory of the gradients back.
    pub(super) fn finish_giving(&mut self) -> Result<(), Error> {
        let (Some(gradients), Some(own)) = (&self.gradients, &self.gradient) else { return Ok(()) };
        let Some((started, arrived)) = self.giving.take() else { return Ok(()) };
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

/// A part of a rank's chunks, as the optimiser takes it.
pub(super) struct Part {
    pub(super) master: Tensor,
    pub(super) gradient: Tensor,
    pub(super) working: Option<Tensor>,
}

fn failed(problem: TchError) -> Error {
    Error::Tensor { what: "weights of a layer", problem: problem.to_string() }
}
