//! `shearling lte train`: an ordinary run, with routers.

use crate::cli::arguments::Run;
use crate::commands::{self, ExitStatus};
use crate::config::Stage;
use crate::dist::Place;

/// Runs both stages.
pub fn run(arguments: &Run, place: Option<&Place>) -> anyhow::Result<ExitStatus> {
    commands::run::run(arguments, Stage::Lte, place)
}
