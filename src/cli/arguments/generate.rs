//! Arguments of `generate`.

use super::{DtypeArgument, ThreadsArgument};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// `generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// Hugging Face folder with a tokenizer.json, or a run folder, whose model/ or pruned/ is then used.
    pub model: PathBuf,
    /// Prompt. Without it standard input is the prompt; on a terminal each line is a prompt of its own.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    pub prompt: Option<String>,
    /// Read the prompt from this file.
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Generate at most this many tokens [default: max_new_tokens of generation_config.json, else 256].
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<NonZeroUsize>,
    /// Sampling temperature: 0 is greedy decoding (always the most likely token), 1 samples from the model's
    /// distribution, lower is sharper, higher is flatter [default: that of generation_config.json, else 0].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Nucleus sampling: sample only from the most likely tokens that together have this probability. Needs a temperature
    /// above 0.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Sample only from the K most likely tokens; 0 for all. Needs a temperature above 0.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Seed of the sampling: the same seed gives the same text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Stop before this string. May be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// dtype of weights and computation [default: the folder's; fp32 for fp16 on a CPU].
    #[arg(long)]
    pub dtype: Option<DtypeArgument>,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object when the text is complete, instead of streaming it.
    #[arg(long)]
    pub json: bool,
}
