//! The machine that a run is planned for: its memory and how fast it trains.

use crate::config::ComputeDtype;
use crate::files::DType;
use crate::native::ops::projection::project;
use crate::native::runtime::cards::{CARDS, Card};
use crate::native::runtime::contention::{Contention, Watch};
use crate::native::runtime::{device, threads};
use crate::train::fit::memory_to_fill;
use crate::train::setup::{Device, compute_dtype, kind};
use anyhow::Context;
use std::time::{Duration, Instant};
use tch::{Kind, TchError, Tensor};

/// Part of the rate of large products that a training step reaches: 57 to 82 % on a CPU, 58 % on an H200 that computes every
/// block again, as measured.
const CPU_UTILISATION: f64 = 0.7;
const GPU_UTILISATION: f64 = 0.58;

/// Share of a card's bf16 products that a training step reaches, measured on an H200 with a 1.3B that computes every block again;
/// with nothing computed again it is 54 to 56 % from 1.3B to 7B, 36 % of a 125M.
pub(in crate::commands) const CARD_UTILISATION: f64 = 0.43;

/// Sides of the square matrices that are multiplied to measure. Small on a CPU: of many short products some are never
/// interrupted, so that a busy machine is measured as it is when it is quiet.
const CPU_SIDE: i64 = 512;
const GPU_SIDE: i64 = 8192;
/// The middle product over the fastest, beyond which a GPU is shared or throttled.
const HELD_UP: f64 = 1.5;
/// How long is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Where the runs will be.
#[derive(Debug)]
pub(in crate::commands) struct Place {
    pub(in crate::commands) device: Device,
    /// In words.
    pub(in crate::commands) name: String,
    /// Memory that a run may fill.
    pub(in crate::commands) memory_bytes: Option<f64>,
    /// FLOP/s of training, estimated; `None` if they could not be measured.
    pub(in crate::commands) flops: Option<f64>,
    /// How that is known, in words.
    pub(in crate::commands) rate_said: String,
    /// That the machine was busy while its rate was measured, if it was.
    pub(in crate::commands) busy: Option<String>,
    dtype: DType,
    /// Whether it is a card by name and not this machine.
    card: bool,
}

impl Place {
    /// The card of that name, or this machine with `run.dtype = "auto"`.
    pub(in crate::commands) fn new(card: Option<&str>) -> anyhow::Result<Place> {
        match card {
            Some(card) => Place::card(card),
            None => Place::here(ComputeDtype::Auto),
        }
    }

    fn card(name: &str) -> anyhow::Result<Place> {
        let card = named_card(name)?;
        Ok(Place {
            device: Device::Cuda(0),
            name: format!("one {}", card.name),
            memory_bytes: Some(card.memory_bytes()),
            flops: Some(CARD_UTILISATION * card.bf16_tflops * 1e12),
            rate_said: "at 43 % of the card's peak".to_string(),
            busy: None,
            dtype: DType::BF16,
            card: true,
        })
    }

    /// This machine, where runs compute in `dtype`; takes a second.
    pub(in crate::commands) fn here(dtype: ComputeDtype) -> anyhow::Result<Place> {
        let device = device::parse("auto")?;
        let dtype = compute_dtype(dtype, device);
        let utilisation = if device.is_cuda() { GPU_UTILISATION } else { CPU_UTILISATION };
        let memory_bytes = memory_to_fill(device);
        let watch = Watch::begin();
        let products = product_flops(device, kind(dtype)).ok();
        let busy = products.and_then(|products| products.doubt(device, &watch));
        let flops = products.map(|products| products.flops * utilisation);
        let share_said = if device.is_cuda() { "" } else { ", 60 % of what is free" };
        let gib = memory_bytes
            .map_or(String::new(), |bytes| format!(" ({:.0} GiB to use{share_said})", bytes / (1u64 << 30) as f64));
        let name = if device.is_cuda() { "the GPU of this machine" } else { "the CPU of this machine" };
        let rate_said = flops.map_or(String::new(), |flops| format!("at {:.2} TFLOP/s", flops / 1e12));
        Ok(Place { device, name: format!("{name}{gib}"), memory_bytes, flops, rate_said, busy, dtype, card: false })
    }

    /// What `run.dtype` comes to there.
    pub(in crate::commands) fn dtype_said(&self) -> String {
        let place = if self.card { self.name.as_str() } else { "here" };
        format!("{} {}{place}", self.dtype.name(), if self.card { "on " } else { "" })
    }
}

/// How fast products were.
#[derive(Clone, Copy, Debug)]
struct Products {
    /// FLOP/s of the fastest.
    flops: f64,
    /// How much longer the middle one took than the fastest.
    slowdown: f64,
}

impl Products {
    /// Why the rate may be too low, if it may: others had the CPUs, or most products on a GPU were held up.
    fn doubt(&self, device: Device, watch: &Watch) -> Option<String> {
        if device.is_cuda() {
            let slow = self.slowdown > HELD_UP;
            return slow.then(|| {
                format!(
                    "busy machine: most products took {:.1} times the fastest, so the times may be too long",
                    self.slowdown
                )
            });
        }
        let threads = threads::count();
        let contention = watch.contention(threads)?;
        let advice = fewer_threads(&contention, threads).map_or(String::new(), |advice| format!("; {advice}"));
        Some(format!("busy machine: {contention}, so the times may be too long{advice}"))
    }
}

/// What to do where others have the CPUs of a run with `threads` threads: one that finds no CPU of its own keeps the others waiting
/// at the end of every operation.
fn fewer_threads(contention: &Contention, threads: usize) -> Option<String> {
    let free = (contention.cpus as f64 - contention.others).max(0.0);
    let fewer = (free.round() as usize).max(1);
    (fewer < threads).then(|| {
        format!("if that lasts, --threads {fewer} may be faster (about {free:.1} CPUs are free): compare with shearling bench step --config FILE --threads {fewer}")
    })
}

/// Times products on `device`.
fn product_flops(device: Device, kind: Kind) -> Result<Products, TchError> {
    let _no_grad = tch::no_grad_guard();
    let side = if device.is_cuda() { GPU_SIDE } else { CPU_SIDE };
    let matrix = || Tensor::f_ones([side, side], (kind, device));
    let (x, weight, begun, mut seconds) = (matrix()?, matrix()?, Instant::now(), Vec::new());
    while seconds.is_empty() || begun.elapsed() < MEASURE {
        let start = Instant::now();
        project(&x, &[(&weight, None)])?;
        device::synchronize(device);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
    let (best, middle) = (at(0), at(seconds.len() / 2));
    Ok(Products { flops: 2.0 * (side as f64).powi(3) / best, slowdown: middle / best })
}

/// The card of that name.
pub(in crate::commands) fn named_card(name: &str) -> anyhow::Result<&'static Card> {
    Card::named(name).with_context(|| {
        let known: Vec<&str> = CARDS.iter().map(|card| card.id).collect();
        format!("--card {name:?} is not known; there are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_would_wait_are_advised_against() {
        let advice = |others: f64, cpus: usize, threads: usize| fewer_threads(&Contention { others, cpus }, threads);
        assert!(advice(1.7, 2, 2).unwrap().contains("--threads 1 may be faster (about 0.3 CPUs are free)"));
        assert!(advice(5.4, 16, 16).unwrap().contains("--threads 11 may"));
        assert_eq!(advice(0.4, 2, 2), None, "two threads are still the best guess");
        assert_eq!(advice(3.0, 2, 1), None, "there are no fewer than one");
    }
}
