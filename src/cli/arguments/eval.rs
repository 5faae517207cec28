//! Arguments of `eval`.

use super::DtypeArgument;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// `eval`
#[derive(Debug, Args)]
pub struct Eval {
    /// Hugging Face folders, compared side by side.
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Folder written by `data prepare`.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Validation rows per domain.
    #[arg(long, default_value = "256")]
    pub rows: NonZeroUsize,
    /// Rows per forward.
    #[arg(long, default_value = "8")]
    pub micro_batch: NonZeroUsize,
    /// Write the losses of the (one) model as reference losses for mixer.reference_file.
    #[arg(long, value_name = "FILE")]
    pub write_reference: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Kind of the computation.
    #[arg(long, default_value = "fp32")]
    pub dtype: DtypeArgument,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
