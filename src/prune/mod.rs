//! The only place where model, masks and checkpoints meet: which shape follows from a target, fold and slice, the
//! proof that the pruned model is the masked one, and one-shot scores of units.
//!
//! ```text
//! source config + [target] ─► shape ─► MaskSpec ─► (training)
//! source weights (+ calibration rows) ─► scores ─► keep-plan, gates
//! source weights + gates + keep-plan ─► fold (one pass over each weight) ─► convert (staged folder)
//!                                                                       └► equivalence (layer by layer) ─► published
//! ```

mod blocks;
mod conversion;
pub mod convert;
mod element;
pub mod equivalence;
mod error;
mod exact_fold;
pub mod fold;
mod fold_plan;
#[cfg(test)]
mod fold_reference;
mod gather;
pub mod principal;
mod read_ahead;
pub mod scores;
pub mod shape;
mod transfer;

pub use conversion::Conversion;
pub use convert::{Converted, convert, write_model};
pub use equivalence::{CheckRows, Equivalence, Fault};
pub use error::Error;
pub use transfer::Transfer;
