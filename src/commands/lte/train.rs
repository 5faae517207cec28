//! `shearling lte train`

use crate::cli::arguments::Run;
use crate::commands::ExitStatus;

/// Runs it.
pub fn run(_arguments: &Run) -> anyhow::Result<ExitStatus> {
    anyhow::bail!("not built yet")
}
