//! `shearling bench experts`: what skipping experts brings when decoding, beside our own dense feed-forward and beside the
//! time that reading the bytes takes.
//!
//! ```text
//! weights   random weights of a feed-forward, dense and packed, in huge pages; a router that lets a share run
//! block     dense and sparse feed-forward in turn, layer by layer
//! whole     a dense model, then a sparse one in its place
//! report    medians, ratios, bytes over bandwidth
//! ```

mod block;
mod clock;
mod report;
mod weights;
mod whole;

use crate::cli::Printer;
use crate::cli::arguments::BenchExperts;
use crate::commands::ExitStatus;
use crate::commands::bench::latency::contestant::llama;
use crate::commands::bench::shapes::{NamedShape, SHAPES};
use crate::native::runtime::contention::Watch;
use crate::native::runtime::{device, threads};
use crate::train::setup::kind;
use anyhow::Context;
use report::ExpertsReport;

/// `shearling bench experts`
pub(super) fn run(arguments: &BenchExperts) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let shape = NamedShape::named(&arguments.shape).with_context(|| {
        format!("--shape {:?} is not known; there are {}", arguments.shape, SHAPES.map(|shape| shape.name).join(", "))
    })?;
    let (model, kind) = (llama(&shape.model())?, kind(arguments.dtype.into()));
    let device = device::parse(&arguments.device)?;
    let watch = Watch::begin();
    let rounds = arguments.rounds.get();
    let measured = match arguments.whole {
        true => whole::measure(&model, &arguments.density, rounds, (kind, device), &printer)?,
        false => block::measure(&model, &arguments.density, rounds, (kind, device), &printer)?,
    };
    let busy = watch.contention(threads::count());
    if let Some(busy) = &busy {
        printer.warn(format!("this machine was busy: {busy}; measure again when it is quiet"));
    }
    let report = ExpertsReport { shape: shape.name, whole: arguments.whole, kind, device, measured, busy };
    printer.data(report.text(), || report.json());
    Ok(ExitStatus::Done)
}
