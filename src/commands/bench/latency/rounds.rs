//! The measuring: models in turn, round by round, with the memory's bandwidth measured in between.

use super::contestant::Contestant;
use crate::cli::Printer;
use crate::cli::table::grouped;
use crate::native::bandwidth::Bandwidth;
use std::time::Instant;
use tch::{Device, Kind, TchError, Tensor};

/// Readings of the bandwidth per round, of which the fastest counts.
const READINGS: usize = 3;
/// Largest id of a prompt: in the vocabulary of every model.
const PROMPT_IDS: i64 = 256;

/// How long the texts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    /// Tokens of the prompt.
    pub(super) prompt: i64,
    /// Tokens after it.
    pub(super) new: i64,
}

/// Seconds of one answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Until the first token is chosen.
    pub(super) prefill: f64,
    /// Per token after it.
    pub(super) step: f64,
}

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
            let answer = answer(contestant, lengths)?;
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

/// Reads a prompt and takes the most likely token again and again, whatever it is.
pub(super) fn answer(contestant: &mut Contestant, lengths: Lengths) -> anyhow::Result<Answer> {
    let prompt = Tensor::f_arange(lengths.prompt, (Kind::Int64, contestant.device))?;
    let vocabulary = contestant.decoder.model().vocab_size.min(PROMPT_IDS);
    let prompt = prompt.f_remainder(vocabulary)?.f_unsqueeze(0)?;
    contestant.cache.clear();
    let start = Instant::now();
    let mut next = most_likely(contestant, &prompt)?;
    let prefill = start.elapsed().as_secs_f64();
    for _ in 0..lengths.new {
        let ids = Tensor::f_from_slice(&[next])?.f_unsqueeze(0)?.f_to_device(contestant.device)?;
        next = most_likely(contestant, &ids)?;
    }
    let decode = start.elapsed().as_secs_f64() - prefill;
    Ok(Answer { prefill, step: decode / lengths.new.max(1) as f64 })
}

/// The id with the largest logit, brought to the host: which waits for the device.
fn most_likely(contestant: &mut Contestant, ids: &Tensor) -> anyhow::Result<i64> {
    let logits = contestant.decoder.next_logits(ids, &mut contestant.cache)?;
    Ok(logits.f_argmax(-1, false)?.f_int64_value(&[0])?)
}
