//! `shearling eval`: Hugging Face folders side by side, by their losses on the held-out rows of every domain and by
//! their answers to multiple-choice questions; and the reference losses of a source.
//!
//! Everything that can be wrong with the arguments, the files and the models is looked at before the first forward, and
//! the problems of all models are told at once.

mod figures;
mod subject;
mod table;

use super::Verdict;
use crate::checkpoint::write_atomic;
use crate::cli::Printer;
use crate::cli::arguments::{Eval, TaskArgument};
use crate::eval::EvalRows;
use crate::eval::multiple_choice::{Answer, Task};
use crate::eval::report::{ModelResult, Report};
use crate::eval::text_bytes::EvaluatedBytes;
use crate::native::device;
use crate::train::setup::kind;
use anyhow::Context;
use serde_json::{Map, Value, json};
use shearling_domains::Dataset;
use std::path::Path;
use subject::{Subject, open_all};
use tch::Device;

/// What every model is asked.
struct Questions {
    dataset: Option<Dataset>,
    rows: Vec<EvalRows>,
    tasks: Vec<Task>,
    micro_batch: usize,
    compute: tch::Kind,
    device: Device,
}

/// `shearling eval`
pub fn run(arguments: &Eval) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    check_outputs(arguments)?;
    let questions = Questions::read(arguments)?;
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
        results.push(subject.evaluate(&questions)?);
    }
    let data = arguments.data.as_ref().map(|path| path.display().to_string());
    let report = Report::new(data.zip(bytes), &questions.tasks, &results);
    write_files(arguments, &questions.tasks, &results, &report, &printer)?;
    printer.data(table::text(&report), || json!(report));
    Ok(Verdict::Done)
}

impl Questions {
    fn read(arguments: &Eval) -> anyhow::Result<Questions> {
        let device = device::parse(&arguments.device)?;
        let dataset = arguments.data.as_ref().map(Dataset::open).transpose()?;
        let rows = dataset.as_ref().map(|dataset| EvalRows::load(dataset, arguments.rows.get(), device)).transpose()?;
        let limit = arguments.limit.map(|limit| limit.get());
        let read = |task: &TaskArgument| Task::read(&task.name, &task.path, task.kind, limit);
        Ok(Questions {
            tasks: arguments.tasks.iter().map(read).collect::<Result<_, _>>()?,
            rows: rows.unwrap_or_default(),
            dataset,
            micro_batch: arguments.micro_batch.get(),
            compute: kind(arguments.dtype.into()),
            device,
        })
    }
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

/// Refuses arguments that would only fail once the work is done.
fn check_outputs(arguments: &Eval) -> anyhow::Result<()> {
    if arguments.write_reference.is_some() && arguments.models.len() != 1 {
        anyhow::bail!("--write-reference takes exactly one model, {} were given", arguments.models.len());
    }
    let outputs = [
        ("--write-reference", &arguments.write_reference),
        ("--csv", &arguments.csv),
        ("--answers", &arguments.answers),
        ("--out", &arguments.out),
    ];
    for (option, path) in outputs {
        if let Some(path) = path.as_ref().filter(|path| path.is_dir()) {
            anyhow::bail!("{option} {}: this is a folder; name a file", path.display());
        }
    }
    let name = |task: &TaskArgument| task.name.clone();
    for (index, task) in arguments.tasks.iter().enumerate() {
        if arguments.tasks[..index].iter().map(name).any(|earlier| earlier == task.name) {
            anyhow::bail!("two tasks are called {:?}; give them names: --task NAME=FILE", task.name);
        }
    }
    Ok(())
}

fn write_files(
    arguments: &Eval,
    tasks: &[Task],
    results: &[ModelResult],
    report: &Report,
    printer: &Printer,
) -> anyhow::Result<()> {
    let mut written = Vec::new();
    if let (Some(path), Some(result)) = (&arguments.write_reference, results.first()) {
        write(path, &format!("{:#}\n", references(result)))?;
        written.push(("reference losses", path));
    }
    if let Some(path) = &arguments.csv {
        write(path, &figures::csv(report).to_string())?;
        written.push(("figures", path));
    }
    if let Some(path) = &arguments.answers {
        write(path, &answer_lines(tasks, results))?;
        written.push(("answers", path));
    }
    if let Some(path) = &arguments.out {
        write(path, &format!("{:#}\n", json!(report)))?;
        written.push(("the JSON object", path));
    }
    for (what, path) in written {
        printer.note(format!("{what} written to {}", path.display()));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    Ok(write_atomic(path, text.as_bytes())?)
}

/// Reference losses, as mixer.reference_file reads them.
fn references(result: &ModelResult) -> Value {
    let domains = result.losses();
    let losses = domains.iter().filter_map(|domain| Some((domain.domain.clone(), json!(domain.loss?))));
    json!({ "model": result.model, "reference_loss": losses.collect::<Map<_, _>>(), "domains": domains })
}

/// Every answer of every model, a line of JSON each.
fn answer_lines(tasks: &[Task], results: &[ModelResult]) -> String {
    let mut text = String::new();
    for (index, task) in tasks.iter().enumerate() {
        for result in results {
            let answers: &[Answer] = result.answers.get(index).map_or(&[], Vec::as_slice);
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
