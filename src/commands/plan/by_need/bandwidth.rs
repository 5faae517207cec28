//! How fast the memory is read that the small model will decode from.

use crate::native::runtime::bandwidth::Bandwidth;
use crate::native::runtime::cards::Card;
use crate::native::runtime::contention::Watch;
use crate::native::runtime::{device, memory, threads};

/// Readings, of which the fastest counts: what else runs only slows one down.
const READINGS: usize = 3;
/// Memory below which nothing is measured on a CPU: the buffer takes a GiB.
const LEAST_FREE: u64 = 2 << 30;

/// A rate and where it is from.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) bytes_per_second: f64,
    pub(super) said: String,
    /// That the machine was busy while it was measured, if it was.
    pub(super) busy: Option<String>,
}

impl Rate {
    /// As given, or the card's, or as measured here; `None` where that fails.
    pub(super) fn of(given: Option<f64>, card: Option<&Card>) -> Option<Rate> {
        match (given, card) {
            (Some(bytes_per_second), _) => Some(Rate { bytes_per_second, said: "as given".to_string(), busy: None }),
            (None, Some(card)) => Some(Rate {
                bytes_per_second: card.bandwidth(),
                said: format!("of one {}, by its data sheet", card.name),
                busy: None,
            }),
            (None, None) => measured(),
        }
    }
}

fn measured() -> Option<Rate> {
    let device = device::parse("auto").ok()?;
    if memory::usable_bytes(device).is_some_and(|bytes| bytes < LEAST_FREE) {
        return None;
    }
    let buffer = Bandwidth::new(device).ok()?;
    let watch = Watch::begin();
    let readings = (0..READINGS).map(|_| buffer.measure()).collect::<Result<Vec<f64>, _>>().ok()?;
    let bytes_per_second = readings.into_iter().fold(0.0, f64::max);
    let place = if device.is_cuda() { "the GPU" } else { "the CPU" };
    let busy = watch.contention(threads::count()).filter(|_| !device.is_cuda());
    let busy = busy.map(|busy| {
        format!(
            "busy machine: {busy} while the memory was measured, so that it may be faster than {:.1} GB/s; give its rate with \
             --bandwidth",
            bytes_per_second / 1e9
        )
    });
    let said = format!("of {place} of this machine, measured");
    (bytes_per_second > 0.0).then_some(Rate { bytes_per_second, said, busy })
}
