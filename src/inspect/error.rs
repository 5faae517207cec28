//! Why there is nothing to look at. What is merely damaged or missing is no error here but a note of the history.

use std::path::PathBuf;

/// Something that cannot be inspected at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder that no run wrote, or no folder.
    #[error(
        "{path}: {problem}. Expected the folder of a run, as `shearling prune` or `pretrain` writes it (metrics.jsonl, \
         resolved.toml, checkpoints/, masks/)"
    )]
    NotARun {
        /// What was given.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// A run that has no masks, or none of the wanted step.
    #[error("{path}: {problem}")]
    NoMasks {
        /// The run.
        path: PathBuf,
        /// What was looked for, what is there, what to do.
        problem: String,
    },
    /// Two masks that cannot be compared.
    #[error("these masks cannot be compared: {0}")]
    NotComparable(String),
    /// Shapes that no decoder has: the lists to draw would not fit into memory.
    #[error(
        "these masks describe a model of {layers} layers with {units} heads and MLP units each, too many to show; \
         expected the shapes of a decoder"
    )]
    TooLarge {
        /// Layers of the source.
        layers: i64,
        /// Heads and MLP units of a layer.
        units: i64,
    },
    /// A mask file.
    #[error(transparent)]
    Masks(#[from] shearling_masks::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
}
