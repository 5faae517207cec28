//! Arguments of `bench`.

use super::{ConfigArguments, DtypeArgument, ThreadsArgument};
use clap::{Args, Subcommand, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// `bench`
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Tokens per second, time by phase, model FLOPs utilisation and peak memory of training steps.
    ///
    /// Takes steps of a run's configuration (--config), or of a shape by name on generated text with random weights.
    /// Nothing is kept. The first steps are not counted; the device is waited for after every phase.
    Step(BenchStep),
    /// How fast models answer: reading a prompt, then one token after the other with a key/value cache, one text at a
    /// time; several models side by side, the source first.
    ///
    /// The models are measured in turn, round by round, so that a busy moment of the machine hits all of them. Beside the
    /// tokens per second stands the roofline: a step reads every weight once, so no step is faster than the memory, whose
    /// bandwidth is measured in the same rounds on the same threads. Memory is that of each model alone: weights, cache
    /// and what a forward needs, not what loading needs for a moment.
    Latency(BenchLatency),
    /// Compare the fast operations on a device with plain ones in fp64 on the CPU, and three steps of pruning and
    /// decoding with a cache with the CPU's; exit code 1 on a difference.
    Check(BenchCheck),
}

/// `bench step`
#[derive(Debug, Args)]
pub struct BenchStep {
    /// The configuration of a run (TOML); instead of a shape by name.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Shape: tiny, small, base, 1.3b, 2.7b or 7b.
    #[arg(long, value_name = "NAME", default_value = "tiny", conflicts_with = "config")]
    pub shape: String,
    /// Whether masks are trained too, towards three quarters of every dimension.
    #[arg(long, value_name = "on|off", default_value = "on", conflicts_with = "config")]
    pub masks: Switch,
    /// Kind of forward and backward.
    #[arg(long, default_value = "bf16", conflicts_with = "config")]
    pub dtype: DtypeArgument,
    /// Rows per step; default that of the shape.
    #[arg(long, conflicts_with = "config")]
    pub rows: Option<NonZeroUsize>,
    /// Rows per forward; default all rows of a step.
    #[arg(long, conflicts_with = "config")]
    pub micro_rows: Option<NonZeroUsize>,
    /// Tokens per row; default that of the shape.
    #[arg(long, conflicts_with = "config")]
    pub tokens: Option<NonZeroUsize>,
    /// Recompute every n-th block in the backward; 0: none.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "config")]
    pub activation_checkpointing: usize,
    /// Keep AdamW's moments in bf16.
    #[arg(long, conflicts_with = "config")]
    pub moments_bf16: bool,
    /// Keep AdamW's moments in the host's memory.
    #[arg(long, conflicts_with = "config")]
    pub moments_on_host: bool,
    /// Steps to time.
    #[arg(long, default_value = "5")]
    pub steps: NonZeroUsize,
    /// Steps before them that are not counted.
    #[arg(long, default_value_t = 2)]
    pub warmup: usize,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// Dense peak of the device in TFLOP/s; default on CUDA that of an H100 or H200 (989 in bf16, 67 in fp32), on a
    /// CPU what a large matrix product reaches.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub peak_tflops: Option<f64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `bench latency`
#[derive(Debug, Args)]
pub struct BenchLatency {
    /// Hugging Face folders, or run folders, whose model/ or pruned/ is then taken; ratios are to the first.
    #[arg(required_unless_present = "shape")]
    pub models: Vec<PathBuf>,
    /// Random weights of a shape by name, after the folders: tiny, small, base, 1.3b, 2.7b or 7b; NAME:target is what
    /// `bench step` prunes it to, three quarters of every dimension. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub shape: Vec<String>,
    /// Tokens of the prompt; default 512, or half of what the smallest model takes.
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<NonZeroUsize>,
    /// Tokens after it; default 64, or what the smallest model then has room for.
    #[arg(long, value_name = "N")]
    pub new_tokens: Option<NonZeroUsize>,
    /// Rounds that count; one before them does not.
    #[arg(long, value_name = "N", default_value = "5")]
    pub rounds: NonZeroUsize,
    /// Kind of weights and computation, the same for all models.
    #[arg(long, default_value = "bf16")]
    pub dtype: DtypeArgument,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// Write the JSON object to this file too, in folders that are made if need be; `shearling report --latency` shows it.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// `bench check`
#[derive(Debug, Args)]
pub struct BenchCheck {
    /// Device to compare with the CPU: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
