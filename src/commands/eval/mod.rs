//! `shearling eval`: Hugging Face folders side by side, by their losses on the held-out rows of every domain and by
//! their answers to multiple-choice questions; and the reference losses of a source.
//!
//! Everything that can be wrong with the arguments, the files and the models is looked at before the first forward, and
//! the problems of all models are told at once.

mod figures;
mod questions;
mod subject;
mod table;

use super::ExitStatus;
use super::beside::plain;
use super::output_file::OutputFile;
use super::place::slow_bf16;
use crate::cli::Printer;
use crate::cli::arguments::{Eval, TaskArgument};
use crate::eval::EvalRows;
use crate::eval::multiple_choice::{ScoredQuestion, Task};
use crate::eval::report::{EvalReport, ModelResult};
use crate::eval::statistics::few_rows_said;
use crate::eval::text_bytes::EvaluatedBytes;
use crate::model::Decoder;
use crate::train::references::few_rows;
use questions::Questions;
use serde_json::{Map, Value, json};
use shearling_domains::Dataset;
use std::path::Path;
use subject::{Subject, open_all};
use tch::Device;

/// `shearling eval`
pub fn run(arguments: &Eval) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    check_arguments(arguments)?;
    let outputs = Outputs::check(arguments)?;
    let questions = Questions::read(arguments)?;
    slow_bf16(questions.compute, questions.device).into_iter().for_each(|slow| printer.warn(slow));
    let bytes = questions.dataset.as_ref().map(|dataset| EvaluatedBytes::of(dataset, arguments.rows.get()));
    let bytes = bytes.transpose()?;
    if bytes.as_ref().is_some_and(|bytes| !bytes.counted) {
        printer.warn("the data's tokenizer does not tell the bytes behind its tokens: bits per byte are estimates");
    }
    let subjects = open_all(&arguments.models, questions.dataset.as_ref(), !questions.tasks.is_empty())?;
    subjects
        .iter()
        .filter_map(|subject| subject.warning(questions.dataset.as_ref()))
        .for_each(|warning| printer.warn(warning));
    let mut results = Vec::new();
    for subject in subjects {
        printer.note(format!("evaluating {}", subject.name()));
        subject.note().into_iter().for_each(|note| printer.note(note));
        let result = subject.evaluate(&questions)?;
        if let Some(problem) = losses_not_finite(&result, questions.compute) {
            printer.warn(problem);
        }
        results.push(result);
    }
    let data = arguments.data.as_ref().map(|path| path.display().to_string());
    let report = EvalReport::new(data.zip(bytes), &questions.tasks, &results);
    let fingerprint = questions.dataset.as_ref().map(Dataset::fingerprint);
    let written = outputs.write(fingerprint, &questions.tasks, &results, &report, &printer);
    doubt(&results, outputs.reference.is_some()).into_iter().for_each(|warning| printer.warn(warning));
    printer.data(table::text(&report), || json!(report));
    written?;
    Ok(ExitStatus::Done)
}

/// What to say of losses that are from few rows: that they are too noisy to be references, if that is what they are for, else
/// that their errors are not to be trusted. All models have the same rows.
fn doubt(results: &[ModelResult], references: bool) -> Option<String> {
    let losses = results.first()?.losses();
    let noisy = references.then(|| few_rows(&losses)).flatten();
    noisy.or_else(|| Some(format!("{} (eval --rows)", few_rows_said(losses.iter().map(|domain| domain.rows as u64))?)))
}

/// Loads a folder and evaluates it on rows alone.
pub fn evaluate_folder(
    path: &Path,
    dataset: &Dataset,
    rows: &[EvalRows],
    micro_batch: usize,
    compute: tch::Kind,
    device: Device,
) -> anyhow::Result<ModelResult> {
    let subject = Subject::open(path, Some(dataset), false)?;
    let decoder = subject.decoder(compute, device)?;
    let domains = subject.row_losses(&decoder, dataset, rows, micro_batch, device)?;
    Ok(ModelResult {
        model: subject.name().to_string(),
        parameters: subject.parameters(),
        domains,
        answers: Vec::new(),
    })
}

/// A model in memory.
pub(super) struct LoadedModel {
    /// Dense, as its weights are.
    pub(super) decoder: Decoder,
}

/// Loads a folder that goes with `dataset`, without its routers.
pub(super) fn load_model(
    path: &Path,
    dataset: &Dataset,
    compute: tch::Kind,
    device: Device,
) -> anyhow::Result<LoadedModel> {
    let subject = Subject::open(path, Some(dataset), false)?;
    Ok(LoadedModel { decoder: subject.dense_decoder(compute, device)? })
}

/// Refuses arguments that would only fail once the work is done.
fn check_arguments(arguments: &Eval) -> anyhow::Result<()> {
    if arguments.write_reference.is_some() && arguments.models.len() != 1 {
        anyhow::bail!("--write-reference takes exactly one model, {} were given", arguments.models.len());
    }
    let name = |task: &TaskArgument| task.name.clone();
    for (index, task) in arguments.tasks.iter().enumerate() {
        if arguments.tasks[..index].iter().map(name).any(|earlier| earlier == task.name) {
            anyhow::bail!("two tasks are called {:?}; give them names: --task NAME=FILE", task.name);
        }
    }
    Ok(())
}

/// The files that were asked for.
struct Outputs<'a> {
    reference: Option<OutputFile<'a>>,
    csv: Option<OutputFile<'a>>,
    answers: Option<OutputFile<'a>>,
    out: Option<OutputFile<'a>>,
}

impl Outputs<'_> {
    fn check(arguments: &Eval) -> anyhow::Result<Outputs<'_>> {
        let named = [
            ("--write-reference", &arguments.write_reference),
            ("--csv", &arguments.csv),
            ("--answers", &arguments.answers),
            ("--out", &arguments.out),
        ];
        let named: Vec<_> = named.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?))).collect();
        for (index, (option, path)) in named.iter().enumerate() {
            if let Some((earlier, _)) = named[..index].iter().find(|(_, other)| plain(other) == plain(path)) {
                anyhow::bail!("{earlier} and {option} both name {}; name two files", path.display());
            }
        }
        Ok(Outputs {
            reference: OutputFile::check_optional("--write-reference", arguments.write_reference.as_deref())?,
            csv: OutputFile::check_optional("--csv", arguments.csv.as_deref())?,
            answers: OutputFile::check_optional("--answers", arguments.answers.as_deref())?,
            out: OutputFile::check_optional("--out", arguments.out.as_deref())?,
        })
    }

    /// Writes all of them that can be written; the first error of the others.
    fn write(
        &self,
        data_fingerprint: Option<&str>,
        tasks: &[Task],
        results: &[ModelResult],
        report: &EvalReport,
        printer: &Printer,
    ) -> anyhow::Result<()> {
        let losses = |result: &ModelResult| finite_references(result, data_fingerprint);
        let reference = self.reference.zip(results.first()).map(|(file, result)| match losses(result) {
            Some(references) => file.write("reference losses", &format!("{references:#}\n"), printer),
            None => Err(anyhow::anyhow!(
                "--write-reference: not written: a loss of {} is not finite, and a mixer has no use for that",
                result.model
            )),
        });
        let csv = self.csv.map(|file| file.write("figures", &figures::csv(report).to_string(), printer));
        let answers = self.answers.map(|file| file.write("answers", &answer_lines(tasks, results), printer));
        let out = self.out.map(|file| file.write("the JSON object", &format!("{:#}\n", json!(report)), printer));
        [reference, csv, answers, out].into_iter().flatten().collect()
    }
}

/// Reference losses, as mixer.reference_file reads them, with the data whose rows they are of; `None` unless all of them are finite.
fn finite_references(result: &ModelResult, data_fingerprint: Option<&str>) -> Option<Value> {
    let domains = result.losses();
    let losses = domains.iter().filter_map(|domain| Some((domain.domain.clone(), domain.loss?)));
    let losses: Vec<(String, f64)> = losses.collect();
    let finite = losses.iter().all(|(_, loss)| loss.is_finite());
    let losses: Map<String, Value> = losses.into_iter().map(|(domain, loss)| (domain, json!(loss))).collect();
    let data = data_fingerprint.map(String::from);
    finite.then(
        || json!({ "model": result.model, "data_fingerprint": data, "reference_loss": losses, "domains": domains }),
    )
}

/// What to say of a model whose losses are no numbers although its weights are.
fn losses_not_finite(result: &ModelResult, compute: tch::Kind) -> Option<String> {
    let domains = result.losses();
    let damaged = domains.iter().filter(|domain| domain.loss.is_some_and(|loss| !loss.is_finite()));
    let damaged: Vec<&str> = damaged.map(|domain| domain.domain.as_str()).collect();
    let (first, others) = (damaged.first()?, damaged.len() - 1);
    let more = match others {
        0 => String::new(),
        1 => " and 1 other domain".to_string(),
        _ => format!(" and {others} other domains"),
    };
    let advice = match compute {
        tch::Kind::Half => "float16 holds nothing above 65,504: evaluate with --dtype bf16 or fp32",
        tch::Kind::BFloat16 => "evaluate with --dtype fp32; if that gives none either, the model itself is broken",
        _ => "its weights are finite, so an activation overflows: the model itself is broken",
    };
    Some(format!("{}: the loss on {first}{more} is not finite; {advice}", result.model))
}

/// Every answer of every model, a line of JSON each.
fn answer_lines(tasks: &[Task], results: &[ModelResult]) -> String {
    let mut text = String::new();
    for (index, task) in tasks.iter().enumerate() {
        for result in results {
            let answers: &[ScoredQuestion] = result.answers.get(index).map_or(&[], Vec::as_slice);
            for (question, answer) in task.questions.iter().zip(answers) {
                let line = json!({
                    "task": task.name, "model": result.model, "line": question.line, "label": question.label,
                    "log_likelihoods": answer.log_likelihoods, "acc": answer.acc, "acc_norm": answer.acc_norm,
                });
                text.push_str(&format!("{line}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::RowLosses;

    #[test]
    fn few_rows_are_told_once() {
        let result = |rows: &[f64]| ModelResult {
            model: "m".to_string(),
            parameters: 7,
            domains: vec![RowLosses { domain: "wiki".to_string(), rows: rows.to_vec(), targets_per_row: 10 }],
            answers: Vec::new(),
        };
        let two = [result(&[1.0, 3.0])];
        assert!(doubt(&two, false).unwrap().contains("from 2 rows of a domain"));
        assert!(doubt(&two, true).unwrap().starts_with("noisy reference losses: wiki"), "the more telling of both");
        assert_eq!(doubt(&[result(&[1.0; 8])], false), None);
        assert_eq!(doubt(&[], false), None);
    }
}
