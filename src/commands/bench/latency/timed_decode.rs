//! One timed decode of a model: reads a prompt, then takes the most likely token again and again.

use crate::model::{Decoder, KvCache};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

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

/// Seconds of one decode.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecodeTimes {
    /// Until the first token is chosen.
    pub(super) prefill: f64,
    /// Per token after it.
    pub(super) step: f64,
}

/// Reads a prompt and takes the most likely token again and again, whatever it is.
pub(super) fn timed_decode(
    decoder: &Decoder,
    cache: &mut KvCache,
    lengths: Lengths,
    device: Device,
) -> anyhow::Result<DecodeTimes> {
    let prompt = Tensor::f_arange(lengths.prompt, (Kind::Int64, device))?;
    let vocabulary = decoder.model().vocab_size.min(PROMPT_IDS);
    let prompt = prompt.f_remainder(vocabulary)?.f_unsqueeze(0)?;
    cache.clear();
    let start = Instant::now();
    let mut next = most_likely(decoder, cache, &prompt)?;
    let prefill = start.elapsed().as_secs_f64();
    for _ in 0..lengths.new {
        let ids = Tensor::f_from_slice(&[next])?.f_unsqueeze(0)?.f_to_device(device)?;
        next = most_likely(decoder, cache, &ids)?;
    }
    let decode = start.elapsed().as_secs_f64() - prefill;
    Ok(DecodeTimes { prefill, step: decode / lengths.new.max(1) as f64 })
}

/// The id with the largest logit, brought to the host: which waits for the device.
fn most_likely(decoder: &Decoder, cache: &mut KvCache, ids: &Tensor) -> anyhow::Result<i64> {
    let logits = decoder.next_logits(ids, cache)?;
    Ok(logits.f_argmax(-1, false)?.f_int64_value(&[0])?)
}
