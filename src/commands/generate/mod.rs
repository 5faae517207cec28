//! `shearling generate`: text from a prompt. The text goes to stdout as it comes, everything about it to stderr.

mod prompts;
mod settings;

use super::ExitStatus;
use super::decoder_folder::DecoderFolder;
use super::model_folder::model_folder;
use super::place::{dtype_name, place, slow_bf16};
use crate::cli::Printer;
use crate::cli::arguments::Generate;
use crate::cli::table::grouped;
use crate::generate::{Generated, Request, StopReason, generate};
use crate::hf::{GenerationConfig, Tokenizer};
use crate::model::Decoder;
use crate::model::count::ParameterCount;
use crate::native::runtime::device;
use crate::train::setup::kind;
use anyhow::Context;
use prompts::Prompts;
use serde_json::{Value, json};
use settings::{Settings, compute_kind};
use std::cell::Cell;
use std::path::PathBuf;
use tch::{Device, Kind};

/// `shearling generate`
pub fn run(arguments: &Generate) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let prompts = Prompts::of(arguments)?;
    let speaker = Speaker::open(arguments, &printer)?;
    let mut number = 0;
    prompts.each(&printer, &mut |prompt| {
        number += 1;
        speaker.answer(prompt, number - 1, &printer)
    })?;
    Ok(ExitStatus::Done)
}

/// Tokens of a prompt from which on the speed of computing it is worth a word: below, decoding is nearly all of the time.
const LONG_PROMPT: usize = 128;

/// A loaded model with its tokenizer and how it is to be sampled from.
struct Speaker<'a> {
    arguments: &'a Generate,
    folder: PathBuf,
    tokenizer: Tokenizer,
    decoder: Decoder,
    end_ids: Vec<i64>,
    settings: Settings,
    kind: Kind,
    device: Device,
    /// Whether a long prompt was warned of.
    warned: Cell<bool>,
}

impl<'a> Speaker<'a> {
    fn open(arguments: &'a Generate, printer: &Printer) -> anyhow::Result<Speaker<'a>> {
        let folder = model_folder(&arguments.model)?;
        let device = device::parse(&arguments.device)?;
        let opened = DecoderFolder::open(&folder)?;
        let model = opened.model();
        let tokenizer = Tokenizer::open(&folder)?;
        let settings = Settings::new(arguments, GenerationConfig::read(&folder)?.as_ref());
        settings.sampling.validate()?;
        let kind = compute_kind(arguments.dtype.map(|dtype| kind(dtype.into())), opened.dtype(), device);
        let parameters = grouped(ParameterCount::of(model).total());
        printer.note(format!("{}: {parameters} parameters, {}", folder.display(), place(kind, device)));
        opened.note().iter().chain(&settings.notes).for_each(|note| printer.note(note));
        printer.note(settings.describe(arguments.seed));
        if tokenizer.eos_ids().is_empty() {
            printer.warn("no file of the folder names an EOS token: the text stops at --max-tokens only");
        }
        let decoder = opened.decoder(kind, device)?;
        let end_ids = tokenizer.eos_ids().to_vec();
        Ok(Speaker { arguments, folder, tokenizer, decoder, end_ids, settings, kind, device, warned: Cell::new(false) })
    }

    /// Generates after one prompt and prints it.
    fn answer(&self, prompt: &str, number: u64, printer: &Printer) -> anyhow::Result<()> {
        let mut ids = self.tokenizer.encode(prompt, true)?;
        if ids.is_empty() {
            // An empty prompt: begin a document.
            ids.extend(self.tokenizer.bos_id().or(self.end_ids.first().copied()));
        }
        if ids.len() >= LONG_PROMPT && !self.warned.replace(true) {
            slow_bf16(self.kind, self.device).into_iter().for_each(|slow| printer.warn(slow));
        }
        let request = Request {
            prompt: &ids,
            max_new_tokens: self.settings.max_new_tokens,
            sampling: self.settings.sampling,
            seed: self.arguments.seed,
            text: number,
            stop: &self.arguments.stop,
            end_ids: &self.end_ids,
        };
        let place = (self.kind, self.device);
        let generated = generate(&self.decoder, &self.tokenizer, &request, place, &mut |text| printer.piece(text))
            .with_context(|| format!("cannot generate with {}", self.folder.display()))?;
        if !generated.text.ends_with('\n') {
            printer.piece("\n");
        }
        printer.data("", || self.json(prompt, &request, &generated));
        printer.note(summary(&generated, ids.len()));
        Ok(())
    }

    fn json(&self, prompt: &str, request: &Request, generated: &Generated) -> Value {
        json!({
            "model": self.folder.display().to_string(),
            "prompt": prompt,
            "text": generated.text,
            "stop": generated.stop,
            "prompt_tokens": request.prompt.len(),
            "new_tokens": generated.token_ids.len(),
            "token_ids": generated.token_ids,
            "temperature": request.sampling.temperature,
            "top_k": request.sampling.top_k,
            "top_p": request.sampling.top_p,
            "seed": request.seed,
            "prefill_seconds": generated.prefill_seconds,
            "decode_seconds": generated.decode_seconds,
            "tokens_per_second": generated.tokens_per_second(),
            "cache_bytes": generated.cache_bytes,
            "dtype": dtype_name(self.kind),
            "device": device::name(self.device),
        })
    }
}

fn tokens(count: usize) -> String {
    format!("{} token{}", grouped(count as i64), if count == 1 { "" } else { "s" })
}

/// One line about a finished text.
fn summary(generated: &Generated, prompt_tokens: usize) -> String {
    let reason = match generated.stop {
        StopReason::EndOfText => "stopped at EOS",
        StopReason::StopString => "stopped at a --stop string",
        StopReason::MaxTokens => "reached --max-tokens",
        StopReason::ContextFull => "reached the end of the context (max_position_embeddings)",
    };
    let prefill = prompt_tokens as f64 / generated.prefill_seconds.max(f64::MIN_POSITIVE);
    let prefill = format!("prefill {} ({} tokens/s)", tokens(prompt_tokens), grouped(prefill as i64));
    let new = generated.token_ids.len();
    let decode = generated.tokens_per_second().map(|rate| format!(" ({rate:.1} tokens/s)"));
    format!("{prefill}, generated {}{}; {reason}", tokens(new), decode.unwrap_or_default())
}
