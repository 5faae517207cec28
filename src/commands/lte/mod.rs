//! `shearling lte`: group, train, evaluate and pack a model that activates fewer neurons.

mod eval;
mod group;
mod pack;
mod train;

use super::ExitStatus;
use crate::cli::arguments::Lte;
use crate::dist::Place;

/// Runs one of them.
pub fn run(command: &Lte, place: Option<&Place>) -> anyhow::Result<ExitStatus> {
    match command {
        Lte::Group(arguments) => group::run(arguments),
        Lte::Train(arguments) => train::run(arguments, place),
        Lte::Eval(arguments) => eval::run(arguments),
        Lte::Pack(arguments) => pack::run(arguments),
    }
}
