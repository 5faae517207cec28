//! CUDA graphs (`cpp/cuda_graph.cpp`): what the GPU is given to do, recorded once and launched again as one. Decoding uses it:
//! one token is hundreds of launches, each of which costs the host more than the GPU.

use crate::native::shim::{self, CError};
use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};
use tch::TchError;

unsafe extern "C" {
    fn shearling_cuda_graph_begin(device: i64, out: *mut *mut c_void, error: CError) -> c_int;
    fn shearling_cuda_graph_end(graph: *mut c_void, error: CError) -> c_int;
    fn shearling_cuda_graph_replay(graph: *mut c_void, error: CError) -> c_int;
    fn shearling_cuda_graph_free(graph: *mut c_void);
}

/// What was recorded. Its tensors lie where they lay then: inputs have to be written there before it is launched, and outputs
/// change with every launch.
#[derive(Debug)]
pub struct CudaGraph(NonNull<c_void>);

impl CudaGraph {
    /// Records what `work` gives the GPU of that number; nothing of it runs yet. All of it has to have run once before (what is
    /// loaded at first use cannot be recorded), and none of it may wait for the GPU.
    ///
    /// # Errors
    /// Those of `work`; something in it that cannot be recorded; a libtorch without CUDA.
    pub fn record<R, E: From<TchError>>(gpu: usize, work: impl FnOnce() -> Result<R, E>) -> Result<(CudaGraph, R), E> {
        let mut raw = null_mut();
        // SAFETY: the result goes to a place of ours.
        shim::check(|error| unsafe { shearling_cuda_graph_begin(gpu as i64, &mut raw, error) })?;
        let graph = CudaGraph(NonNull::new(raw).ok_or_else(|| TchError::Torch("no graph was made".to_string()))?);
        // Whatever happens from here on, dropping the graph ends the recording.
        let result = work()?;
        // SAFETY: the graph made above.
        shim::check(|error| unsafe { shearling_cuda_graph_end(graph.0.as_ptr(), error) })?;
        Ok((graph, result))
    }

    /// Launches it behind what the GPU has to do.
    ///
    /// # Errors
    /// A launch that fails.
    pub fn replay(&self) -> Result<(), TchError> {
        // SAFETY: a graph that was made and not freed.
        shim::check(|error| unsafe { shearling_cuda_graph_replay(self.0.as_ptr(), error) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: made once, freed once.
        unsafe { shearling_cuda_graph_free(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_cuda_nothing_is_recorded() {
        if tch::Cuda::is_available() {
            return;
        }
        let found = CudaGraph::record(0, || Err::<(), _>(TchError::Torch("not reached".to_string())));
        let problem = found.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(problem.contains("cuda"), "{problem}");
    }
}
