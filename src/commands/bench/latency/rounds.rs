//! The measuring: models in turn, round by round, with the memory's bandwidth measured in between.

use super::answer::{Answer, Lengths, answer};
use super::contestant::Contestant;
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
    pub(super) answers: Vec<Vec<Answer>>,
}

/// The buffer that is read.
pub(super) fn bandwidth(device: Device) -> Result<Bandwidth, TchError> {
    Bandwidth::new(device)
}

/// All rounds; the answer at loading was the one that does not count.
pub(super) fn run(
    contestants: &mut [Contestant],
    bandwidth: &Bandwidth,
    lengths: Lengths,
    rounds: usize,
    printer: &Printer,
) -> anyhow::Result<Measured> {
    let mut measured = Measured { bandwidth: Vec::new(), answers: vec![Vec::new(); contestants.len()] };
    for round in 1..=rounds {
        let mut fastest: f64 = 0.0;
        for _ in 0..READINGS {
            fastest = fastest.max(bandwidth.measure()?);
        }
        measured.bandwidth.push(fastest);
        for (contestant, answers) in contestants.iter_mut().zip(&mut measured.answers) {
            let answer = answer(&contestant.decoder, &mut contestant.cache, lengths, contestant.device)?;
            let rates = (lengths.prompt as f64 / answer.prefill, 1.0 / answer.step);
            let name = &contestant.name;
            printer.note(format!(
                "round {round}: {name}: prefill {}, decode {:.2} tokens/s",
                grouped(rates.0 as i64),
                rates.1
            ));
            answers.push(answer);
        }
    }
    Ok(measured)
}
