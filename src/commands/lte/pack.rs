//! `shearling lte pack`

use crate::cli::arguments::LtePack;
use crate::commands::ExitStatus;

/// Runs it.
pub fn run(_arguments: &LtePack) -> anyhow::Result<ExitStatus> {
    anyhow::bail!("not built yet")
}
