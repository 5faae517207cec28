//! What the machine and libtorch have and tch does not bind: devices, memory, and the C++ shim in `cpp/`.
//!
//! Every function of the shim has a reference of plain tch operators beside it that says what it computes, and a test
//! that compares the two. The reference is also what runs where there is no kernel.

pub mod autograd;
pub mod checkpoint;
pub mod cross_entropy;
pub mod cuda;
pub mod device;
pub mod gradient;
pub mod memory;
pub mod projection;
mod shim;
#[cfg(test)]
mod test_support;
