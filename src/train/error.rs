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
    Checkpoint(#[from] crate::files::Error),
    /// Masks.
    #[error(transparent)]
    Masks(#[from] shearling_masks::Error),
    /// Data.
    #[error(transparent)]
    Domains(#[from] shearling_domains::Error),
    /// Fold, slice, check.
    #[error(transparent)]
    Prune(#[from] crate::prune::Error),
    /// Grouping and routers.
    #[error(transparent)]
    Lte(#[from] crate::lte::Error),
    /// The other ranks.
    #[error(transparent)]
    Ranks(#[from] crate::dist::Error),
    /// Data that another rank could not read.
    #[error("rank {rank} could not read its data, and all ranks end together; its own message says why")]
    DataElsewhere {
        /// The rank.
        rank: usize,
    },
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
        "{} in a row had a non-finite loss or gradient (the last is step {step}); none of them reached the weights, but \
         updates before them may have ruined these. {recovery_advice}",
        counted(*skipped, "step")
    )]
    NonFinite {
        /// Steps skipped in a row.
        skipped: u64,
        /// The last of them.
        step: u64,
        /// What can be done.
        recovery_advice: String,
    },
    /// The losses say that training has destroyed the model.
    #[error("the run has diverged at step {step} ({found}), and ends (train.divergence = \"stop\"). {recovery_advice}")]
    Diverged {
        /// The last finished step.
        step: u64,
        /// What was found.
        found: String,
        /// What can be done.
        recovery_advice: String,
    },
    /// Weights or masks hold numbers that are not finite, which no further step can put right.
    #[error(
        "after step {step} the weights hold numbers that are not finite: no checkpoint of them is written. {recovery_advice}"
    )]
    RuinedWeights {
        /// The last finished step.
        step: u64,
        /// What can be done.
        recovery_advice: String,
    },
    /// The observer asked to stop in an evaluation, which then changed nothing that a checkpoint holds.
    #[error("the evaluation was interrupted")]
    Interrupted,
    /// The model gave a loss that is not finite before anything was trained.
    #[error(
        "before any step, {model} has a loss that is not finite on {domains}: that is the model itself, not its \
         training. {remedy}"
    )]
    BrokenStart {
        /// Which model.
        model: String,
        /// On which domains.
        domains: String,
        /// What can be done.
        remedy: String,
    },
}
