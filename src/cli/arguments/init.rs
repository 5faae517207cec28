//! Arguments of `init`.

use super::quantities::count;
use clap::Args;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// The model: a Hugging Face folder, or its config.json alone.
    pub model: PathBuf,
    /// Parameters of the small model, all of them: 0.5B, 350M or 350000000.
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub target_params: Option<u64>,
    /// Its hidden size. Sizes that are given are kept, the others follow from --target-params, or stay without it.
    #[arg(long, value_name = "D")]
    pub hidden_size: Option<NonZeroU32>,
    /// Its MLP width.
    #[arg(long, value_name = "F")]
    pub intermediate_size: Option<NonZeroU32>,
    /// Its layers.
    #[arg(long, value_name = "L")]
    pub layers: Option<NonZeroU32>,
    /// Its query heads.
    #[arg(long, value_name = "H")]
    pub heads: Option<NonZeroU32>,
    /// Its key/value heads.
    #[arg(long, value_name = "K")]
    pub kv_heads: Option<NonZeroU32>,
    /// Data prepared with the model's tokenizer; default data/NAME, which the written files tell how to make.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Other data to continue with; default the same.
    #[arg(long, value_name = "DIR")]
    pub continue_data: Option<PathBuf>,
    /// Tokens per row while there is no data; default 4096 on a GPU, 1024 on a CPU.
    #[arg(long, value_name = "TOKENS")]
    pub sequence_length: Option<NonZeroU32>,
    /// Reference losses of `eval --write-reference`: the mix then follows the excess losses.
    #[arg(long, value_name = "FILE")]
    pub reference_file: Option<PathBuf>,
    /// Time for both stages, on this device; default 1 on a CPU, 24 on a GPU.
    #[arg(long, value_name = "HOURS", conflicts_with = "tokens", allow_negative_numbers = true)]
    pub hours: Option<f64>,
    /// Or tokens for both stages: 1B, 20M.
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub tokens: Option<u64>,
    /// For this GPU instead of this machine: rtx4090, rtx5090, a100-40, l40s, h100, a100-80, h200 or b200.
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// The file of the prune stage; the other one gets -continue before its ending. Default NAME-to-COUNT.toml.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write over files that are there.
    #[arg(long)]
    pub force: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}
