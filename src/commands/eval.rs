//! `shearling eval`: loss per domain of Hugging Face folders, side by side; and the reference losses of a source.

use super::Verdict;
use crate::checkpoint::{Checkpoint, write_atomic};
use crate::cli::Printer;
use crate::cli::arguments::Eval;
use crate::cli::table::{Table, optional};
use crate::eval::{DomainLoss, EvalRows, evaluate, mean_loss};
use crate::model::count::ParameterCount;
use crate::model::{Decoder, ForwardContext};
use crate::native::device;
use crate::prune::convert::require_complete;
use crate::train::setup::{check_data_fits, kind};
use anyhow::Context;
use serde_json::{Map, Value, json};
use shearling_domains::Dataset;
use shearling_masks::Gates;
use std::path::Path;
use tch::Device;

/// One evaluated folder.
#[derive(Debug)]
pub struct Evaluated {
    /// The folder as given.
    pub name: String,
    /// All parameters.
    pub parameters: i64,
    /// Loss by domain.
    pub domains: Vec<DomainLoss>,
}

/// `shearling eval`
pub fn run(arguments: &Eval) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    if arguments.write_reference.is_some() && arguments.models.len() != 1 {
        anyhow::bail!("--write-reference takes exactly one model, {} were given", arguments.models.len());
    }
    let device = device::parse(&arguments.device)?;
    let dataset = Dataset::open(&arguments.data)?;
    let rows = EvalRows::load(&dataset, arguments.rows.get(), device)?;
    let compute = kind(arguments.dtype.into());
    let mut results = Vec::new();
    for path in &arguments.models {
        printer.note(format!("evaluating {}", path.display()));
        results.push(evaluate_folder(path, &dataset, &rows, arguments.micro_batch.get(), compute, device)?);
    }
    if let Some(path) = &arguments.write_reference {
        write_references(path, &results[0])?;
        printer.note(format!("reference losses written to {}", path.display()));
    }
    printer.data(table(&results), || to_json(&results));
    Ok(Verdict::Done)
}

/// Loads a folder and evaluates it.
pub fn evaluate_folder(
    path: &Path,
    dataset: &Dataset,
    rows: &[EvalRows],
    micro_batch: usize,
    compute: tch::Kind,
    device: Device,
) -> anyhow::Result<Evaluated> {
    let checkpoint = Checkpoint::open(path)?;
    let model = checkpoint.model();
    require_complete(&checkpoint, model)?;
    check_data_fits(dataset, model)?;
    let decoder = Decoder::build(model, &mut |name| checkpoint.tensor(name, compute, device))?;
    let context = ForwardContext::new(model, dataset.sequence_length() as i64, device, &Gates::none())?;
    Ok(Evaluated {
        name: path.display().to_string(),
        parameters: ParameterCount::of(model).total(),
        domains: evaluate(&decoder, &context, rows, micro_batch)?,
    })
}

fn write_references(path: &Path, result: &Evaluated) -> anyhow::Result<()> {
    let losses: Map<String, Value> =
        result.domains.iter().filter_map(|domain| Some((domain.domain.clone(), json!(domain.loss?)))).collect();
    let record = json!({ "model": result.name, "reference_loss": losses, "domains": result.domains });
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    Ok(write_atomic(path, format!("{record:#}\n").as_bytes())?)
}

fn table(results: &[Evaluated]) -> Table {
    let mut table = Table::new(["domain".to_string()].into_iter().chain(results.iter().map(|r| r.name.clone())));
    let domains = results.first().map_or(0, |result| result.domains.len());
    for index in 0..domains {
        let cell = |result: &Evaluated| {
            let domain = &result.domains[index];
            format!("{} ± {}", optional(domain.loss, 4), optional(domain.standard_error, 4))
        };
        let name = results[0].domains[index].domain.clone();
        table.row(std::iter::once(name).chain(results.iter().map(cell)));
    }
    table.row(std::iter::once("mean".to_string()).chain(results.iter().map(|r| optional(mean_loss(&r.domains), 4))));
    let parameters = results.iter().map(|r| crate::cli::table::grouped(r.parameters));
    table.row(std::iter::once("parameters".to_string()).chain(parameters));
    table
}

fn to_json(results: &[Evaluated]) -> Value {
    let model = |result: &Evaluated| {
        json!({
            "model": result.name,
            "parameters": result.parameters,
            "domains": result.domains,
            "mean_loss": mean_loss(&result.domains),
        })
    };
    json!({ "models": results.iter().map(model).collect::<Vec<_>>() })
}
