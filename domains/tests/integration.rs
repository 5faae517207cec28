//! The crate through its public interface, as one test binary.

// The settings in clippy.toml know tests by their attribute, and not the functions that tests share.
#![allow(clippy::panic, clippy::unwrap_used)]

mod common;
mod dataset;
mod inputs;
mod loader;
mod mixer;
mod prepare;
