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
    /// Configuration and overrides.
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
    /// Sequence length in tokens to assume while there is no prepared data [default: 4096, or max_position_embeddings if lower].
    #[arg(long, value_name = "TOKENS")]
    pub sequence_length: Option<NonZeroU32>,
    /// Plan for this GPU, whatever is here: rtx4090, rtx5090, a100-40, l40s, h100, a100-80, h200 or b200.
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// Training throughput to estimate the time with, in tokens per second [default: measured on this machine].
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, conflicts_with = "need")]
    pub tokens_per_second: Option<f64>,
    /// Or the achieved training throughput (not the peak) of the device, in TFLOP/s.
    #[arg(
        long,
        value_name = "TFLOPS",
        conflicts_with_all = ["tokens_per_second", "need"],
        allow_negative_numbers = true
    )]
    pub tflops: Option<f64>,
    /// Machines that do the run together; see docs/guides/many-gpus.md.
    #[arg(long, value_name = "N", conflicts_with = "need")]
    pub nodes: Option<NonZeroUsize>,
    /// GPUs of each machine.
    #[arg(long, value_name = "M", conflicts_with = "need")]
    pub gpus: Option<NonZeroUsize>,
    /// Bandwidth between the GPUs of a machine, one way, to estimate the time on several: 450GB/s.
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "gpus")]
    pub link: Option<f64>,
    /// Bandwidth between machines, one way: 50GB/s. It decides where there are several.
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "nodes")]
    pub network: Option<f64>,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// What a small model is needed for; one of them.
#[derive(Debug, Args)]
#[group(id = "need", multiple = false)]
pub struct NeedArguments {
    /// List shapes of about this many parameters, embedding and head included: 0.5B, 350M or 350000000.
    #[arg(long, value_name = "COUNT", value_parser = count, help_heading = "Shapes for a target size, memory or latency")]
    pub target_params: Option<u64>,
    /// List the largest shapes whose weights and key/value cache fit in this much memory: 4GiB, 512MiB, 3.5GB.
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = "Shapes for a target size, memory or latency")]
    pub target_memory: Option<f64>,
    /// List the largest shapes whose decoding takes at most this long per token, by memory bandwidth: 20ms, 0.5s.
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Shapes for a target size, memory or latency")]
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
    /// Context length when serving, prompt and answer [default: 4096, or max_position_embeddings if lower].
    #[arg(
        long,
        value_name = "TOKENS",
        requires = "need",
        help_heading = "Shapes for a target size, memory or latency"
    )]
    pub context: Option<NonZeroU32>,
    /// Batch size when serving [default: 1].
    #[arg(long, value_name = "ROWS", requires = "need", help_heading = "Shapes for a target size, memory or latency")]
    pub batch: Option<NonZeroU32>,
    /// dtype of weights and cache when serving [default: what config.json says, else bf16].
    #[arg(long, requires = "need", help_heading = "Shapes for a target size, memory or latency")]
    pub dtype: Option<DtypeArgument>,
    /// Memory bandwidth of the serving device: 3.35TB/s, 45GB/s [default: the --card's, else measured on this machine].
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "need", help_heading = "Shapes for a target size, memory or latency")]
    pub bandwidth: Option<f64>,
    /// Try the first ROWS shapes: cut each at once, train it on --rank-tokens with the source as teacher, and order them by
    /// held-out loss. Takes the model's weights and --data.
    #[arg(long, value_name = "ROWS", requires_all = ["need", "data"], help_heading = "Shapes for a target size, memory or latency")]
    pub rank: Option<NonZeroUsize>,
    /// Folder written by `data prepare`, for --rank.
    #[arg(long, value_name = "DIR", requires = "rank", help_heading = "Shapes for a target size, memory or latency")]
    pub data: Option<PathBuf>,
    /// Tokens that each shape is trained on, for --rank.
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = count,
        default_value = "200k",
        help_heading = "Shapes for a target size, memory or latency"
    )]
    pub rank_tokens: u64,
    /// Print the [target] table of this row of the list instead of the first, or of the best that was tried.
    #[arg(long, value_name = "ROW", requires = "need", help_heading = "Shapes for a target size, memory or latency")]
    pub pick: Option<NonZeroUsize>,
}
