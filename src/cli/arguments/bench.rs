//! Arguments of `bench`.

use super::{ConfigArguments, DtypeArgument, MomentsArgument, ThreadsArgument, examples};
use clap::{Args, Subcommand, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// `bench`
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Training steps: tokens per second, time by phase, model FLOPs utilisation (MFU) and peak memory.
    ///
    /// Runs steps of a run's configuration (--config), or of a named shape with random weights on generated text. Nothing
    /// is kept. Warm-up steps are not counted; the device is synchronised after every phase.
    ///
    /// A named shape takes every step on the same rows, its learning rate warms up to 1e-4 over ten steps, and the last line says
    /// whether the loss fell: if not, gradients or updates are wrong. A configuration keeps its own schedule and draws
    /// other rows at every step, whose losses may rise.
    #[command(after_long_help = examples::BENCH_STEP)]
    Step(BenchStep),
    /// Inference latency at batch size 1: prefill, then decoding with a key/value cache; several models side by side.
    ///
    /// The models are measured in turn, round by round, so that a busy moment of the machine affects all of them. The
    /// roofline is what the memory bandwidth allows: decoding one token reads every weight once. The bandwidth is
    /// measured in the same rounds on the same threads. Memory is that of each model alone (weights, cache and
    /// activations), without what loading takes for a moment.
    #[command(after_long_help = examples::BENCH_LATENCY)]
    Latency(BenchLatency),
    /// Decoding with experts that are skipped (LTE): the feed-forward of a shape at several densities beside the dense one,
    /// or whole models (--whole).
    ///
    /// Weights, routers and inputs are random; which experts run is drawn anew by every layer and step. The weights are far
    /// larger than the caches, in huge pages on both sides. Dense and sparse take turns, and each is held against the
    /// time that reading its bytes takes. One thread is timed by its own CPU time, several and a GPU by the clock.
    Experts(BenchExperts),
    /// How many kernels a training step, or a token that is decoded, launches on a GPU, with kernels of ours and without;
    /// counted on the CPU.
    ///
    /// A narrow model with as many layers takes a step twice: composed of libtorch's operators, as on a GPU without kernels
    /// of ours, and with these, emulated. The numbers do not depend on the widths. What a GPU launches for a matrix product
    /// or attention is counted as one.
    Launches(BenchLaunches),
    /// Check the fast kernels of a device against plain operators in fp64 on the CPU; exit code 1 on a difference.
    ///
    /// Also compares three pruning steps, and decoding with a cache, with the same on the CPU.
    Check(BenchCheck),
}

/// `bench step`
#[derive(Debug, Args)]
pub struct BenchStep {
    /// The configuration of a run (TOML), instead of a named shape.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Shape: tiny, small, base, 1.3b, 2.7b or 7b.
    #[arg(long, value_name = "NAME", default_value = "tiny", conflicts_with = "config")]
    pub shape: String,
    /// Whether masks are trained as well, towards three quarters of every dimension.
    #[arg(long, value_name = "on|off", default_value = "on", conflicts_with = "config")]
    pub masks: Switch,
    /// dtype of forward and backward.
    #[arg(long, default_value = "bf16", conflicts_with = "config")]
    pub dtype: DtypeArgument,
    /// Rows per step [default: the shape's].
    #[arg(long, value_name = "N", conflicts_with = "config")]
    pub rows: Option<NonZeroUsize>,
    /// Rows per forward pass [default: all rows of a step].
    #[arg(long, value_name = "N", conflicts_with = "config")]
    pub micro_rows: Option<NonZeroUsize>,
    /// Tokens per row [default: the shape's].
    #[arg(long, value_name = "N", conflicts_with = "config")]
    pub tokens: Option<NonZeroUsize>,
    /// Recompute every n-th block in the backward; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "config")]
    pub activation_checkpointing: usize,
    /// Make outputs of norms and SwiGLU again in the backward.
    #[arg(long, conflicts_with = "config")]
    pub selective_recomputation: bool,
    /// Dtype of AdamW's moments.
    #[arg(long, value_name = "DTYPE", default_value = "fp32", conflicts_with = "config")]
    pub moments: MomentsArgument,
    /// Keep AdamW's moments in host memory.
    #[arg(long, conflicts_with = "config")]
    pub moments_on_host: bool,
    /// Steps to time.
    #[arg(long, value_name = "N", default_value = "5")]
    pub steps: NonZeroUsize,
    /// Warm-up steps, which are not counted.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub warmup: usize,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// Dense peak of the device in TFLOP/s [default: on CUDA that of an H100 or H200 (989 in bf16, 67 in fp32), on a
    /// CPU what a large matrix product reaches].
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub peak_tflops: Option<f64>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `bench latency`
#[derive(Debug, Args)]
pub struct BenchLatency {
    /// Hugging Face folders, or run folders, whose model/ or pruned/ is then used. Ratios are to the first.
    #[arg(required_unless_present = "shape")]
    pub models: Vec<PathBuf>,
    /// Also measure a named shape with random weights: tiny, small, base, 1.3b, 2.7b or 7b. NAME:target is what `bench
    /// step` prunes it to, three quarters of every dimension. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub shape: Vec<String>,
    /// Tokens of the prompt [default: 512, or half of the shortest context].
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<NonZeroUsize>,
    /// Tokens to decode [default: 64, or what the shortest context then has room for].
    #[arg(long, value_name = "N")]
    pub new_tokens: Option<NonZeroUsize>,
    /// Rounds to measure, after one warm-up round.
    #[arg(long, value_name = "N", default_value = "5")]
    pub rounds: NonZeroUsize,
    /// dtype of weights and computation, the same for all models [default: bf16 where the device has instructions for it, else fp32].
    #[arg(long)]
    pub dtype: Option<DtypeArgument>,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// Also write the JSON object to this file; `shearling report --latency` shows it. Missing folders are created.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `bench experts`
#[derive(Debug, Args)]
pub struct BenchExperts {
    /// Shape: tiny, small, base, 1.3b, 2.7b or 7b.
    #[arg(long, value_name = "NAME", default_value = "7b")]
    pub shape: String,
    /// Shares of the experts that run.
    #[arg(long, value_name = "SHARES", value_delimiter = ',', default_value = "1,0.5,0.3,0.2,0.1", value_parser = share)]
    pub density: Vec<f64>,
    /// Decode with whole models of the shape, first the dense one, then, in its place, the sparse one.
    #[arg(long)]
    pub whole: bool,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Rounds over the layers, or with --whole tokens at each density.
    #[arg(long, value_name = "N", default_value = "8")]
    pub rounds: NonZeroUsize,
    /// dtype of weights and computation.
    #[arg(long, default_value = "bf16")]
    pub dtype: DtypeArgument,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_string())
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

/// `bench launches`
#[derive(Debug, Args)]
pub struct BenchLaunches {
    /// Layers of the model.
    #[arg(long, value_name = "N", default_value = "24")]
    pub layers: NonZeroUsize,
    /// Count what a token launches that is decoded with a key/value cache, instead of a step.
    #[arg(long, conflicts_with_all = ["masks", "activation_checkpointing"])]
    pub decode: bool,
    /// Whether masks are trained as well.
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub masks: Switch,
    /// dtype of forward and backward.
    #[arg(long, default_value = "bf16")]
    pub dtype: DtypeArgument,
    /// Recompute every n-th block in the backward; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub activation_checkpointing: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}
