//! Arguments of `init`.

use super::quantities::{TypedCount, count, typed_count};
use clap::{Args, ValueEnum};
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Masks to learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Masks {
    /// Exactly as many open units as the schedule says, none half-alive; for short runs too.
    TopK,
    /// Gates that are trained themselves, without noise, and above 1 if that helps.
    Deterministic,
    /// The published recipe of Sheared-LLaMA: hard-concrete gates under a Lagrangian, at least 300 steps.
    LlmShearing,
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// The model: a Hugging Face folder, or its config.json alone.
    pub model: PathBuf,
    /// Parameters of the pruned model, embedding and head included: 0.5B, 350M or 350000000.
    #[arg(long, value_name = "COUNT", value_parser = typed_count)]
    pub target_params: Option<TypedCount>,
    /// Hidden size of the pruned model. Sizes given here are fixed; the others are chosen to reach --target-params, or, without
    /// it, stay as in the source.
    #[arg(long, value_name = "D")]
    pub hidden_size: Option<NonZeroU32>,
    /// Its MLP (intermediate) size.
    #[arg(long, value_name = "F")]
    pub intermediate_size: Option<NonZeroU32>,
    /// Its number of layers.
    #[arg(long, value_name = "L")]
    pub layers: Option<NonZeroU32>,
    /// Its number of query heads.
    #[arg(long, value_name = "H")]
    pub heads: Option<NonZeroU32>,
    /// Its number of key/value heads (GQA groups).
    #[arg(long, value_name = "K")]
    pub kv_heads: Option<NonZeroU32>,
    /// Learn masks while the source trains on, a third of the budget, instead of cutting it at once by its activations
    /// (docs/guides/choosing.md: at all budgets measured so far cutting at once left the better model).
    #[arg(long, value_enum, value_name = "PRESET")]
    pub masks: Option<Masks>,
    /// Folder written by `data prepare` with the model's tokenizer [default: data/NAME; if it is not there yet, the written files
    /// say how to make it].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Other data for the second stage, continued pre-training [default: --data].
    #[arg(long, value_name = "DIR")]
    pub continue_data: Option<PathBuf>,
    /// Sequence length in tokens, while there is no prepared data to take it from [default: 4096 on a GPU, 1024 on a CPU].
    #[arg(long, value_name = "TOKENS")]
    pub sequence_length: Option<NonZeroU32>,
    /// Reference losses of the source, from `eval --write-reference`: domains are then re-weighted by their excess loss over them.
    #[arg(long, value_name = "FILE")]
    pub reference_file: Option<PathBuf>,
    /// Time budget, of both stages together, in hours on this machine or --card [default: 1 on a CPU, 24 on a GPU].
    #[arg(long, value_name = "HOURS", conflicts_with = "tokens", allow_negative_numbers = true)]
    pub hours: Option<f64>,
    /// Token budget of both stages together, instead of --hours: 1B, 20M.
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub tokens: Option<u64>,
    /// Write for this GPU instead of this machine: rtx4090, rtx5090, a100-40, l40s, h100, a100-80, h200 or b200.
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// The configuration for `prune`; that for `pretrain` gets -continue before its ending [default: NAME-to-COUNT.toml, where
    /// COUNT is --target-params as asked, else what the sizes come to].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Overwrite existing files.
    #[arg(long)]
    pub force: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}
