//! The models themselves: shape and size before and after, evaluation and latency where their files are given.

use super::{NamedTable, Section, rows_each};
use crate::inspect::RunHistory;
use crate::report::chart::{Axis, Caption, DataTable, Figure, RowChart, RowEntry, RowMark, reach};
use crate::report::lineage::RunView;
use crate::report::number::{Unit, decimals, grouped};
use crate::report::side_files::{EvalFile, EvalModel, EvalTask, LatencyFile, LatencyModel, TaskModel, short_name};
use crate::words;
use serde_json::Value;

/// Keys of a shape, as runs record them, and how to call them.
const SHAPE: [(&str, &str); 6] = [
    ("hidden_size", "hidden size"),
    ("intermediate_size", "intermediate size"),
    ("num_hidden_layers", "layers"),
    ("num_attention_heads", "attention heads"),
    ("num_key_value_heads", "key/value heads"),
    ("head_dim", "head dimension"),
];

/// Shapes and parameter counts of what the runs trained and wrote.
pub(super) fn sizes(runs: &[RunView]) -> Section {
    let written = |run: &&RunView| run.history.is_prune();
    let tables = runs.iter().filter(written).map(|run| shape_table(run, runs.len() > 1)).collect();
    Section {
        id: "size".into(),
        title: "Shape and size".into(),
        about: "The source model, the target shape, and the model that was exported.".into(),
        figures: parameters(runs).into_iter().collect(),
        tables,
        ..Section::default()
    }
}

fn shape_table(run: &RunView, several: bool) -> NamedTable {
    let history = run.history;
    let written = history.written.as_ref().map_or(&Value::Null, |written| &written.shape);
    let number = |shape: &Value, key: &str| shape[key].as_i64().map_or("–".to_string(), grouped);
    let row = |(key, name): (&str, &str)| {
        vec![
            name.to_string(),
            number(&history.source_shape, key),
            number(&history.target_shape, key),
            number(written, key),
        ]
    };
    let mut rows: Vec<Vec<String>> = SHAPE.into_iter().map(row).collect();
    let count = |value: Option<u64>| value.and_then(|v| i64::try_from(v).ok()).map_or("–".to_string(), grouped);
    let before = history.written.as_ref().and_then(|written| written.parameters_before);
    let after = history.written.as_ref().and_then(|written| written.parameters_after);
    // Of a target that was reached exactly they are those of the written model.
    let reached = shape_differences(history).is_some_and(|differences| differences.is_empty());
    rows.push(vec!["parameters".into(), count(before), count(after.filter(|_| reached)), count(after)]);
    let header = ["", "source", "target", "exported"].map(String::from).to_vec();
    let title = if several { format!("Shape in {}", run.label) } else { "Shape".to_string() };
    NamedTable { title, table: DataTable { header, rows }, folded: false }
}

fn parameters(runs: &[RunView]) -> Option<Figure> {
    let counted = |run: &&RunView| run.history.written.as_ref().is_some_and(|w| w.parameters_after.is_some());
    let counted: Vec<&RunView> = runs.iter().filter(counted).collect();
    let value = |run: &RunView, choose: fn(&crate::inspect::WrittenModel) -> Option<u64>| {
        run.history.written.as_ref().and_then(choose).map(|count| (count as f64, None))
    };
    let entries = vec![
        RowEntry {
            name: "before".into(),
            colour: 6,
            values: counted.iter().map(|run| value(run, |w| w.parameters_before)).collect(),
        },
        RowEntry {
            name: "exported".into(),
            colour: 0,
            values: counted.iter().map(|run| value(run, |w| w.parameters_after)).collect(),
        },
    ];
    let caption = Caption::new(
        "parameters",
        "Parameters",
        "Parameters, embeddings included, of the model that each run started from and of the one it exported.",
    );
    bars(caption, "parameters", Unit::Count, counted.iter().map(|run| run.label.clone()).collect(), entries)
}

/// Bars from zero.
fn bars(caption: Caption, label: &str, unit: Unit, rows: Vec<String>, entries: Vec<RowEntry>) -> Option<Figure> {
    let values = reach(&entries);
    let axis = Axis::fit(label, unit, false, &[0.0], values.into_iter());
    RowChart::build(caption, axis, RowMark::Bar, rows, entries).map(Figure::Rows)
}

/// Losses of models side by side.
pub(super) fn evaluation(eval: &EvalFile) -> Section {
    let mut domains: Vec<String> = Vec::new();
    for domain in eval.models.iter().flat_map(|model| &model.domains) {
        if !domains.contains(&domain.domain) {
            domains.push(domain.domain.clone());
        }
    }
    let entry = |(colour, model): (usize, &EvalModel)| RowEntry {
        name: short_name(&model.model),
        colour,
        values: domains
            .iter()
            .map(|name| {
                let domain = model.domains.iter().find(|domain| domain.domain == *name)?;
                Some((domain.loss?, domain.standard_error))
            })
            .collect(),
    };
    let entries: Vec<RowEntry> = eval.models.iter().enumerate().map(entry).collect();
    let values = reach(&entries);
    let axis = Axis::fit("loss, nats per token", Unit::Plain, false, &[], values.into_iter());
    let rows = eval.models.iter().flat_map(|model| &model.domains).filter_map(|domain| domain.rows);
    let about = format!("All on the same held-out rows{}; whiskers are standard errors.", rows_each(rows));
    let caption = Caption::new("evaluation", "Models side by side", about);
    let figures = RowChart::build(caption, axis, RowMark::Dot, domains.clone(), entries).map(Figure::Rows);
    // Without data there are tasks only.
    let mut tables = if domains.is_empty() { Vec::new() } else { vec![loss_table(eval, &domains)] };
    tables.extend(eval.tasks.iter().map(task_table));
    Section {
        id: "evaluation".into(),
        title: "Evaluation".into(),
        about: "From `shearling eval`, as given with --eval.".into(),
        figures: figures.into_iter().collect(),
        tables,
        ..Section::default()
    }
}

fn loss_table(eval: &EvalFile, domains: &[String]) -> NamedTable {
    let header = [
        "model".to_string(),
        "parameters".into(),
        "mean loss".into(),
        "difference from the first".into(),
        "bits per byte".into(),
    ];
    let decimal = |value: Option<f64>| value.map_or("–".to_string(), |value| decimals(value, 4));
    let row = |model: &EvalModel| {
        let loss = |name: &String| model.domains.iter().find(|d| d.domain == *name).and_then(|d| d.loss);
        let start = [
            short_name(&model.model),
            Unit::Count.optional(model.parameters),
            decimal(model.mean_loss),
            difference(model),
            decimal(model.mean_bits_per_byte),
        ];
        start.into_iter().chain(domains.iter().map(|name| decimal(loss(name)))).collect()
    };
    let header = header.into_iter().chain(domains.iter().cloned()).collect();
    let rows = eval.models.iter().map(row).collect();
    NamedTable { title: "Held-out loss".into(), table: DataTable { header, rows }, folded: false }
}

/// Mean loss minus that of the first model, with the error of the paired difference.
fn difference(model: &EvalModel) -> String {
    match (model.mean_difference, model.mean_difference_standard_error) {
        (Some(difference), Some(error)) => format!("{difference:+.4} ± {error:.4}"),
        (Some(difference), None) => format!("{difference:+.4}"),
        (None, _) => "–".to_string(),
    }
}

fn task_table(task: &EvalTask) -> NamedTable {
    let with_error = |value: Option<f64>, error: Option<f64>| match (value, error) {
        (Some(value), Some(error)) => format!("{} ± {}", Unit::Percent.text(value), Unit::Percent.text(error)),
        (value, _) => Unit::Percent.optional(value),
    };
    let row = |model: &TaskModel| {
        vec![
            short_name(&model.model),
            with_error(model.acc, model.acc_stderr),
            with_error(model.acc_norm, model.acc_norm_stderr),
        ]
    };
    let header = ["model", "accuracy", "length-normalised"].map(String::from).to_vec();
    let rows = task.models.iter().map(row).collect();
    NamedTable { title: format!("Multiple choice: {}", task.task), table: DataTable { header, rows }, folded: false }
}

/// Speed of models side by side.
pub(super) fn latency(latency: &LatencyFile) -> Section {
    let rows: Vec<String> = latency.models.iter().map(|model| short_name(&model.model)).collect();
    let entry = |name: &str, colour: usize, choose: fn(&LatencyModel) -> Option<f64>| RowEntry {
        name: name.to_string(),
        colour,
        values: latency.models.iter().map(|model| choose(model).map(|value| (value, None))).collect(),
    };
    let decode = vec![
        entry("measured", 0, |m| m.decode.tokens_per_second),
        entry("memory-bandwidth bound", 6, |m| m.decode.roofline_tokens_per_second),
    ];
    let prefill = vec![entry("measured", 2, |m| m.prefill.tokens_per_second)];
    let about = "One token after the other, at batch size one. Each token reads all weights once, so memory bandwidth sets the \
                 bound.";
    let caption = Caption::new("decode", "Decode", about);
    let mut figures: Vec<Figure> =
        bars(caption, "tokens per second", Unit::Count, rows.clone(), decode).into_iter().collect();
    let caption = Caption::new("prefill", "Prefill", "All tokens of a prompt at once.");
    figures.extend(bars(caption, "tokens per second", Unit::Count, rows, prefill));
    let machine = [
        latency.device.as_deref().map(words::device),
        latency.threads.map(|threads| words::counted(threads, "thread")),
        latency.dtype.clone(),
        latency.memory_bandwidth_bytes_per_second.map(|rate| format!("{:.1} GB/s memory bandwidth", rate / 1e9)),
    ];
    let machine = machine.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Section {
        id: "latency".into(),
        title: "Speed".into(),
        about: format!(
            "From `shearling bench latency`, as given with --latency: {machine}.{}",
            latency.busy().map_or(String::new(), |busy| format!(" {busy}"))
        ),
        figures,
        tables: vec![latency_table(latency)],
        ..Section::default()
    }
}

/// Tokens per second; from a hundred on decimals say nothing.
fn rate(value: Option<f64>) -> String {
    Unit::Count.optional(value.map(|rate| if rate >= 100.0 { rate.round() } else { rate }))
}

fn latency_table(latency: &LatencyFile) -> NamedTable {
    let header =
        ["model", "parameters", "weights", "prefill tokens/s", "decode tokens/s", "of the roofline", "peak memory"];
    let row = |model: &LatencyModel| {
        vec![
            short_name(&model.model),
            Unit::Count.optional(model.parameters),
            Unit::Bytes.optional(model.weight_bytes),
            rate(model.prefill.tokens_per_second),
            rate(model.decode.tokens_per_second),
            Unit::Percent.optional(model.decode.fraction_of_roofline),
            Unit::Bytes.optional(model.peak_memory_bytes),
        ]
    };
    let rows = latency.models.iter().map(row).collect();
    let table = DataTable { header: header.map(String::from).to_vec(), rows };
    NamedTable { title: "Measured".into(), table, folded: false }
}

/// The keys of the target at which the written shape differs from it.
pub(crate) fn shape_differences(history: &RunHistory) -> Option<Vec<&'static str>> {
    let written = &history.written.as_ref()?.shape;
    let known = |(key, name): (&'static str, &'static str)| {
        let wanted = history.target_shape[key].as_i64()?;
        Some((written[key].as_i64()? != wanted).then_some(name))
    };
    let compared: Vec<Option<&'static str>> = SHAPE.into_iter().filter_map(known).collect();
    (!compared.is_empty()).then(|| compared.into_iter().flatten().collect())
}
