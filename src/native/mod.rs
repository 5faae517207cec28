//! What the machine and libtorch have and tch does not bind, with the C++ side in `cpp/`.
//!
//! ```text
//! runtime   the machine: devices, CUDA library, memory, threads and how they wait, dtypes in hardware
//! c10d      other processes: libtorch's store and its collectives
//! ops       the arithmetic: each operation with its reference of plain tch operators, and the test that compares the two
//! kernels   kernels of our own on a GPU, compiled where they run; their sources are in cu/
//! shim      the border to C++ that all cross
//! ```

pub mod c10d;
pub mod kernels;
pub mod ops;
pub mod runtime;
mod shim;
