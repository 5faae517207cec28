//! The loop: read the prompt, then choose a token, hand out its text and read it, until something ends the text.

use super::{Error, Sampling, StopStrings};
use crate::hf::{TextStream, Tokenizer};
use crate::model::{Decoder, KvCache};
use serde::Serialize;
use shearling_noise::token_uniform;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Tokens of a prompt that are read at once: the first have no others to look back at and go the fast way of training,
/// those after them need a matrix of who may read whom.
const FIRST_CHUNK_TOKENS: usize = 4096;
const CHUNK_TOKENS: usize = 512;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Ids of the prompt, at least one.
    pub prompt: &'a [i64],
    /// Most tokens after the prompt.
    pub max_new_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Seed of the choice.
    pub seed: u64,
    /// Number of this text under the seed, so that two texts draw different numbers.
    pub text: u64,
    /// Text ends before the first of these.
    pub stop: &'a [String],
    /// Ids that end the text.
    pub end_ids: &'a [i64],
}

/// What ended a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model chose a token that ends documents.
    EndOfText,
    /// A stop string was met.
    StopString,
    /// As many tokens as asked for.
    MaxTokens,
    /// The model has no more positions.
    ContextFull,
}

/// A text with what it cost.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The text after the prompt.
    pub text: String,
    /// Its ids, the one that ended it included.
    pub token_ids: Vec<i64>,
    /// What ended it.
    pub stop: StopReason,
    /// Seconds until the first token was chosen.
    pub prefill_seconds: f64,
    /// Seconds from then to the end.
    pub decode_seconds: f64,
    /// Bytes of the key/value cache at the end.
    pub cache_bytes: usize,
}

impl Generated {
    /// Tokens per second after the first; `None` where there was no other.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let steps = self.token_ids.len().saturating_sub(1);
        (steps > 0 && self.decode_seconds > 0.0).then(|| steps as f64 / self.decode_seconds)
    }
}

/// Generates one text with weights of `kind` on `device`, handing it to `on_text` piece by piece.
///
/// # Errors
/// Settings or a prompt that cannot be, logits that are not finite, failures of the decoder and the tokenizer.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    request: &Request,
    (kind, device): (Kind, Device),
    on_text: &mut dyn FnMut(&str),
) -> Result<Generated, Error> {
    request.sampling.validate()?;
    check_prompt(decoder, request.prompt)?;
    let expected = request.prompt.len().saturating_add(request.max_new_tokens).min(1 << 16);
    let cache = KvCache::new(decoder.model(), 1, expected as i64, kind, device)?;
    let mut reader = Reader { decoder, cache, device, logits: Vec::new() };
    let mut output = Output::new(tokenizer, request, on_text);
    let start = Instant::now();
    reader.read_prompt(request.prompt)?;
    let mut prefill_seconds = None;
    let stop = loop {
        let id = reader.choose(request, output.ids.len() as u64)?;
        prefill_seconds.get_or_insert_with(|| start.elapsed().as_secs_f64());
        if let Some(stop) = output.take(id, request)? {
            break stop;
        }
        if output.ids.len() >= request.max_new_tokens {
            break StopReason::MaxTokens;
        }
        if reader.cache.room() == 0 {
            break StopReason::ContextFull;
        }
        reader.read(&[id])?;
    };
    let seconds = start.elapsed().as_secs_f64();
    let prefill_seconds = prefill_seconds.unwrap_or(seconds);
    let cache_bytes = reader.cache.bytes();
    let (text, token_ids) = output.finish(stop)?;
    Ok(Generated { text, token_ids, stop, prefill_seconds, decode_seconds: seconds - prefill_seconds, cache_bytes })
}

/// Refuses what the embedding or the cache would refuse in other words.
fn check_prompt(decoder: &Decoder, prompt: &[i64]) -> Result<(), Error> {
    let model = decoder.model();
    if prompt.is_empty() {
        let problem = "has no tokens, and the tokenizer puts none before it; give some text";
        return Err(Error::Prompt(problem.to_string()));
    }
    if let Some(id) = prompt.iter().find(|id| !(0..model.vocab_size).contains(id)) {
        let size = model.vocab_size;
        return Err(Error::Prompt(format!(
            "has token id {id}, the model's vocabulary has {size} (vocab_size): is tokenizer.json another model's?"
        )));
    }
    if prompt.len() as i64 > model.max_position_embeddings {
        return Err(Error::Prompt(format!(
            "has {} tokens, the model takes {} (max_position_embeddings); shorten it",
            prompt.len(),
            model.max_position_embeddings
        )));
    }
    Ok(())
}

/// The model on its way through a text.
struct Reader<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    device: Device,
    /// Of the token after those that were read, `[V]`.
    logits: Vec<f32>,
}

impl Reader<'_> {
    fn read_prompt(&mut self, prompt: &[i64]) -> Result<(), Error> {
        let (first, rest) = prompt.split_at(prompt.len().min(FIRST_CHUNK_TOKENS));
        self.read(first)?;
        rest.chunks(CHUNK_TOKENS).try_for_each(|chunk| self.read(chunk))
    }

    fn read(&mut self, ids: &[i64]) -> Result<(), Error> {
        let ids = Tensor::f_from_slice(ids)?.f_unsqueeze(0)?.f_to_device(self.device)?;
        let logits = self.decoder.next_logits(&ids, &mut self.cache)?;
        let logits = logits.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_reshape([-1])?;
        self.logits = Vec::try_from(logits)?;
        Ok(())
    }

    /// The next id; `step` counts the chosen ones.
    fn choose(&self, request: &Request, step: u64) -> Result<i64, Error> {
        let uniform = token_uniform(request.seed, request.text, step);
        let chosen = request.sampling.choose(&self.logits, uniform);
        chosen.map(|id| id as i64).ok_or(Error::NotFinite { position: self.cache.length() })
    }
}

/// The text on its way out.
struct Output<'a> {
    stream: TextStream<'a>,
    stop: StopStrings,
    ids: Vec<i64>,
    text: String,
    on_text: &'a mut dyn FnMut(&str),
}

impl<'a> Output<'a> {
    fn new(tokenizer: &'a Tokenizer, request: &Request, on_text: &'a mut dyn FnMut(&str)) -> Output<'a> {
        let stream = TextStream::after(tokenizer, request.prompt, true);
        Output { stream, stop: StopStrings::new(request.stop), ids: Vec::new(), text: String::new(), on_text }
    }

    /// Takes a chosen id; why the text ends with it, if it does.
    fn take(&mut self, id: i64, request: &Request) -> Result<Option<StopReason>, Error> {
        self.ids.push(id);
        if request.end_ids.contains(&id) {
            return Ok(Some(StopReason::EndOfText));
        }
        let piece = self.stream.push(id)?;
        let (text, met) = self.stop.push(&piece);
        self.give(&text);
        Ok(met.then_some(StopReason::StopString))
    }

    fn give(&mut self, text: &str) {
        if !text.is_empty() {
            self.text.push_str(text);
            (self.on_text)(text);
        }
    }

    /// Hands out what was held back, unless a stop string ended the text; the whole text and its ids.
    fn finish(mut self, stop: StopReason) -> Result<(String, Vec<i64>), Error> {
        if stop != StopReason::StopString {
            let tail = self.stream.take_rest()?;
            let (text, met) = self.stop.push(&tail);
            let held = if met { String::new() } else { self.stop.take_rest() };
            self.give(&(text + &held));
        }
        Ok((self.text, self.ids))
    }
}
