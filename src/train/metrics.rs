//! `metrics.jsonl`: one JSON object per line and event, written as it happens. Reports are drawn from it; its fields
//! are described in docs/formats/metrics.md.
//!
//! Every line has `type` and `step`. When a run resumes, lines after the step it resumes from are dropped, so the
//! file always tells one history.

use super::Error;
use super::evaluation::EvalReport;
use super::step::StepReport;
use super::trainer::Trainer;
use crate::files::{BoundedLine, BoundedLines, write_atomic};
use crate::native::memory::peak_bytes;
use crate::run_dir::layout::METRICS;
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longer than any line that a run writes: an evaluation names at most a thousand units per list.
pub const LONGEST_LINE_BYTES: u64 = 16 << 20;

/// The metrics file of a run, open for appending.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file of a run folder, keeping lines up to `step` only.
    pub fn open(run: &Path, step: u64) -> Result<MetricsFile, Error> {
        let path = run.join(METRICS);
        if path.exists() {
            truncate_after(&path, step)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|source| Error::Io { action: "open", path: path.clone(), source })?;
        Ok(MetricsFile { path, file })
    }

    /// Opens the file of a run that has ended, to add to it. A last line that was cut is ended first.
    pub fn append_to(run: &Path) -> Result<MetricsFile, Error> {
        let path = run.join(METRICS);
        let open = || {
            let mut file = OpenOptions::new().read(true).append(true).open(&path)?;
            if !ends_a_line(&mut file)? {
                file.write_all(b"\n")?;
            }
            Ok(file)
        };
        let file = open().map_err(|source| Error::Io { action: "open", path: path.clone(), source })?;
        Ok(MetricsFile { path, file })
    }

    /// Appends one line.
    pub fn write(&mut self, record: &Value) -> Result<(), Error> {
        let line = format!("{record}\n");
        self.file.write_all(line.as_bytes()).map_err(|source| Error::Io {
            action: "write to",
            path: self.path.clone(),
            source,
        })
    }
}

fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// A record with `time`: now, in seconds since 1970. Nothing that a run computes depends on it.
pub fn stamped(record: &Value) -> Value {
    let mut record = record.clone();
    if let (Some(fields), Ok(since)) = (record.as_object_mut(), SystemTime::now().duration_since(UNIX_EPOCH)) {
        fields.insert("time".to_string(), json!(since.as_millis() as f64 / 1e3));
    }
    record
}

/// All whole records of a metrics file; a line cut by a crash, wherever in a character, and one that no run writes are
/// left out.
pub fn read(path: &Path) -> Result<Vec<Value>, Error> {
    let failed = |source| Error::Io { action: "read", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut records = Vec::new();
    let mut lines = BoundedLines::new(BufReader::new(file), LONGEST_LINE_BYTES);
    while let Some(line) = lines.next_line().map_err(failed)? {
        let (BoundedLine::Whole(line) | BoundedLine::Unended(line)) = line else { continue };
        records.extend(serde_json::from_slice::<Value>(line));
    }
    Ok(records)
}

fn truncate_after(path: &Path, step: u64) -> Result<(), Error> {
    let mut kept = String::new();
    for record in read(path)? {
        if record["step"].as_u64().is_some_and(|at| at <= step) {
            kept.push_str(&record.to_string());
            kept.push('\n');
        }
    }
    Ok(write_atomic(path, kept.as_bytes())?)
}

/// Time a step took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds of this step.
    pub seconds: f64,
    /// Tokens of this step per second.
    pub tokens_per_second: f64,
}

/// The record of a step.
pub fn step_record(trainer: &Trainer, report: &StepReport, timing: Timing) -> Value {
    let factor = report.learning_rate_factor;
    let mut record = json!({
        "type": "step",
        "step": report.step,
        "tokens": trainer.counters.tokens,
        "loss": {
            "total": report.cross_entropy + report.lagrangian.unwrap_or(0.0),
            "cross_entropy": report.cross_entropy,
            "perplexity": report.cross_entropy.exp(),
            "lagrangian": report.lagrangian,
        },
        "domains": step_domains(trainer, report),
        "learning_rate": { "weights": trainer.weights.learning_rate * factor },
        "gradient_norm": report.norms,
        "clip_scale": report.clip_scale,
        "applied": report.applied,
        "skipped": trainer.counters.skipped,
        "seconds": timing.seconds,
        "tokens_per_second": timing.tokens_per_second,
        "model_flops_per_second": timing.tokens_per_second * trainer.flops_per_token(),
        "peak_memory_bytes": peak_bytes(trainer.device),
    });
    if let Some(masks) = &trainer.masks {
        record["learning_rate"]["masks"] = json!(masks.log_alpha.learning_rate * factor);
        record["learning_rate"]["multipliers"] = json!(masks.multipliers.learning_rate * factor);
        record["constraints"] = json!(report.constraints);
        // The step's own index: the constraint was evaluated before the update.
        record["sparsity"] = json!({
            "expected": report.expected.as_ref().map(|expected| expected.overall_sparsity),
            "target": masks.set.overall_target_sparsity(report.step - 1),
            "expected_parameters": report.expected.as_ref().map(|expected| {
                expected.total_params(trainer.model.vocab_size, trainer.model.tie_word_embeddings)
            }),
        });
    }
    record
}

fn step_domains(trainer: &Trainer, report: &StepReport) -> Value {
    let epochs = trainer.loader.epochs();
    let domains = trainer.domains.iter().enumerate().map(|(index, name)| {
        let step = &report.domains[index];
        let fields = json!({
            "loss": step.loss,
            "rows": step.rows,
            "rows_total": trainer.counters.domain_rows.get(index),
            "epochs": epochs.get(index),
            "rows_left": trainer.rows_left(index),
            "proportion": trainer.proportions()[index],
        });
        (name.clone(), fields)
    });
    Value::Object(domains.collect::<Map<_, _>>())
}

/// The record of an evaluation; `snapshot` is the mask file written with it, relative to the run folder.
pub fn eval_record(trainer: &Trainer, report: &EvalReport, snapshot: Option<&str>) -> Value {
    let references = trainer.references.as_ref();
    let domains = report.domains.iter().enumerate().map(|(index, domain)| {
        let fields = json!({
            "loss": domain.loss,
            "standard_error": domain.standard_error,
            "row_losses": report.row_losses.as_ref().map(|rows| millionths(&rows[index])),
            "perplexity": domain.loss.map(f64::exp),
            "rows": domain.rows,
            "tokens": domain.tokens,
            "reference": references.map(|references| references[index]),
            "excess": report.excess.as_ref().and_then(|excess| excess[index]),
            "proportion": report.proportions[index],
        });
        (domain.domain.clone(), fields)
    });
    json!({
        "type": "eval",
        "step": report.step,
        "tokens": trainer.counters.tokens,
        "gates": report.gates,
        "mean_loss": report.mean,
        "domains": Value::Object(domains.collect::<Map<_, _>>()),
        "mixer_updated": report.mixer_updated,
        "row_sparsity": report.row_sparsity,
        "masks": report.masks,
        "snapshot": snapshot,
    })
}

/// Losses with as many digits as differences of them need: a record stays short.
fn millionths(losses: &[f64]) -> Vec<f64> {
    losses.iter().map(|loss| (loss * 1e6).round() / 1e6).collect()
}

/// Any other event: `start`, `resume`, `save`, `not_saved`, `exhausted`, `skip`, `mixer`, `divergence`, `ended`.
pub fn event(kind: &str, step: u64, fields: Value) -> Value {
    let mut record = json!({ "type": kind, "step": step });
    if let (Value::Object(record), Value::Object(fields)) = (&mut record, fields) {
        record.extend(fields);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_keeps_one_history_and_drops_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(folder.path(), 0).unwrap();
        for step in 1..=5 {
            file.write(&event("step", step, json!({ "x": step }))).unwrap();
        }
        OpenOptions::new()
            .append(true)
            .open(folder.path().join(METRICS))
            .unwrap()
            .write_all(b"{\"type\":\"st")
            .unwrap();
        let mut file = MetricsFile::open(folder.path(), 3).unwrap();
        file.write(&event("resume", 3, json!({}))).unwrap();
        let records = read(&folder.path().join(METRICS)).unwrap();
        let steps: Vec<u64> = records.iter().map(|record| record["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3, 3]);
        assert_eq!(records[3]["type"], "resume");
    }

    #[test]
    fn a_line_that_no_run_writes_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS);
        let long = format!("{{\"step\":1,\"x\":\"{}\"}}", "x".repeat(LONGEST_LINE_BYTES as usize));
        std::fs::write(&path, format!("{{\"step\":1}}\n{long}\n{{\"step\":2}}")).unwrap();
        assert_eq!(read(&path).unwrap(), [json!({ "step": 1 }), json!({ "step": 2 })]);
    }
}
