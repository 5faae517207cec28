//! A decoded token as one launch of a CUDA graph.
//!
//! ```text
//! first token after a prompt ─► launch by launch, which loads all that they need     position and ids come from the
//! second ─► the same launches, recorded, then launched as one                        device, so that the launches are
//! every other ─► launched as one                                                     those of every token
//! ```
//!
//! A token of a 7B is hundreds of launches; the host takes longer to make them than the GPU to run them. What is recorded
//! belongs to a cache, whose memory it reads and writes and which drops it when it takes other memory; with other weights it is
//! made again.

use crate::native::kernels::{self, Path};
use crate::native::runtime::cuda_graph::CudaGraph;
use std::fmt::Display;
use tch::{Device, Kind, TchError, Tensor};

/// A token after those of a cache, on its way to one launch.
#[derive(Debug)]
pub(super) struct RecordedToken {
    /// `[B, 1]`, int64.
    ids: Tensor,
    /// `[1]`, int64.
    position: Tensor,
    /// Of the decoder that it is a token of: held, so that no other decoder's can come to lie in the same place.
    weights: [Tensor; 2],
    launches: Launches,
}

/// How it is launched.
#[derive(Debug)]
enum Launches {
    /// One by one, for the first time.
    Unloaded,
    /// One by one, recorded for the next.
    Loaded,
    /// As one, which writes the logits `[B, V]`.
    Recorded(CudaGraph, Tensor),
    /// One by one: they cannot be recorded, and why.
    Refused(String),
}

impl RecordedToken {
    /// A token of ids like these of the decoder with these weights.
    pub(super) fn new(input_ids: &Tensor, weights: [&Tensor; 2]) -> Result<RecordedToken, TchError> {
        let position = Tensor::f_zeros([1], (Kind::Int64, input_ids.device()))?;
        let ids = input_ids.f_empty_like()?;
        let weights = weights.map(Tensor::shallow_clone);
        Ok(RecordedToken { ids, position, weights, launches: Launches::Unloaded })
    }

    /// Whether it is a token of the decoder with these weights.
    pub(super) fn is_of(&self, weights: [&Tensor; 2]) -> bool {
        self.weights.iter().zip(weights).all(|(own, given)| own.data_ptr() == given.data_ptr())
    }

    /// Why tokens are launched one by one though they were to be recorded.
    pub(super) fn refusal(&self) -> Option<&str> {
        match &self.launches {
            Launches::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    /// Logits `[B, V]` after `input_ids [B, 1]` at `position`, by the launches of `one_by_one(ids, position)`.
    pub(super) fn next<E: From<TchError> + Display>(
        &mut self,
        input_ids: &Tensor,
        position: i64,
        one_by_one: impl Fn(&Tensor, &Tensor) -> Result<Tensor, E>,
    ) -> Result<Tensor, E> {
        self.ids.f_copy_(input_ids)?;
        let _ = self.position.f_fill_(position)?;
        let one_by_one = || one_by_one(&self.ids, &self.position);
        if let (Launches::Loaded, Device::Cuda(gpu)) = (&self.launches, input_ids.device()) {
            let overlapped = kernels::launches_overlap();
            let mut recorded = CudaGraph::record(gpu, one_by_one);
            // Drivers record launches in turn for longer than such as overlap. One that refused a launch has ended this recording,
            // and the overlap, already.
            if recorded.is_err() && overlapped {
                kernels::launch_in_turn();
                recorded = CudaGraph::record(gpu, one_by_one);
            }
            self.launches = match recorded {
                Ok((graph, logits)) => Launches::Recorded(graph, logits),
                Err(problem) => Launches::Refused(problem.to_string()),
            };
        }
        match &self.launches {
            Launches::Recorded(graph, logits) => {
                graph.replay()?;
                // The next launch writes into the same memory.
                let mut own = logits.f_empty_like()?;
                own.f_copy_(logits)?;
                Ok(own)
            }
            Launches::Unloaded => {
                let logits = one_by_one()?;
                self.launches = Launches::Loaded;
                Ok(logits)
            }
            Launches::Loaded | Launches::Refused(_) => one_by_one(),
        }
    }
}

/// Whether a token is launched on `device` by kernels of ours; on a CPU for a count or a proof of what a GPU does.
pub(super) fn is_launched_on(device: Device) -> bool {
    match device {
        Device::Cuda(_) => kernels::compute_on(device),
        _ => Path::current() == Path::DeviceKernels,
    }
}
