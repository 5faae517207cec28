//! Learn To be Efficient (arXiv 2402.06126): intermediate units grouped into experts, a router per layer that says which of
//! them run for a token, and a folder that keeps both beside the model.
//!
//! ```text
//! HF folder ─► grouping (balanced k-means of gate rows) ─► permute: the same function, units of an expert side by side
//!           ─► warm_start ─► routers trained with the weights (train) ─► HF folder + lte.safetensors (file) ─► pack ─► decoding
//!                                                       meter, evaluate: which experts run
//! ```

mod division;
mod error;
pub mod evaluate;
pub mod experts;
pub mod file;
pub mod folder;
pub mod grouping;
pub mod install;
pub mod meter;
pub mod pack;
pub mod permute;
pub mod warm_start;

pub use error::Error;
pub use experts::{Experts, Grouping, LayerExperts, Stage};
