//! `shearling lte train`: an ordinary run, with routers.

use crate::cli::arguments::Run;
use crate::commands::{self, ExitStatus};
use crate::config::Stage;

/// Runs both stages.
pub fn run(arguments: &Run) -> anyhow::Result<ExitStatus> {
    commands::run::run(arguments, Stage::Lte)
}
