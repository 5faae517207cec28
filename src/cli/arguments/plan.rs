//! Arguments of `plan`.

use super::ConfigArguments;
use clap::Args;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The configuration that will write model.source, if that is not there yet: its [target] is then the shape. Not needed
    /// if that run has begun, or if the file lies beside this one.
    #[arg(long, value_name = "FILE")]
    pub source_as: Option<PathBuf>,
    /// Tokens per row to assume while there is no data; default 4096, or fewer if the model takes fewer.
    #[arg(long, value_name = "TOKENS")]
    pub sequence_length: Option<NonZeroU32>,
    /// Plan for this GPU, whatever is here: rtx4090, rtx5090, a100-40, l40s, h100, a100-80, h200 or b200.
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// Tokens per second to estimate the time with.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub tokens_per_second: Option<f64>,
    /// Or the useful rate of the device in TFLOP/s.
    #[arg(long, value_name = "TFLOPS", conflicts_with = "tokens_per_second", allow_negative_numbers = true)]
    pub tflops: Option<f64>,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}
