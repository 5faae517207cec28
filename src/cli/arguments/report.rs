//! Arguments of `report`.

use clap::Args;
use std::path::PathBuf;

/// `report`
#[derive(Debug, Args)]
pub struct Report {
    /// Run folders. A run that continued the model of another is drawn after it; others are drawn over one another.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// HTML file to write; an existing one is replaced, missing folders are created. Needed unless --png, --svg, --json or
    /// --serve is given.
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["serve", "png", "svg", "json"])]
    pub out: Option<PathBuf>,
    /// Headline [default: the names of the runs].
    #[arg(long)]
    pub title: Option<String>,
    /// Also show the results in this file of `shearling eval --out`.
    #[arg(long, value_name = "FILE")]
    pub eval: Option<PathBuf>,
    /// Also show the results in this file of `shearling bench latency --out`, and judge the speed by them.
    #[arg(long, value_name = "FILE")]
    pub latency: Option<PathBuf>,
    /// Write every figure as a PNG file into this folder.
    #[arg(long, value_name = "DIR")]
    pub png: Option<PathBuf>,
    /// Write every figure as an SVG file into this folder.
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
    /// Serve the page at http://127.0.0.1:PORT until Ctrl-C; it updates while the runs are running. Without a port, or with
    /// 0, any free port is taken.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "0")]
    pub serve: Option<u16>,
    /// Print the data of the page as one JSON object.
    #[arg(long, conflicts_with = "serve")]
    pub json: bool,
}
