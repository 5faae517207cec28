//! What can go wrong on the way to a model folder.

use std::path::PathBuf;

/// Why no folder was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the step or the source, or writing the folder.
    #[error(transparent)]
    Files(#[from] crate::files::Error),
    /// Cutting, or comparing what was cut.
    #[error(transparent)]
    Prune(#[from] crate::prune::Error),
    /// The records of the run.
    #[error(transparent)]
    Train(#[from] crate::train::Error),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// The masks.
    #[error(transparent)]
    Masks(#[from] shearling_masks::Error),
    /// The rows that masked and pruned model are compared on.
    #[error(transparent)]
    Data(#[from] shearling_domains::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
    /// No step to export.
    #[error("{} has {reasons}", run.display())]
    NoStep {
        /// The run.
        run: PathBuf,
        /// That there is no checkpoint, or why each was passed over, a line each.
        reasons: String,
    },
    /// A cut at once of nothing.
    #[error("the one-shot cut needs {0}")]
    Needs(&'static str),
}
