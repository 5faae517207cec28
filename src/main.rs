//! The binary: sets up the allocator, loads the CUDA half of libtorch if it is there, reads the command line, listens for
//! signals, runs the command, turns the result into an exit code.

use clap::Parser;
use shearling::cli::{Cli, interrupt, printer};
use shearling::commands;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before memory is in use.
    shearling::native::allocator::tune();
    // Before anything asks libtorch: it remembers its first answer to "is there CUDA?".
    let cuda = shearling::native::cuda::load();
    let cli = Cli::parse();
    interrupt::listen();
    let verdict = commands::run(cli.command, cuda);
    interrupt::wait_if_quitting();
    match verdict {
        Ok(commands::Verdict::Done) => ExitCode::SUCCESS,
        Ok(commands::Verdict::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            printer::error(&error);
            ExitCode::from(2)
        }
    }
}
