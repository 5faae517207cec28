//! `shearling inspect run`: a run in about a screen and a half: notes first, then curves, domains, the constraint, the
//! masks, what survives. The tables are in `run_tables`.

use super::run_csv::run_csv;
use super::run_tables as tables;
use super::{CsvTarget, evaluation_tables, expert_tables as experts};
use crate::cli::arguments::InspectRun;
use crate::cli::printer::for_stdout;
use crate::cli::table::{Table, grouped, optional, ranges};
use crate::cli::wrap::wrapped;
use crate::cli::{Printer, Terminal};
use crate::commands::ExitStatus;
use crate::commands::run_cost::time_taken;
use crate::hf::KeptLayer;
use crate::inspect::{DomainStory, RunHistory, RunSummary, Severity, Survivors, TimeTaken, WrittenModel};
use crate::words::{counted, device, thousands};
use serde_json::{Value, json};

pub(super) fn run_folder(arguments: &InspectRun) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let csv = CsvTarget::check(arguments.csv.as_deref(), arguments.json)?;
    let history = RunHistory::read(&arguments.path)?;
    let written = csv.map_or(Ok(false), |csv| csv.write(&run_csv(&history.steps), &printer));
    if !matches!(written, Ok(true)) {
        printer.data(for_stdout(text(&history, Terminal::of_stdout())), || whole(&history));
    }
    written.map(|_| ExitStatus::Done)
}

/// The summary before the columns, in one object.
fn whole(history: &RunHistory) -> Value {
    let mut whole = json!({ "summary": RunSummary::of(history) });
    if let (Value::Object(whole), Ok(Value::Object(history))) = (&mut whole, serde_json::to_value(history)) {
        whole.extend(history);
    }
    whole
}

fn text(history: &RunHistory, terminal: Terminal) -> String {
    let width = terminal.width;
    let masked = history.steps.sparsity_expected.iter().any(Option::is_some);
    let sampled_title = match masked {
        true => "a sample of the steps; sparsity is the share of prunable parameters that is removed",
        false => "a sample of the steps",
    };
    let validation_title = format!(
        "validation loss by step, nats per token on held-out rows; ±: standard error{}{}",
        evaluation_tables::gates_said(history),
        evaluation_tables::sampled_said(history, width)
    );
    let compared = history.stories.iter().any(|story| story.degradation.is_some() || story.recovered.is_some());
    let stories_title = match compared {
        true => {
            "domains: validation losses; what pruning cost in standard errors (SE) and the part of it that came back; share \
             of the mix; rows seen"
        }
        false => "domains: validation losses, share of the mix, rows seen",
    };
    let reference = history.stories.iter().find_map(DomainStory::reference_rows);
    let reference = reference.map_or(String::new(), |rows| format!("; source: its reference loss, {rows}"));
    let rotated = match history.starts_in_principal_basis() {
        true => {
            "; source: as it was before step 1, turned into its principal basis, so not to the last digit the source's own"
        }
        false => "",
    };
    let stories_title = format!("{stories_title}{reference}{rotated}");
    let (sampled, stories) = match history.experts.is_some() {
        true => (experts::sampled_steps(history), Table::default()),
        false => (tables::sampled_steps(history), tables::stories(history)),
    };
    let sections: [(&str, Table); 13] = [
        ("curves over the steps; losses in nats per token", tables::curves(history, width)),
        (sampled_title, sampled),
        ("losses of an lte run", experts::losses(history)),
        (
            "units that run, on held-out rows; \"N rows\": of so many rows together, up to those of a forward",
            experts::evaluations(history),
        ),
        ("units that run by layer, at the last evaluation", experts::layers(history)),
        (&validation_title, evaluation_tables::validation(history, width)),
        (&stories_title, stories),
        ("domains: what running few units costs", experts::domains(history)),
        ("share of each domain in the mix, by step", tables::proportions(history, width)),
        (
            "excess: validation loss − reference, nats per token (below 0: better than the reference); after \"yes\" the mix \
             moved",
            evaluation_tables::excess(history, width),
        ),
        (
            "constraint at the last step: sparsity by mask, the row furthest from its target, multipliers where there are some; \
             the trend is of the violation",
            tables::constraints(history, width),
        ),
        ("undecided units by step, in the layers that the cut keeps", tables::polarisation(history)),
        ("when the masks settled", tables::settled(history)),
    ];
    let mut text = headline(history);
    text.extend(history.experts.as_ref().and_then(|experts| Some(format!("{}\n", experts.sentence()?))));
    if !history.notes.is_empty() {
        text.push_str(&format!("\n{}", notes(history)));
    }
    for (title, table) in sections.iter().filter(|(_, table)| !table.is_empty()) {
        text.push_str(&format!("\n{}\n{table}", wrapped(title, width)));
    }
    if !history.events.is_empty() {
        text.push_str(&format!("\nevents\n{}", tables::events(history)));
    }
    text.push_str(&history.survivors.as_ref().map(survivors).unwrap_or_default());
    text.push_str(&history.written.as_ref().map(written).unwrap_or_default());
    text.push_str(&kept(history));
    text
}

fn headline(history: &RunHistory) -> String {
    let summary = RunSummary::of(history);
    if history.one_shot {
        return format!("{}: one-shot cut\n", history.name);
    }
    let checkpoints = history.checkpoints.iter().map(|step| thousands(*step)).collect::<Vec<_>>().join(", ");
    let resumed = match summary.resumed {
        0 => "not resumed".to_string(),
        1 => "resumed once".to_string(),
        times => format!("resumed {times} times"),
    };
    format!(
        "{}: {} run{}: step {} of {}, {} tokens at {} tokens/s in steps (mean of the run), on {}\n\
         took {}\ntraining loss {} → {}; {} skipped; {resumed}; {}\n",
        history.name,
        history.stage.as_deref().unwrap_or("?"),
        history.process.map_or(String::new(), |process| format!(", running (process {process})")),
        thousands(summary.step),
        summary.steps.map_or("?".to_string(), thousands),
        summary.tokens.map_or("?".to_string(), thousands),
        summary.tokens_per_second.map_or("–".to_string(), |rate| grouped(rate.round() as i128)),
        history.device.as_deref().map_or("?".to_string(), device),
        time_taken(TimeTaken { steps: summary.seconds, evaluations: summary.evaluation_seconds }),
        optional(summary.first_loss, 4),
        optional(summary.last_loss, 4),
        counted(summary.skipped as u64, "step"),
        if checkpoints.is_empty() { "no checkpoints".to_string() } else { format!("checkpoints at {checkpoints}") },
    )
}

fn notes(history: &RunHistory) -> String {
    let notes = history.notes.iter().map(|note| match note.severity {
        Severity::Warning => format!("warning: {}\n", note.text),
        Severity::Info => format!("note: {}\n", note.text),
    });
    notes.collect()
}

fn survivors(survivors: &Survivors) -> String {
    let kept: Vec<i64> = survivors.layers.iter().map(|layer| layer.source_layer).collect();
    let listed = |layers: &[i64]| ranges(layers).replace(' ', ", ");
    format!(
        "\nkept by the cut (masks of step {}): {} of {} layers ({}; removed: {}), {} of {} hidden dimensions, and in each \
         layer {} of {} query heads and {} of {} MLP units; `shearling inspect masks` lists them\n",
        thousands(survivors.step),
        kept.len(),
        survivors.source.num_hidden_layers,
        listed(&kept),
        listed(&survivors.removed_layers),
        grouped(survivors.hidden as i128),
        grouped(survivors.source.hidden_size),
        survivors.target.num_attention_heads,
        survivors.source.num_attention_heads,
        grouped(survivors.target.intermediate_size),
        grouped(survivors.source.intermediate_size),
    )
}

/// Layers, and query heads where some were removed, that a cut at once kept.
fn kept(history: &RunHistory) -> String {
    let Some(kept) = history.written.as_ref().and_then(|written| written.kept.as_ref()) else { return String::new() };
    let listed = |indices: &[i64]| ranges(indices).replace(' ', ", ");
    let layers: Vec<i64> = kept.iter().map(|layer| layer.source_layer).collect();
    let mut text = format!("\nkept by the cut: layers {} of the model that was cut\n", listed(&layers));
    let before = history.source_shape["num_attention_heads"].as_u64();
    if kept.iter().any(|layer| Some(layer.heads.len() as u64) != before) {
        let line =
            |layer: &KeptLayer| format!("  layer {}: query heads {}\n", layer.source_layer, listed(&layer.heads));
        text.extend(kept.iter().map(line));
    }
    text
}

fn written(written: &WrittenModel) -> String {
    let count = |count: Option<u64>| count.map_or("?".to_string(), grouped);
    let mut text = format!("\nexported model: {}/ in the run folder", written.path);
    if written.parameters_before != written.parameters_after {
        text.push_str(&format!(", {} → ", count(written.parameters_before)));
    } else {
        text.push_str(", ");
    }
    text.push_str(&format!("{} parameters", count(written.parameters_after)));
    if let Some(check) = &written.equivalence {
        let number = |value: Option<f64>| value.map_or("?".to_string(), |value| format!("{value:.1e}"));
        let (error, bound) = match check.folded {
            Some(_) => (check.folded, check.folded_bound),
            None => (check.written, check.written_bound),
        };
        let verdict = if check.verdict() == Some(false) { "not proven equal: " } else { "" };
        // A cut at once has no masks.
        let masked = if written.cut.is_some() { "the masked source" } else { "the masked model" };
        text.push_str(&format!(
            "; {verdict}differs from {masked} by {} of the largest logit (bound {})",
            number(error),
            number(bound)
        ));
        if let Some(kl) = check.mean_kl {
            text.push_str(&format!(", rounding costs a KL divergence of {kl:.1e}"));
        }
    }
    if let Some(cut) = &written.cut {
        let rows = counted(cut.rows, "held-out row");
        text.push_str(&format!("\nloss on {rows}: {:.4} before the cut, {:.4} after", cut.source, cut.cut));
    }
    text + "\n"
}
