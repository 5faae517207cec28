//! Arguments of `watch` and `tensorboard`.

use clap::Args;
use std::path::PathBuf;

/// `watch`
#[derive(Debug, Args)]
pub struct Watch {
    /// The run folder.
    pub run: PathBuf,
    /// Print where the run stands now, and exit.
    #[arg(long)]
    pub once: bool,
    /// Refresh interval in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval, allow_negative_numbers = true)]
    pub interval: f64,
    /// One JSON object instead of text; needs --once.
    #[arg(long, requires = "once")]
    pub json: bool,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "give seconds from 0.1 to 86400".to_string())
}

/// `tensorboard`
#[derive(Debug, Args)]
pub struct Tensorboard {
    /// The run folder.
    pub run: PathBuf,
    /// Folder to write; must not exist [default: RUN/tensorboard].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// One JSON object instead of the path.
    #[arg(long)]
    pub json: bool,
}
