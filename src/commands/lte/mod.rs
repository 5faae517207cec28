//! `shearling lte`: group, train, evaluate and pack a model that activates fewer neurons.

mod eval;
mod group;
mod pack;
mod train;

use super::ExitStatus;
use crate::cli::arguments::Lte;

/// Runs one of them.
pub fn run(command: &Lte) -> anyhow::Result<ExitStatus> {
    match command {
        Lte::Group(arguments) => group::run(arguments),
        Lte::Train(arguments) => train::run(arguments),
        Lte::Eval(arguments) => eval::run(arguments),
        Lte::Pack(arguments) => pack::run(arguments),
    }
}
