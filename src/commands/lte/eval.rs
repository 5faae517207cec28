//! `shearling lte eval`

use crate::cli::arguments::LteEval;
use crate::commands::ExitStatus;

/// Runs it.
pub fn run(_arguments: &LteEval) -> anyhow::Result<ExitStatus> {
    anyhow::bail!("not built yet")
}
