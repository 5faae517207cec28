//! The measuring: models in turn, round by round, with the memory's bandwidth measured in between.

use super::contestant::Contestant;
use super::timed_decode::{DecodeTimes, Lengths, timed_decode};
use crate::cli::Printer;
use crate::cli::table::grouped;
use crate::native::runtime::bandwidth::Bandwidth;
use tch::{Device, TchError};

/// Readings of the bandwidth per round, of which the fastest counts.
const READINGS: usize = 3;

/// What all rounds took.
pub(super) struct Measured {
    /// Bytes per second, one number per round.
    pub(super) bandwidth: Vec<f64>,
    /// By model, then by round.
    pub(super) decodes: Vec<Vec<DecodeTimes>>,
}

/// The buffer that is read.
pub(super) fn bandwidth(device: Device) -> Result<Bandwidth, TchError> {
    Bandwidth::new(device)
}

/// All rounds; the decode at loading was the one that does not count.
pub(super) fn run(
    contestants: &mut [Contestant],
    bandwidth: &Bandwidth,
    lengths: Lengths,
    rounds: usize,
    printer: &Printer,
) -> anyhow::Result<Measured> {
    let mut measured = Measured { bandwidth: Vec::new(), decodes: vec![Vec::new(); contestants.len()] };
    for round in 1..=rounds {
        let mut fastest: f64 = 0.0;
        for _ in 0..READINGS {
            fastest = fastest.max(bandwidth.measure()?);
        }
        measured.bandwidth.push(fastest);
        for (contestant, decodes) in contestants.iter_mut().zip(&mut measured.decodes) {
            let times = timed_decode(&contestant.decoder, &mut contestant.cache, lengths, contestant.device)?;
            let rates = (lengths.prompt as f64 / times.prefill, 1.0 / times.step);
            let name = &contestant.name;
            printer.note(format!(
                "round {round}: {name}: prefill {}, decode {:.2} tokens/s",
                grouped(rates.0 as i64),
                rates.1
            ));
            decodes.push(times);
            if let Some(problem) = contestant.cache.recording_refusal().filter(|_| round == 1) {
                printer.warn(format!("{name}: tokens are not launched as one CUDA graph: {problem}"));
            }
        }
    }
    Ok(measured)
}
