//! What libtorch has and tch does not bind: loading the CUDA half when it is there, and choosing a device.

pub mod cuda;
pub mod device;
