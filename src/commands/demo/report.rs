//! The demo's last act: losses and speed as files, and one page that shows the runs with them.

use super::Results;
use crate::cli::Printer;
use crate::cli::arguments::{BenchLatency, DtypeArgument, ThreadsArgument};
use crate::commands::bench::latency;
use crate::eval::report::EvalReport as Losses;
use crate::eval::text_bytes::EvaluatedBytes;
use crate::files::write_atomic;
use crate::report::{Report, side_files};
use shearling_domains::Dataset;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

const LATENCY_ROUNDS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// Writes eval.json, latency.json and report.html into the demo's folder; the path of the page.
pub(super) fn write(results: &Results, dataset: &Dataset, device: &str, printer: &Printer) -> anyhow::Result<PathBuf> {
    let folder = &results.recipe.folder;
    let (eval, speed, page) = (folder.join("eval.json"), folder.join("latency.json"), folder.join("report.html"));
    write_atomic(&eval, format!("{:#}\n", serde_json::to_value(losses(results, dataset)?)?).as_bytes())?;
    let models = [results.source.model.as_str(), results.recovered.model.as_str()];
    let measured = latency::measure(&latency_arguments(&models, device), printer)?;
    write_atomic(&speed, format!("{:#}\n", measured.json()).as_bytes())?;
    // The source is left out: its first loss would flatten every curve of the two.
    let runs = ["prune", "recover"].map(|stage| folder.join(stage));
    let mut report = Report::read(&runs, Some("shearling demo".to_string()))?;
    report.eval = Some(side_files::read_eval(&eval)?);
    report.latency = Some(side_files::read_latency(&speed)?);
    write_atomic(&page, report.html().as_bytes())?;
    Ok(page)
}

fn losses(results: &Results, dataset: &Dataset) -> anyhow::Result<Losses> {
    let bytes = EvaluatedBytes::of(dataset, results.recipe.final_rows())?;
    let models = results.models().map(|(_, model)| model.clone());
    Ok(Losses::new(Some((results.recipe.data.display().to_string(), bytes)), &[], &models))
}

/// Tokens per second that the one-shot cut decodes, and that it decodes with the experts of `packed`.
pub(super) fn lte_speeds(one_shot: &Path, packed: &Path, device: &str, printer: &Printer) -> anyhow::Result<[f64; 2]> {
    let models = [one_shot, packed].map(|folder| folder.display().to_string());
    let measured = latency::measure(&latency_arguments(&models.each_ref().map(String::as_str), device), printer)?;
    Ok([0, 1].map(|model| measured.decoded_per_second(model).unwrap_or(f64::NAN)))
}

fn latency_arguments(models: &[&str], device: &str) -> BenchLatency {
    BenchLatency {
        models: models.iter().map(PathBuf::from).collect(),
        shape: Vec::new(),
        prompt_tokens: None,
        new_tokens: None,
        rounds: LATENCY_ROUNDS,
        dtype: Some(DtypeArgument::Fp32),
        device: device.to_string(),
        threads: ThreadsArgument::default(),
        out: None,
        json: false,
    }
}
