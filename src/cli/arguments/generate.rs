//! Arguments of `generate`.

use super::{DtypeArgument, ThreadsArgument};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// `generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// Hugging Face folder with a tokenizer.json, or a run folder, whose model/ or pruned/ is then taken.
    pub model: PathBuf,
    /// The text to go on from. Without it: standard input as one prompt; on a terminal each line is a prompt of its own.
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    pub prompt: Option<String>,
    /// A file with the text to go on from.
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Most tokens after the prompt; default max_new_tokens of generation_config.json, else 256.
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<NonZeroUsize>,
    /// 0 takes the most likely token each time; 1 draws tokens by the model's probabilities, less sharpens them, more
    /// evens them out. Default 0, or what generation_config.json says.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Draw only from the most likely tokens that together have this probability. Needs a temperature above 0.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Draw only from the K most likely tokens; 0: all. Needs a temperature above 0.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Seed of the draws: the same seed gives the same text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// End the text before this string. May be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Kind of the weights in memory; default that of the folder (fp32 for fp16 on a CPU).
    #[arg(long)]
    pub dtype: Option<DtypeArgument>,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object when the text is finished, instead of the text as it comes.
    #[arg(long)]
    pub json: bool,
}
