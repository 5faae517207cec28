//! Arguments of `report`.

use clap::Args;
use std::path::PathBuf;

/// `report`
#[derive(Debug, Args)]
pub struct Report {
    /// Run folders. A run that continued the model of another is put behind it; others are laid over one another.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page to write; a file of that name is replaced, missing folders are made.
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["serve", "png", "svg", "json"])]
    pub out: Option<PathBuf>,
    /// Headline; default the names of the runs.
    #[arg(long)]
    pub title: Option<String>,
    /// Also show what `shearling eval … --json` printed into this file.
    #[arg(long, value_name = "FILE")]
    pub eval: Option<PathBuf>,
    /// Also show, and judge the speed by, what `shearling bench latency … --json` printed into this file.
    #[arg(long, value_name = "FILE")]
    pub latency: Option<PathBuf>,
    /// Write every figure as a PNG file into this folder.
    #[arg(long, value_name = "DIR")]
    pub png: Option<PathBuf>,
    /// Write every figure as an SVG file into this folder.
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
    /// Serve the page to this machine (127.0.0.1) until Ctrl-C; it follows the runs while they go on. Without a port, or
    /// with 0, any free one.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "0")]
    pub serve: Option<u16>,
    /// Print the data that the page holds as one JSON object.
    #[arg(long, conflicts_with = "serve")]
    pub json: bool,
}
