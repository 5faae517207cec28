//! What the machine has to say: the CUDA half of libtorch when it is there, devices, memory.

pub mod cuda;
pub mod device;
pub mod memory;
