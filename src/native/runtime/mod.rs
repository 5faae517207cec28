//! The machine that a run is on.

pub mod allocator;
pub mod bandwidth;
pub mod cards;
pub mod contention;
pub mod cuda;
pub mod cuda_graph;
pub mod device;
pub mod mapped_tensor;
pub mod memory;
pub mod operator_count;
pub mod precision;
pub mod storage;
pub mod threads;
pub mod waiting;
