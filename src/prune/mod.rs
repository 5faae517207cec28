//! The only place where model, masks and checkpoints meet: which shape follows from a target, fold and slice, the
//! proof that the pruned model is the masked one, and the one-shot baseline.
//!
//! ```text
//! source config + [target] ─► shape ─► MaskSpec ─► (training)
//! source weights + gates + keep-plan ─► fold (one weight at a time) ─► convert (staged folder)
//!                                                                    └► equivalence (layer by layer) ─► published
//! ```

pub mod convert;
pub mod equivalence;
mod error;
pub mod fold;
pub mod magnitude;
pub mod shape;

pub use convert::{Conversion, convert};
pub use equivalence::{Equivalence, LayerDifference};
pub use error::Error;
