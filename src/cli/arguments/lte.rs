//! Arguments of `lte`.

use super::{DtypeArgument, Run, ThreadsArgument};
use clap::{Args, Subcommand, ValueEnum};
use std::num::NonZeroU64;
use std::path::PathBuf;

/// `lte`
#[derive(Debug, Subcommand)]
pub enum Lte {
    /// Group the intermediate units of every layer into experts of 32 that are alike; the model computes what it computed.
    ///
    /// Writes a Hugging Face folder with the units of an expert side by side, and lte.safetensors with the grouping.
    /// `lte train` does this itself where its model is not grouped yet.
    Group(LteGroup),
    /// Train routers together with the model (stage 1), then the model alone under the experts that run (stage 2).
    ///
    /// An ordinary run with a table [lte]: the same data, mixer, checkpoints, `--resume` and report as `pretrain`.
    Train(Run),
    /// Loss and density of an LTE folder against the dense model: by domain, with the worst rows named.
    Eval(LteEval),
    /// Write the inference layout: the weights of an expert in one contiguous piece, to be mapped by `generate` and
    /// `bench latency`.
    Pack(LtePack),
}

/// `lte group`
#[derive(Debug, Args)]
pub struct LteGroup {
    /// Hugging Face folder of the model.
    pub model: PathBuf,
    /// Hugging Face folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Units of an expert.
    #[arg(long, value_name = "N", default_value_t = NonZeroU64::new(32).unwrap_or(NonZeroU64::MIN))]
    pub expert_size: NonZeroU64,
    /// How units are grouped.
    #[arg(long, value_enum, default_value_t = GroupingArgument::KMeans)]
    pub method: GroupingArgument,
    /// Prepared data, for co-activation.
    #[arg(long, value_name = "DIR", required_if_eq("method", "co-activation"))]
    pub data: Option<PathBuf>,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
}

/// How units are grouped, on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum GroupingArgument {
    /// Balanced k-means on L2-normalised rows of the gate projection.
    KMeans,
    /// By how often units are active together on --data.
    CoActivation,
    /// At random: an ablation.
    Random,
}

/// `lte eval`
#[derive(Debug, Args)]
pub struct LteEval {
    /// LTE folder, written by `lte train`.
    pub model: PathBuf,
    /// Prepared data.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Dense model to compare with [default: the LTE folder with every expert running].
    #[arg(long, value_name = "DIR")]
    pub dense: Option<PathBuf>,
    /// dtype of the computation; scores are fp32 in each.
    #[arg(long, default_value = "fp32")]
    pub dtype: DtypeArgument,
    /// Held-out rows of each domain.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub rows: usize,
    /// Layers whose routers are switched off: every expert runs there.
    #[arg(long, value_name = "LAYER[,LAYER]", value_delimiter = ',')]
    pub dense_layers: Vec<i64>,
    /// Exit with code 1 if the loss of any domain is more than this above the dense model's, in nats.
    #[arg(long, value_name = "NATS")]
    pub max_degradation: Option<f64>,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// `lte pack`
#[derive(Debug, Args)]
pub struct LtePack {
    /// LTE folder, written by `lte train`.
    pub model: PathBuf,
    /// Folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}
