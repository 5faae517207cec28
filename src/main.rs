//! The binary: sets up the allocator, loads the CUDA half of libtorch if it is there, reads the command line, listens for
//! signals, runs the command, turns the result into an exit code.

use shearling::cli::{interrupt, misplaced, printer};
use shearling::commands;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
use std::ffi::{c_char, c_int};
use std::process::ExitCode;

/// Runs before libtorch's threads read how they should wait.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[used]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_LIBRARIES: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) =
    shearling::native::runtime::waiting::start_again;

fn main() -> ExitCode {
    // Before memory is in use.
    shearling::native::runtime::allocator::tune();
    // Before anything asks libtorch: it remembers its first answer to "is there CUDA?".
    let cuda = shearling::native::runtime::cuda::load();
    let cli = misplaced::parse();
    if cli.no_kernels {
        shearling::native::kernels::switch_off();
    }
    interrupt::listen();
    let verdict = commands::run(cli.command, cuda);
    interrupt::wait_if_quitting();
    match verdict {
        Ok(commands::ExitStatus::Done) => ExitCode::SUCCESS,
        Ok(commands::ExitStatus::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            printer::error(&error);
            ExitCode::from(2)
        }
    }
}
