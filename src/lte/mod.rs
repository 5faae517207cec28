//! Learn To be Efficient (arXiv 2402.06126): intermediate units grouped into experts, a router per layer that says which of
//! them run for a token, and a folder that keeps both beside the model.
//!
//! ```text
//! HF folder ─► grouping (balanced k-means of gate rows) ─► the same function, units of an expert side by side
//!           ─► routers trained with the weights (train) ─► HF folder + lte.safetensors ─► pack ─► decoding
//! ```

pub mod experts;
pub mod pack;

pub use experts::{Experts, Grouping, LayerExperts, Stage};
