//! libtorch's own layer between processes, c10d, which tch does not bind: the store in which processes find each other, and
//! the groups that do collectives (Gloo on CPUs, NCCL on GPUs). What a run does with it is in `dist`.

mod arguments;
mod process_group;
mod store;

pub use process_group::{Pending, ProcessGroup, Reduction};
pub use store::Store;
