//! Why a run cannot start or go on.

use crate::words::counted;
use std::path::PathBuf;

/// A run that cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// Reading or writing models and run folders.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::Error),
    /// Masks.
    #[error(transparent)]
    Masks(#[from] shearling_masks::Error),
    /// Data.
    #[error(transparent)]
    Domains(#[from] shearling_domains::Error),
    /// Fold, slice, check.
    #[error(transparent)]
    Prune(#[from] crate::prune::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
    /// A file of the run folder.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file of the run folder that does not hold what it should.
    #[error("{path}: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Parts of the run do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// The loss or the gradients stay non-finite.
    #[error(
        "{} in a row had a non-finite loss or gradient (the last is step {step}); none of them reached \
         the weights. Lower train.learning_rate, or check the data; the last checkpoint is kept",
        counted(*skipped, "step")
    )]
    NonFinite {
        /// Steps skipped in a row.
        skipped: u64,
        /// The last of them.
        step: u64,
    },
}
