//! What the machine and libtorch have and tch does not bind: devices, memory, and the C++ shim in `cpp/`.
//!
//! Every function of the shim has a reference of plain tch operators beside it that says what it computes, and a test
//! that compares the two. The reference is also what runs where there is no kernel.

pub mod adamw;
pub mod allocator;
pub mod attention;
pub mod autograd;
pub mod bandwidth;
pub mod cached_attention;
pub mod cards;
pub mod cross_entropy;
pub mod cuda;
pub mod device;
mod dispatch;
pub mod embedding;
pub mod gradient;
pub mod gradient_norm;
pub mod memory;
pub mod precision;
pub mod projection;
pub mod recompute;
pub mod rms_norm;
pub mod rope;
mod shim;
pub mod swiglu;
#[cfg(test)]
mod test_support;
pub mod threads;
pub mod waiting;
