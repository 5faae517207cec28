//! `shearling bench latency`: how fast models read a prompt and decode, side by side, and how far that is from what the
//! memory allows.
//!
//! ```text
//! contestant   a folder or a shape, loaded; its bytes per token; its memory alone
//! rounds       bandwidth, model 1, model 2, … again and again
//! report       medians, spread, ratios to the first model; table and JSON
//! ```

pub(super) mod contestant;
mod report;
mod rounds;
mod timed_decode;

use crate::cli::Printer;
use crate::cli::arguments::BenchLatency;
use crate::commands::ExitStatus;
use crate::commands::output_file::OutputFile;
use crate::commands::place::{place, slow_bf16};
use crate::config::ComputeDtype;
use crate::files::DType;
use crate::native::runtime::contention::Watch;
use crate::native::runtime::{allocator, device, threads};
use crate::train::setup::{compute_dtype, kind};
use contestant::{Candidate, Contestant};
use report::LatencyReport;
use timed_decode::Lengths;

/// Tokens, unless asked for otherwise or more than a model takes.
const PROMPT_TOKENS: i64 = 512;
const NEW_TOKENS: i64 = 64;

/// `shearling bench latency`
pub(super) fn run(arguments: &BenchLatency) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let out = OutputFile::check_optional("--out", arguments.out.as_deref())?;
    let report = measure(arguments, &printer)?;
    let written = out.map_or(Ok(()), |out| out.write("the JSON object", &format!("{:#}\n", report.json()), &printer));
    printer.data(report.text(), || report.json());
    written?;
    Ok(ExitStatus::Done)
}

/// Loads the models and measures them.
pub(in crate::commands) fn measure(arguments: &BenchLatency, printer: &Printer) -> anyhow::Result<LatencyReport> {
    let device = device::parse(&arguments.device)?;
    let kind = kind(arguments.dtype.map_or_else(|| compute_dtype(ComputeDtype::Auto, device), DType::from));
    slow_bf16(kind, device).into_iter().for_each(|slow| printer.warn(slow));
    let candidates = Candidate::all(arguments)?;
    let lengths = lengths(arguments, &candidates)?;
    printer.note(format!("prefill of {} tokens, decoding of {}, {}", lengths.prompt, lengths.new, place(kind, device)));
    let bandwidth = rounds::bandwidth(device)?;
    Contestant::warm_up(kind, device)?;
    let mut contestants = Vec::new();
    for candidate in candidates {
        printer.note(format!("loading {}", candidate.name));
        allocator::release_unused();
        contestants.push(Contestant::load(candidate, lengths, kind, device)?);
    }
    let watch = Watch::begin();
    let measured = rounds::run(&mut contestants, &bandwidth, lengths, arguments.rounds.get(), printer)?;
    let busy = watch.contention(threads::count()).filter(|_| !device.is_cuda());
    if let Some(busy) = &busy {
        printer.warn(format!("busy machine: {busy}, so these speeds may be too low"));
    }
    Ok(LatencyReport::new(contestants, measured, lengths, kind, device, busy))
}

/// What is asked for, or what the model with the shortest context has room for.
fn lengths(arguments: &BenchLatency, candidates: &[Candidate]) -> anyhow::Result<Lengths> {
    let shortest = candidates.iter().min_by_key(|candidate| candidate.limit());
    let (name, limit) = shortest.map_or(("", i64::MAX), |candidate| (candidate.name.as_str(), candidate.limit()));
    let asked = |tokens: Option<std::num::NonZeroUsize>| tokens.map(|tokens| tokens.get() as i64);
    let prompt = asked(arguments.prompt_tokens).unwrap_or(PROMPT_TOKENS.min(limit / 2).max(1));
    let new = asked(arguments.new_tokens).unwrap_or(NEW_TOKENS.min(limit - prompt).max(1));
    if prompt.saturating_add(new) > limit {
        anyhow::bail!(
            "--prompt-tokens {prompt} and --new-tokens {new} together exceed the context of {name}, {limit} tokens \
             (max_position_embeddings); ask for less"
        );
    }
    Ok(Lengths { prompt, new })
}
