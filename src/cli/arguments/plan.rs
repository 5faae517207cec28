//! Arguments of `plan`.

use super::quantities::{count, rate, size, time};
use super::{ConfigArguments, DtypeArgument};
use clap::Args;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// The model to find shapes for, with --target-params, --target-memory or --target-latency: a Hugging Face folder, or its
    /// config.json alone. Or give --config, whose model.source it is then.
    pub model: Option<PathBuf>,
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// What a small model is needed for.
    #[command(flatten)]
    pub need: NeedArguments,
    /// How the small model will answer.
    #[command(flatten)]
    pub serving: ServingArguments,
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
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, conflicts_with = "need")]
    pub tokens_per_second: Option<f64>,
    /// Or the useful rate of the device in TFLOP/s.
    #[arg(
        long,
        value_name = "TFLOPS",
        conflicts_with_all = ["tokens_per_second", "need"],
        allow_negative_numbers = true
    )]
    pub tflops: Option<f64>,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// What a small model is needed for; one of them.
#[derive(Debug, Args)]
#[group(id = "need", multiple = false)]
pub struct NeedArguments {
    /// List shapes of about so many parameters, all of them: 0.5B, 350M or 350000000.
    #[arg(long, value_name = "COUNT", value_parser = count, help_heading = "Shapes for a need")]
    pub target_params: Option<u64>,
    /// List the largest shapes whose weights and cache go into so much memory: 4GiB, 512MiB, 3.5GB.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Shapes for a need")]
    pub target_memory: Option<f64>,
    /// List the largest shapes that take so long for a token at most, by what they read: 20ms, 0.5s.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Shapes for a need")]
    pub target_latency: Option<f64>,
}

impl NeedArguments {
    /// Whether one is given.
    pub fn is_given(&self) -> bool {
        self.target_params.is_some() || self.target_memory.is_some() || self.target_latency.is_some()
    }
}

/// How the small model will answer, where shapes are asked for.
#[derive(Debug, Args)]
pub struct ServingArguments {
    /// Tokens of a row, prompt and answer; default 4096, or fewer if the model takes fewer.
    #[arg(long, value_name = "TOKENS", requires = "need", help_heading = "Shapes for a need")]
    pub context: Option<NonZeroU32>,
    /// Rows that are answered at a time [default: 1].
    #[arg(long, value_name = "ROWS", requires = "need", help_heading = "Shapes for a need")]
    pub batch: Option<NonZeroU32>,
    /// dtype of its weights and cache [default: what config.json says, else bf16].
    #[arg(long, requires = "need", help_heading = "Shapes for a need")]
    pub dtype: Option<DtypeArgument>,
    /// How fast its memory is read: 3.35TB/s, 45GB/s [default: the --card's, else measured here].
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "need", help_heading = "Shapes for a need")]
    pub bandwidth: Option<f64>,
    /// Print the [target] table of this row instead of the first.
    #[arg(long, value_name = "ROW", requires = "need", help_heading = "Shapes for a need")]
    pub pick: Option<NonZeroUsize>,
}
