//! `shearling completions`: the script that makes a shell complete commands and options, made from the command line's own
//! description.

use super::ExitStatus;
use crate::cli::arguments::Completions;
use crate::cli::{Cli, Printer};
use clap::CommandFactory;

/// `shearling completions`
pub fn run(arguments: &Completions) -> anyhow::Result<ExitStatus> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "shearling", &mut script);
    Printer::new(false).data(String::from_utf8(script)?, || serde_json::Value::Null);
    Ok(ExitStatus::Done)
}
