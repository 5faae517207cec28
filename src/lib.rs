//! Shearling.

pub mod checkpoint;
