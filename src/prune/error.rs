//! What can go wrong between a mask file and a pruned folder.

use super::equivalence::Equivalence;
use std::path::PathBuf;

/// Why a pruned model was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the source or writing the result.
    #[error(transparent)]
    Checkpoint(#[from] crate::files::Error),
    /// Masks that do not fit, or a target that cannot be reached.
    #[error(transparent)]
    Masks(#[from] shearling_masks::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
    /// The source lacks weights its own config asks for, or has others.
    #[error("the checkpoint {path} does not match its config.json:\n{report}")]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// Missing, mis-shaped and unused weights.
        report: String,
    },
    /// Masked and pruned model differ: nothing is published.
    #[error("{0}")]
    NotEqual(Box<Equivalence>),
}
