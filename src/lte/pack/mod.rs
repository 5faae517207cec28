//! The inference layout of a model with routers: the weights of an expert in one contiguous piece, in a file of their own
//! that is mapped and computed with in place.
//!
//! ```text
//! FOLDER/config.json, tokenizer …       as they were
//! FOLDER/model.safetensors              every weight but gate, up and down matrices of layers with a router
//! FOLDER/experts.safetensors            layers.{l}.experts [N, 3m, D]: of each expert gate rows, up rows, rows of downᵀ
//!                                       layers.{l}.router.weight [N, D], layers.{l}.router.bias [N]
//! ```
//!
//! docs/formats/lte-pack.md has all of it.

mod error;
mod header;
mod open;
mod write;

pub use error::PackError;
pub use header::EXPERTS_FILE;
pub use open::{Pack, is_packed};
pub use write::{Packed, write};
