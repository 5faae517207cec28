//! `shearling bench`: how fast training steps and decoding are here, and whether the fast kernels compute what the plain
//! ones do.

mod check;
mod experts;
pub(super) mod latency;
mod launches;
mod peak;
mod shapes;
mod step;
mod subject;

use super::ExitStatus;
use crate::cli::arguments::Bench;

/// `shearling bench`
pub fn run(arguments: &Bench) -> anyhow::Result<ExitStatus> {
    match arguments {
        Bench::Step(arguments) => step::run(arguments),
        Bench::Latency(arguments) => latency::run(arguments),
        Bench::Experts(arguments) => experts::run(arguments),
        Bench::Launches(arguments) => launches::run(arguments),
        Bench::Check(arguments) => check::run(arguments),
    }
}
