//! `shearling inspect model`, `inspect masks` and `inspect run`.

use super::Verdict;
use super::export::{open_step, split_step};
use crate::checkpoint::{Checkpoint, HfModel};
use crate::cli::Printer;
use crate::cli::arguments::{Inspect, InspectPath, InspectTarget};
use crate::cli::table::{Table, duration, grouped, optional};
use crate::inspect::{MaskSummary, RunHistory, RunSummary};
use crate::model::count::ParameterCount;
use crate::model::parameters::parameters;
use crate::train::run::mask_file;
use serde_json::{Value, json};
use shearling_masks::{LayerKeep, Module};
use std::path::{Path, PathBuf};

/// `shearling inspect …`
pub fn run(arguments: &Inspect) -> anyhow::Result<Verdict> {
    match arguments {
        Inspect::Model(arguments) => model(arguments),
        Inspect::Masks(arguments) => masks(arguments),
        Inspect::Run(arguments) => run_folder(arguments),
    }
}

fn model(arguments: &InspectPath) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    let checkpoint = Checkpoint::open(&arguments.path)?;
    let model = checkpoint.model();
    let expected: Vec<(String, Vec<i64>)> = parameters(model).into_iter().map(|p| (p.name, p.shape)).collect();
    let report = checkpoint.check(&expected);
    if let Some(hint) = checkpoint.tokenizer_hint() {
        printer.note(hint);
    }
    printer.data(format!("{}\n{report}\n", shape_table(&[("", model)])), || {
        json!({
            "path": arguments.path,
            "shape": shape_json(model),
            "parameters": ParameterCount::of(model),
            "total_parameters": ParameterCount::of(model).total(),
            "complete": report.is_complete(),
            "missing": report.missing.iter().map(|missing| &missing.name).collect::<Vec<_>>(),
            "unused": report.unused,
        })
    });
    Ok(if report.is_complete() { Verdict::Done } else { Verdict::CheckFailed })
}

/// Shape and parameters of models, one per column.
pub(super) fn shape_table(models: &[(&str, &HfModel)]) -> Table {
    let names = models.iter().map(|(name, _)| name.to_string());
    let mut table = Table::new(std::iter::once("shape".to_string()).chain(names));
    let mut line = |name: &str, value: &dyn Fn(&HfModel) -> String| {
        table.row(std::iter::once(name.to_string()).chain(models.iter().map(|(_, model)| value(model))));
    };
    line("architecture", &|m| m.architecture.class_name().to_string());
    line("hidden_size", &|m| grouped(m.hidden_size));
    line("intermediate_size", &|m| grouped(m.intermediate_size));
    line("num_hidden_layers", &|m| grouped(m.num_hidden_layers));
    line("num_attention_heads", &|m| grouped(m.num_attention_heads));
    line("num_key_value_heads", &|m| grouped(m.num_key_value_heads));
    line("head_dim", &|m| grouped(m.head_dim));
    line("vocab_size", &|m| grouped(m.vocab_size));
    line("tied embeddings", &|m| m.tie_word_embeddings.to_string());
    line("embedding parameters", &|m| grouped(ParameterCount::of(m).embedding));
    line("attention parameters", &|m| grouped(ParameterCount::of(m).attention));
    line("mlp parameters", &|m| grouped(ParameterCount::of(m).mlp));
    line("norm parameters", &|m| grouped(ParameterCount::of(m).norms));
    line("head parameters", &|m| grouped(ParameterCount::of(m).head));
    line("all parameters", &|m| grouped(ParameterCount::of(m).total()));
    table
}

/// The same as JSON.
pub(super) fn shape_json(model: &HfModel) -> Value {
    json!({
        "architecture": model.architecture.class_name(),
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
    })
}

fn masks(arguments: &InspectTarget) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    let summary = MaskSummary::read(&locate_masks(&arguments.target)?)?;
    printer.data(masks_text(&summary), || serde_json::to_value(&summary).unwrap_or_default());
    Ok(Verdict::Done)
}

/// A mask file as given, or that of a run's step.
fn locate_masks(target: &str) -> anyhow::Result<PathBuf> {
    if Path::new(target).is_file() {
        return Ok(target.into());
    }
    let (run, step) = split_step(target)?;
    let step = open_step(&run, step)?;
    let path = mask_file(step.path());
    if !path.is_file() {
        anyhow::bail!("{} has no masks: it is a checkpoint of pretrain", step.path().display());
    }
    Ok(path)
}

fn masks_text(summary: &MaskSummary) -> String {
    let (sparsity, target) = (summary.expected_sparsity, summary.target_sparsity);
    let mut text = format!("expected sparsity {sparsity:.4}, target {target:.4}\n\n{}", modules_table(summary));
    text.push_str(&format!("\nsurvivors by layer of the source\n{}", layers_table(summary)));
    for module in &summary.report.modules {
        for (what, units) in
            [("kept, but half-alive", &module.half_alive), ("removed, but still open", &module.still_open)]
        {
            if units.count > 0 {
                let named = units.worst.iter().take(10).map(|unit| format!("{} = {:.3}", unit.name, unit.value));
                let named = named.collect::<Vec<_>>().join(", ");
                text.push_str(&format!("\n{} {}: {} units, the worst {named}", module.module, what, units.count));
            }
        }
    }
    text.push('\n');
    text
}

fn modules_table(summary: &MaskSummary) -> Table {
    let header = [
        "mask",
        "rows",
        "units",
        "target",
        "expected sparsity",
        "target sparsity",
        "undecided",
        "half-alive",
        "still open",
    ];
    let mut table = Table::new(header);
    for module in &summary.report.modules {
        table.row([
            module.module.to_string(),
            module.rows.to_string(),
            module.size.to_string(),
            module.target.to_string(),
            format!("{:.4}", module.expected_sparsity),
            format!("{:.4}", module.target_sparsity),
            module.undecided.iter().sum::<i64>().to_string(),
            module.half_alive.count.to_string(),
            module.still_open.count.to_string(),
        ]);
    }
    table
}

fn layers_table(summary: &MaskSummary) -> Table {
    let mut table = Table::new(["layer", "becomes", "kv heads", "query slots", "intermediate"]);
    for source in 0..summary.source.num_hidden_layers {
        let place = summary.plan.layers.iter().position(|layer| layer.source_index == source);
        match (place, summary.layer(source)) {
            (Some(place), Some(layer)) => table.row([
                source.to_string(),
                place.to_string(),
                kept(&layer.kv_heads, summary.source.num_key_value_heads),
                kept(&layer.query_slots, summary.source.group_size()),
                intermediate(layer, summary),
            ]),
            _ => table.row([source.to_string(), "removed".to_string()]),
        }
    }
    table
}

/// Indices, or `all` when nothing was removed.
fn kept(indices: &[i64], of: i64) -> String {
    if indices.len() as i64 == of {
        return "all".to_string();
    }
    indices.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")
}

fn intermediate(layer: &LayerKeep, summary: &MaskSummary) -> String {
    match summary.report.get(Module::Intermediate) {
        Some(module) => format!("{} of {}", layer.intermediate.len(), module.size),
        None => "all".to_string(),
    }
}

fn run_folder(arguments: &InspectPath) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    let history = RunHistory::read(&arguments.path)?;
    let summary = RunSummary::of(&history);
    printer.data(run_text(&summary, &history), || serde_json::to_value(&summary).unwrap_or_default());
    Ok(Verdict::Done)
}

fn run_text(summary: &RunSummary, history: &RunHistory) -> String {
    let steps = summary.steps.map_or("?".to_string(), |steps| steps.to_string());
    let mut text = format!(
        "{} run: step {} of {steps}, {} tokens in {} ({} tokens/s), resumed {} times, {} steps skipped\n\
         training loss {} → {}; checkpoints at {}\n\n",
        summary.stage.as_deref().unwrap_or("?"),
        summary.step,
        optional(summary.tokens, 0),
        duration(summary.seconds),
        optional(summary.tokens_per_second, 0),
        summary.resumed,
        summary.skipped,
        optional(summary.first_loss, 4),
        optional(summary.last_loss, 4),
        summary.checkpoints.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    );
    let mut table = Table::new([
        "domain",
        "first loss",
        "last loss",
        "cut to target",
        "±",
        "reference",
        "share first",
        "share last",
        "rows",
        "epochs",
    ]);
    for domain in &summary.domains {
        table.row([
            domain.domain.clone(),
            optional(domain.first_loss, 4),
            optional(domain.last_loss, 4),
            optional(domain.cut_loss, 4),
            optional(domain.standard_error, 4),
            optional(domain.reference, 4),
            optional(domain.first_proportion, 3),
            optional(domain.last_proportion, 3),
            optional(domain.rows, 0),
            optional(domain.epochs, 2),
        ]);
    }
    text.push_str(&table.to_string());
    if !summary.constraints.is_empty() {
        text.push_str(&format!("\n{}", constraints_table(summary)));
    }
    for note in &history.notes {
        text.push_str(&format!("note: {}\n", note.text));
    }
    text
}

fn constraints_table(summary: &RunSummary) -> Table {
    let mut table = Table::new(["mask", "expected sparsity", "target", "violation", "λ1", "λ2"]);
    for constraint in &summary.constraints {
        let number = |value: Option<f64>| optional(value, 4);
        table.row([
            constraint.module.clone(),
            number(constraint.expected_sparsity),
            number(constraint.target_sparsity),
            number(constraint.violation),
            number(constraint.lambda_1),
            number(constraint.lambda_2),
        ]);
    }
    table
}
