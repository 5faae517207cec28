//! Arguments of `inspect`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `inspect`
#[derive(Debug, Subcommand)]
pub enum Inspect {
    /// Shape and parameters of a Hugging Face folder.
    Model(InspectPath),
    /// Survivors per layer of a mask file, or of a run's last step (RUN or RUN@STEP).
    Masks(InspectTarget),
    /// Summary of a run folder.
    Run(InspectPath),
}

/// `inspect model`, `inspect run`
#[derive(Debug, Args)]
pub struct InspectPath {
    /// The folder.
    pub path: PathBuf,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// `inspect masks`
#[derive(Debug, Args)]
pub struct InspectTarget {
    /// A mask file, a run folder or RUN@STEP.
    pub target: String,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}
