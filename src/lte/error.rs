//! What can go wrong with grouping and with LTE folders.

use std::path::PathBuf;

/// Why there are no experts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the source or an LTE folder, or writing one.
    #[error(transparent)]
    Files(#[from] crate::files::Error),
    /// A source that is not whole, or running the calibration rows through it.
    #[error(transparent)]
    Prune(#[from] crate::prune::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
    /// A source whose units are grouped already.
    #[error(
        "`{}` is grouped already (it has lte.safetensors): use the model that it was made from, or continue \
         training it with shearling lte train", folder.display()
    )]
    AlreadyGrouped {
        /// The folder.
        folder: PathBuf,
    },
    /// Experts that cannot be.
    #[error("experts of {expert_size} units cannot be made of layers of {units}: take a size from 1 to {units}")]
    ExpertSize {
        /// Units asked for.
        expert_size: i64,
        /// Units of a layer.
        units: i64,
    },
    /// Co-activation without data.
    #[error("grouping by co-activation is measured on rows of prepared data, and there are none: give --data")]
    NeedsRows,
    /// Experts of another model.
    #[error("the experts do not belong to this model: {problem}")]
    Mismatch {
        /// What differs.
        problem: String,
    },
}
