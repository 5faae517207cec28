//! One file per verb. A command opens what it needs, calls the layers below and prints through one printer.

pub mod bench;
mod beside;
pub mod completions;
pub mod data;
pub mod decoder_folder;
mod demo;
pub mod doctor;
mod domain_line;
pub mod eval;
mod execute;
pub mod export;
mod finish;
pub mod generate;
pub mod init;
pub mod inspect;
pub mod lte;
mod mask_warnings;
mod model_folder;
mod next_step;
pub mod observer;
mod output_file;
mod place;
pub mod plan;
mod ranks;
mod refusal;
pub mod report;
mod resumed;
pub mod run;
mod run_cost;
mod shapes;
mod speed;
pub mod tensorboard;
mod unread_keys;
mod via;
pub mod watch;
mod written_shape;

use crate::cli::arguments::Command;
use crate::native::runtime::cuda::CudaLibrary;
use crate::native::runtime::threads;

/// What a command that came to its end has to say to the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Exit code 0.
    Done,
    /// A check said no: exit code 1.
    CheckFailed,
}

/// Runs a command; errors are exit code 2.
pub fn run(command: Command, cuda: CudaLibrary) -> anyhow::Result<ExitStatus> {
    use crate::config::Stage;
    let place = ranks::place(&command)?;
    let threads = threads::choose(command.threads(), place.as_ref().map(ranks::sharing));
    match command {
        Command::Doctor(arguments) => doctor::run(&arguments, &cuda, &threads),
        Command::Data(arguments) => data::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Prune(arguments) => run::run(&arguments, Stage::Prune, place.as_ref()),
        Command::Pretrain(arguments) => run::run(&arguments, Stage::Pretrain, place.as_ref()),
        Command::Lte(arguments) => lte::run(&arguments, place.as_ref()),
        Command::Export(arguments) => export::run(&arguments),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Tensorboard(arguments) => tensorboard::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    }
}
