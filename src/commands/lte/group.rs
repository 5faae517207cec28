//! `shearling lte group`

use crate::cli::arguments::LteGroup;
use crate::commands::ExitStatus;

/// Runs it.
pub fn run(_arguments: &LteGroup) -> anyhow::Result<ExitStatus> {
    anyhow::bail!("not built yet")
}
