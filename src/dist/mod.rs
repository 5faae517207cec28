//! A run of several processes: which of them this one is, how they find each other, what they tell each other.
//!
//! ```text
//! environment (torchrun, Slurm, Open MPI, plain variables) ─► Place ─► join: store, then group ─► World
//!   World: all_reduce, broadcast, all_gather, reduce_scatter, barrier on tensors; told, same, raised among programs
//! ```
//!
//! A process is called by its rank, 0 to size − 1. A world of one makes no call and no copy: every function of it returns
//! what it was given. The engine is libtorch's c10d (`native::c10d`): Gloo between CPUs, NCCL between GPUs.
//!
//! When a rank fails, the others find out in their next collective, or, where that goes on, from a note in the store that
//! whoever finds out first leaves there. Before they end they wait a moment for the notes of the others: so that the message
//! names the rank that is gone, and its reason if it left one (`notes`); a thread answers for those that are busy
//! (`lookout`).

mod board;
mod error;
mod error_file;
mod host_list;
mod join;
mod lookout;
mod mesh;
mod notes;
mod place;
mod talk;
mod traffic;
mod world;

pub use crate::native::c10d::Reduction;
pub use error::Error;
pub use error_file::write_error_file;
pub use join::join;
pub use mesh::Mesh;
pub use place::{Launcher, Place};
pub use traffic::{pass_bytes, ring_bytes};
pub use world::{Started, World};
