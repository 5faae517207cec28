//! `metrics.jsonl`: one JSON object per line and event, written as it happens; and what a step and an evaluation put into
//! theirs ([`record`](crate::run_dir::record) has the names). Reports are drawn from it.
//!
//! Every line has `type` and `step`. When a run resumes, lines after the step it resumes from are dropped, so the
//! file always tells one history.

use super::Error;
use super::evaluation::EvalReport;
use super::optimizer::Group;
use super::routers::RouterStep;
use super::step::StepReport;
use super::trainer::{MaskTraining, Trainer};
use crate::files::{BoundedLine, BoundedLines, write_atomic};
use crate::lte::meter::Densities;
use crate::run_dir::layout::METRICS;
use crate::run_dir::record::{
    Constraint, DomainEval, DomainStep, Eval, ExpertState, GradientNorm, LONGEST_LINE_BYTES, LearningRate, MaskState,
    ModuleMasks, Named, Record, Routers, Sparsity, Step, StepLoss, Unit, Units, What,
};
use serde_json::Value;
use shearling_masks::{ExpectedSize, MaskReport, ModuleConstraint, UnitList, UnitValue};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The metrics file of a run, open for appending.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file of a run folder, keeping lines up to `step` only.
    pub fn open(run: &Path, step: u64) -> Result<MetricsFile, Error> {
        MetricsFile::open_with(run, |records| {
            records.retain(|record| Record::from(record).step.is_some_and(|at| at <= step));
        })
    }

    /// The same for a step whose checkpoint was written before its evaluation: of the lines after that checkpoint only
    /// `save` and `resume` stay.
    pub fn open_before_evaluation(run: &Path, step: u64) -> Result<MetricsFile, Error> {
        MetricsFile::open_with(run, |records| {
            let mut saved = false;
            records.retain(|record| {
                let record = Record::from(record);
                let keeps = match record.step {
                    Some(at) if at == step && saved => matches!(record.what, What::Save(_) | What::Resume(_)),
                    Some(at) => at <= step,
                    None => false,
                };
                saved |= record.step == Some(step) && matches!(record.what, What::Save(_));
                keeps
            });
        })
    }

    /// Lines that stay are as they were, with whatever this version does not know.
    fn open_with(run: &Path, drop_outdated: impl FnOnce(&mut Vec<Value>)) -> Result<MetricsFile, Error> {
        let path = run.join(METRICS);
        if path.exists() {
            let mut records = read(&path)?;
            drop_outdated(&mut records);
            let kept: String = records.iter().map(|record| format!("{record}\n")).collect();
            write_atomic(&path, kept.as_bytes())?;
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
    pub fn write(&mut self, record: &Record) -> Result<(), Error> {
        let line = format!("{}\n", record.to_json());
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

/// The same, typed.
pub fn records(path: &Path) -> Result<Vec<Record>, Error> {
    Ok(read(path)?.iter().map(Record::from).collect())
}

/// What a step took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds of this step.
    pub seconds: f64,
    /// Tokens of this step per second.
    pub tokens_per_second: f64,
    /// Peak memory of the run so far, without what the process had before the model; where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// The record of a step.
pub fn step_record(trainer: &Trainer, report: &StepReport, timing: Timing) -> Record {
    let factor = report.learning_rate_factor;
    let masks = trainer.masks.as_ref();
    let rate = |group: Option<&Group>| group.map(|group| group.learning_rate * factor);
    let step = Step {
        tokens: Some(trainer.counters.tokens),
        loss: StepLoss {
            total: Some(report.token_loss + report.lagrangian.unwrap_or(0.0)),
            cross_entropy: Some(report.cross_entropy),
            perplexity: Some(report.cross_entropy.exp()),
            distillation: report.distillation,
            lagrangian: report.lagrangian,
        },
        domains: step_domains(trainer, report),
        learning_rate: LearningRate {
            weights: rate(Some(&trainer.weights.group)),
            masks: rate(masks.map(|masks| &masks.log_alpha)),
            multipliers: rate(masks.map(|masks| &masks.multipliers)),
            routers: router_rate(trainer, report, factor),
        },
        gradient_norm: GradientNorm {
            total: Some(report.norms.total),
            weights: Some(report.norms.weights),
            masks: report.norms.masks,
            multipliers: report.norms.multipliers,
            routers: report.norms.routers,
        },
        clip_scale: Some(report.clip_scale),
        applied: Some(report.applied),
        skipped: Some(trainer.counters.skipped),
        seconds: Some(timing.seconds),
        tokens_per_second: Some(timing.tokens_per_second),
        model_flops_per_second: Some(timing.tokens_per_second * trainer.flops_per_token()),
        peak_memory_bytes: timing.peak_memory_bytes,
        constraints: masks.map(|_| report.constraints.iter().map(constraint).collect()),
        sparsity: masks.map(|masks| sparsity(trainer, report, masks)),
        routers: report.routers.map(routers),
    };
    Record::new(report.step, What::Step(Box::new(step)))
}

fn routers(step: RouterStep) -> Routers {
    let stage = if step.trains { 1 } else { 2 };
    let (density, near) = (Some(step.density), Some(step.near_threshold));
    Routers { density, target: step.target, near_threshold: near, stage: Some(stage) }
}

fn router_rate(trainer: &Trainer, report: &StepReport, factor: f64) -> Option<f64> {
    let (routers, step) = trainer.routers.as_ref().zip(report.routers)?;
    Some(if step.trains { routers.group.learning_rate * factor } else { 0.0 })
}

fn experts(found: &Densities) -> ExpertState {
    let known = |value: &f64| Some(*value);
    ExpertState {
        density: Some(found.mean),
        layers: found.layers.iter().map(|(layer, density)| (layer.to_string(), known(density))).collect(),
        domains: found.domains.iter().map(|(name, density)| (name.clone(), known(density))).collect(),
        near_threshold: Some(found.near_threshold),
        always_on: Some(found.always_on),
        always_off: Some(found.always_off),
        unions: found.unions.iter().map(|(rows, density)| (rows.to_string(), known(density))).collect(),
    }
}

fn sparsity(trainer: &Trainer, report: &StepReport, masks: &MaskTraining) -> Sparsity {
    let expected = report.expected.as_ref();
    let parameters = |size: &ExpectedSize| {
        size.total_params(trainer.model_config.vocab_size, trainer.model_config.tie_word_embeddings)
    };
    Sparsity {
        expected: expected.map(|expected| expected.overall_sparsity),
        // The step's own index: the constraint was evaluated before the update.
        target: Some(masks.set.overall_target_sparsity(report.step - 1)),
        expected_parameters: expected.map(parameters),
    }
}

fn constraint(module: &ModuleConstraint) -> Constraint {
    Constraint {
        module: Some(module.module.to_string()),
        expected_sparsity: Some(module.expected_sparsity),
        target_sparsity: Some(module.target_sparsity),
        violation: Some(module.violation),
        worst_row_violation: Some(module.worst_row_violation),
        lambda_1: Some(module.lambda_1),
        lambda_2: Some(module.lambda_2),
        loss: Some(module.loss),
    }
}

fn step_domains(trainer: &Trainer, report: &StepReport) -> Named<DomainStep> {
    let epochs = trainer.loader.epochs();
    let domains = trainer.domains.iter().enumerate().map(|(index, name)| {
        let step = &report.domains[index];
        let fields = DomainStep {
            loss: step.loss,
            rows: Some(step.rows as u64),
            rows_total: trainer.counters.domain_rows.get(index).copied(),
            epochs: epochs.get(index).copied(),
            rows_left: Some(trainer.rows_left(index)),
            proportion: Some(trainer.proportions()[index]),
        };
        (name.clone(), fields)
    });
    domains.collect()
}

/// The record of an evaluation; `snapshot` is the mask file written with it, relative to the run folder.
pub fn eval_record(trainer: &Trainer, report: &EvalReport, snapshot: Option<&str>) -> Record {
    let references = trainer.references.as_ref();
    let domains = report.domains.iter().enumerate().map(|(index, domain)| {
        let fields = DomainEval {
            loss: domain.loss,
            standard_error: domain.standard_error,
            row_losses: report.row_losses.as_ref().map(|rows| millionths(&rows[index])),
            perplexity: domain.loss.map(f64::exp),
            rows: Some(domain.rows as u64),
            tokens: Some(domain.tokens as u64),
            reference: references.map(|references| references[index]),
            excess: report.excess.as_ref().and_then(|excess| excess[index]),
            proportion: Some(report.proportions[index]),
        };
        (domain.domain.clone(), fields)
    });
    let rows = |rows: &Vec<f64>| rows.iter().copied().map(Some).collect();
    let eval = Eval {
        tokens: Some(trainer.counters.tokens),
        seconds: report.seconds,
        gates: Some(report.gates.name().to_string()),
        mean_loss: report.mean,
        teacher_loss: report.teacher,
        domains: domains.collect(),
        mixer_updated: Some(report.mixer_updated),
        row_sparsity: report.row_sparsity.iter().map(|(module, found)| (module.clone(), rows(found))).collect(),
        masks: report.masks.as_ref().map(mask_state),
        experts: report.experts.as_ref().map(experts),
        snapshot: snapshot.map(String::from),
    };
    Record::new(report.step, What::Eval(Box::new(eval)))
}

fn mask_state(report: &MaskReport) -> MaskState {
    let unit = |unit: &UnitValue| Unit { name: Some(unit.name.clone()), value: Some(unit.value) };
    let units = |list: &UnitList| Units { count: Some(list.count), worst: list.worst.iter().map(unit).collect() };
    let positive = |count: i64| count.max(0) as u64;
    let modules = report.modules.iter().map(|module| ModuleMasks {
        module: Some(module.module.to_string()),
        rows: Some(positive(module.rows)),
        size: Some(positive(module.size)),
        target: Some(positive(module.target)),
        survivors: Some(module.survivors.clone()),
        undecided: Some(module.undecided.iter().copied().map(positive).collect()),
        kept: Some(module.kept),
        half_alive: units(&module.half_alive),
        still_open: units(&module.still_open),
        expected_sparsity: Some(module.expected_sparsity),
        target_sparsity: Some(module.target_sparsity),
        histogram: Some(module.histogram.to_vec()),
    });
    MaskState { modules: modules.collect(), removed_layers: report.removed_layers.iter().map(unit).collect() }
}

/// Losses with as many digits as differences of them need: a record stays short.
fn millionths(losses: &[f64]) -> Vec<Option<f64>> {
    losses.iter().map(|loss| Some((loss * 1e6).round() / 1e6)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(step: u64) -> Record {
        Record::from(json!({ "type": "step", "step": step, "x": step }))
    }

    #[test]
    fn reopening_keeps_one_history_and_drops_a_cut_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(folder.path(), 0).unwrap();
        for step in 1..=5 {
            file.write(&at(step)).unwrap();
        }
        OpenOptions::new()
            .append(true)
            .open(folder.path().join(METRICS))
            .unwrap()
            .write_all(b"{\"type\":\"st")
            .unwrap();
        let mut file = MetricsFile::open(folder.path(), 3).unwrap();
        file.write(&Record::from(json!({ "type": "resume", "step": 3 }))).unwrap();
        let records = read(&folder.path().join(METRICS)).unwrap();
        let steps: Vec<u64> = records.iter().map(|record| record["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2, 3, 3]);
        assert_eq!(records[3]["type"], "resume");
    }

    #[test]
    fn an_evaluation_that_will_be_made_again_is_dropped_and_the_lines_before_its_checkpoint_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(folder.path(), 0).unwrap();
        let lines = [("step", 3), ("eval", 3), ("save", 3), ("resume", 3), ("eval", 3), ("mixer", 3), ("step", 4)];
        for (kind, step) in lines {
            file.write(&Record::from(json!({ "type": kind, "step": step }))).unwrap();
        }
        MetricsFile::open_before_evaluation(folder.path(), 3).unwrap();
        let records = read(&folder.path().join(METRICS)).unwrap();
        let kinds: Vec<&str> = records.iter().map(|record| record["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["step", "eval", "save", "resume"]);
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
