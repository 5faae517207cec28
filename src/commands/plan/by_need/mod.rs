//! `shearling plan MODEL --target-params 1.3B`, `--target-memory`, `--target-latency`: shapes that the model can be pruned to
//! and what each costs to serve and to train. Needs a config.json alone; writes nothing. With --rank the first few are tried.
//!
//! ```text
//! MODEL, or model.source of --config ─► need ─► commands::shapes (proposals, in order) ─► costs ─► proposed
//! ```

mod asked;
mod bandwidth;
mod costs;
mod proposed;
mod rank;
mod target;
mod training;

use crate::cli::Printer;
use crate::cli::arguments::Plan;
use crate::cli::printer::for_stdout;
use crate::commands::ExitStatus;
use crate::commands::shapes::{Need, Proposal, Serving, propose};
use crate::commands::speed::named_card;
use crate::files::DType;
use crate::hf::ModelConfig;
use crate::prune::shape::resized;
use anyhow::{Context, bail};
use asked::Asked;
use bandwidth::Rate;
use costs::Costs;
use proposed::ProposedShapes;
use rank::{Ranking, Trial};
use std::num::NonZeroU32;
use std::path::Path;
use training::Training;

/// Tokens of a row to train on and to decode with, unless told.
const USUAL_TOKENS: i64 = 4096;

/// `shearling plan … --target-…`
pub(super) fn run(arguments: &Plan) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let Asked { path, model, config } = Asked::of(arguments)?;
    let card = arguments.card.as_deref().map(named_card).transpose()?;
    let dtype = arguments.serving.dtype.map(DType::from).or(model.dtype).unwrap_or(DType::BF16);
    let context = tokens("--context", arguments.serving.context, &model)?;
    let batch = arguments.serving.batch.map_or(1, |rows| i64::from(rows.get()));
    let serving = Serving { element_bytes: dtype.bytes() as i64, context, batch };
    let rate = Rate::of(arguments.serving.bandwidth, card);
    let need = need(arguments, serving, rate.as_ref())?;
    let proposals = propose(&model, need)?;
    let trials = ranked(arguments, &path, &model, &proposals, &printer)?;
    let picked = picked(arguments, proposals.len(), &trials)?;
    let row_tokens = tokens("--sequence-length", arguments.sequence_length, &model)?;
    let training = Training::new(config, &model, row_tokens)?;
    let busy = rate.as_ref().and_then(|rate| rate.busy.clone());
    let costs_of = |model: &ModelConfig| Costs::of(model, serving, rate.as_ref(), &training);
    let costs = proposals.iter().map(|proposal| costs_of(&resized(&model, &proposal.shape))).collect();
    let proposed = ProposedShapes {
        pruning: training.pruning(&model),
        of_source: costs_of(&model),
        path,
        model,
        need,
        dtype,
        serving,
        rate,
        card,
        training,
        proposals,
        costs,
        picked,
        trials,
        tried_tokens: arguments.serving.rank_tokens,
    };
    printer.data(for_stdout(proposed.text()), || proposed.json());
    busy.into_iter().for_each(|busy| printer.warn(busy));
    Ok(ExitStatus::Done)
}

/// Tokens as asked, or the usual number, within what the model takes.
fn tokens(option: &str, asked: Option<NonZeroU32>, model: &ModelConfig) -> anyhow::Result<i64> {
    let most = model.max_position_embeddings;
    match asked.map(|asked| i64::from(asked.get())) {
        Some(asked) if asked > most => {
            bail!("{option} {asked}, but the model takes at most {most} tokens (max_position_embeddings)")
        }
        Some(asked) => Ok(asked),
        None => Ok(USUAL_TOKENS.min(most)),
    }
}

fn need(arguments: &Plan, serving: Serving, rate: Option<&Rate>) -> anyhow::Result<Need> {
    let asked = &arguments.need;
    if let Some(count) = asked.target_params {
        return Ok(Need::Parameters(count.min(i64::MAX as u64) as i64));
    }
    if let Some(bytes) = asked.target_memory {
        return Ok(Need::Memory { bytes, serving });
    }
    let seconds = asked.target_latency.context("give --target-params, --target-memory or --target-latency")?;
    let rate = rate.context(
        "how fast the memory is read could not be measured here; give --bandwidth 3.35TB/s, or a GPU with --card",
    )?;
    Ok(Need::Latency { seconds, bandwidth: rate.bytes_per_second, serving })
}

/// The first proposals, tried, where that is asked for.
fn ranked(
    arguments: &Plan,
    source: &Path,
    model: &ModelConfig,
    proposals: &[Proposal],
    printer: &Printer,
) -> anyhow::Result<Vec<Trial>> {
    let asked = &arguments.serving;
    let Some(count) = asked.rank else { return Ok(Vec::new()) };
    let data = asked.data.as_deref().context("--rank tries the shapes: give prepared text with --data DIR")?;
    Ranking { source, model, data, count: count.get(), tokens: asked.rank_tokens }.run(proposals, printer)
}

/// Index of the row whose table is printed: as asked, or the best that was tried, or the first.
fn picked(arguments: &Plan, rows: usize, trials: &[Trial]) -> anyhow::Result<usize> {
    let best = trials.first().map_or(1, |trial| trial.row + 1);
    let row = arguments.serving.pick.map_or(best, |row| row.get());
    if row > rows {
        bail!("--pick {row}, but there are {rows} shapes; give a number from 1 to {rows}");
    }
    Ok(row - 1)
}
