//! Shows a run of this process on the terminal: one line of progress, a line per evaluation and checkpoint; and turns
//! Ctrl-C, SIGTERM and SIGHUP into a checkpoint and a clean stop. A second signal stops at once.

use crate::cli::Printer;
use crate::cli::interrupt::{self, Listening};
use crate::cli::progress::Progress;
use crate::cli::table::{duration, optional};
use crate::commands::domain_line::{DomainLine, SHOWN, is_shortened, step_losses};
use crate::config::RunConfig;
use crate::inspect::Evaluated;
use crate::train::decide::Intervals;
use crate::train::evaluation::{EvalGates, EvalReport};
use crate::train::metrics::Timing;
use crate::train::step::StepReport;
use crate::train::{Observer, Trainer};
use crate::words::counted;
use std::path::{Path, PathBuf};

/// The observer of the command line.
pub struct TerminalObserver {
    printer: Printer,
    progress: Progress,
    run: PathBuf,
    intervals: Intervals,
    steps: u64,
    label: String,
    tokens_per_second: Option<f64>,
    /// Mean validation loss of the first and of the last evaluation.
    losses: Option<[f64; 2]>,
    /// How long the last evaluation took.
    evaluation_seconds: f64,
    domains: DomainLine,
    /// Outside the loop (measuring the source, folding, exporting) there is nothing to save, and a signal ends the program at once.
    listening: Option<Listening>,
}

impl TerminalObserver {
    /// Shows a run of `config`; `label` starts every line.
    pub fn new(printer: Printer, label: impl Into<String>, config: &RunConfig) -> TerminalObserver {
        TerminalObserver {
            printer,
            progress: Progress::default(),
            run: config.run.directory.clone(),
            intervals: Intervals::new(config, None),
            steps: config.train.steps,
            label: label.into(),
            tokens_per_second: None,
            losses: None,
            evaluation_seconds: 0.0,
            domains: DomainLine::default(),
            listening: None,
        }
    }

    /// What the run did to the validation loss, in a line; none without two evaluations.
    pub fn result(&self) -> Option<String> {
        let [first, last] = self.losses.filter(|[first, last]| first != last)?;
        Some(format!("validation loss {first:.4} → {last:.4}, mean over the domains"))
    }

    fn line(&mut self, text: String) {
        self.progress.finish();
        self.printer.note(format!("{} {text}", self.label));
    }
}

impl Observer for TerminalObserver {
    fn measuring(&mut self, what: &str, done: usize, of: usize) {
        let label = &self.label;
        self.progress.show(|| format!("{label}: {what} {done}/{of}"));
    }

    fn started(&mut self, trainer: &Trainer, resumed: bool) {
        self.listening = Some(Listening::begin(Some(
            "stopping; a checkpoint is written if any step is done. Press Ctrl-C again to quit now",
        )));
        let step = trainer.counters.step;
        if let Some(before) = Evaluated::read(&self.run).filter(|_| resumed) {
            self.losses = Some([before.first_loss, before.first_loss]);
            self.evaluation_seconds = before.seconds.unwrap_or(0.0);
        }
        let action = if resumed { format!("resumes after step {step}") } else { "starts".to_string() };
        self.line(format!("{action}, {} in all", counted(self.steps, "step")));
        let domains = trainer.domain_names().len();
        if is_shortened(domains) {
            let run = self.run.display().to_string();
            self.line(format!("each evaluation is a line with {SHOWN} of the {domains} domains: loss±standard error (share of the mix). All of them: shearling inspect run {run}"));
        }
    }

    fn stepped(&mut self, trainer: &Trainer, report: &StepReport, timing: Timing) {
        // A running mean: single steps of a shared machine jump about.
        let rate =
            self.tokens_per_second.map_or(timing.tokens_per_second, |rate| 0.9 * rate + 0.1 * timing.tokens_per_second);
        self.tokens_per_second = Some(rate);
        let (label, steps, intervals, evaluation) =
            (self.label.clone(), self.steps, self.intervals, self.evaluation_seconds);
        self.progress.show_within(|width| {
            // That of this very step is still to come.
            let evaluations = intervals.evaluations_after(report.step.saturating_sub(1), trainer.masks().is_some());
            let left = steps.saturating_sub(report.step) as f64 * report.tokens as f64 / rate
                + evaluations as f64 * evaluation;
            // What matters first: on a narrow terminal the last ones find no room.
            let parts = [
                Some(format!("{label} {}/{steps}", report.step)),
                Some(format!("loss {:.4}", report.cross_entropy)),
                report.distillation.map(|loss| format!("distillation {loss:.4}")),
                Some(format!("{rate:.0} tokens/s in recent steps")),
                Some(format!("{} left", duration(left))),
                constraints(report),
                density(report),
            ];
            let line = whole_parts(parts.into_iter().flatten(), width);
            let room = width.saturating_sub(line.chars().count() + BETWEEN.len());
            [line, domain_losses(trainer, report, room)].join(BETWEEN).trim_end().to_string()
        });
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        let (label, what) = (&self.label, if what == "model" { String::new() } else { format!(" ({what})") });
        if done == 0 {
            self.progress.hold();
        }
        self.progress.show(|| format!("{label}: evaluating{what}, {done} of {of} rows"));
    }

    fn evaluated(&mut self, trainer: &Trainer, report: &EvalReport) {
        self.evaluation_seconds = report.seconds.unwrap_or(self.evaluation_seconds);
        if let Some(mean) = report.mean.filter(|_| report.gates != EvalGates::Soft) {
            self.losses = Some([self.losses.map_or(mean, |[first, _]| first), mean]);
        }
        let domains = self.domains.of(report);
        let cut = match report.gates {
            EvalGates::Target => " cut to target",
            EvalGates::Soft => " experts times scores",
            _ => "",
        };
        let sparsity = trainer.masks().map_or(String::new(), |masks| {
            let expected = masks.expected_size().map_or(f64::NAN, |size| size.overall_sparsity);
            format!("  sparsity {expected:.3}/{:.3}", masks.overall_target_sparsity(report.step))
        });
        let density = report.experts.as_ref();
        let density = density.map_or(String::new(), |found| format!("  density {:.1} %", 100.0 * found.mean));
        let teacher = report.teacher.map_or(String::new(), |loss| format!("  teacher {loss:.4}"));
        self.line(format!(
            "step {}{cut}: validation {}{teacher}{sparsity}{density}  {domains}",
            report.step,
            optional(report.mean, 4)
        ));
    }

    fn saved(&mut self, step: u64, path: &Path) {
        self.line(format!("step {step}: checkpoint {}", path.display()));
    }

    fn noted(&mut self, message: &str) {
        self.progress.finish();
        self.printer.warn(message);
    }

    fn remarked(&mut self, message: &str) {
        self.line(message.to_string());
    }

    fn interrupted(&mut self) -> bool {
        interrupt::requested()
    }
}

/// Stands between the parts of a line.
const BETWEEN: &str = "  ";

/// Those of the parts that find room on a line of so many characters, none of them cut; the first is there anyway.
fn whole_parts(parts: impl Iterator<Item = String>, width: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let length = line.chars().count() + BETWEEN.len() + part.chars().count();
        if line.is_empty() {
            line = part;
        } else if length <= width {
            line.push_str(BETWEEN);
            line.push_str(&part);
        }
    }
    line
}

fn domain_losses(trainer: &Trainer, report: &StepReport, room: usize) -> String {
    let known = trainer.domain_names().iter().zip(&report.domains);
    let losses: Vec<(&str, f64)> = known.filter_map(|(name, domain)| Some((name.as_str(), domain.loss?))).collect();
    step_losses(&losses, room)
}

/// The sparsity of each mask and its target; of more than two the one that is furthest from it.
fn constraints(report: &StepReport) -> Option<String> {
    let module = |c: &shearling_masks::ModuleConstraint| {
        format!("{} {:.2}/{:.2}", c.module, c.expected_sparsity, c.target_sparsity)
    };
    let all = &report.constraints;
    let furthest = all.iter().max_by(|a, b| a.violation.abs().total_cmp(&b.violation.abs()));
    match (all.len(), furthest) {
        (3.., Some(furthest)) => Some(format!("sparsity {} +{} more", module(furthest), all.len() - 1)),
        (0, _) => None,
        _ => Some(format!("sparsity {}", all.iter().map(module).collect::<Vec<_>>().join(" "))),
    }
}

/// The share of units that run, and the one asked for.
fn density(report: &StepReport) -> Option<String> {
    let routers = report.routers?;
    let target = routers.target.map_or(String::new(), |target| format!("/{target:.3}"));
    Some(format!("density {:.3}{target}", routers.density))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_line_has_fewer_parts_and_none_of_them_is_cut() {
        let parts = || ["prune 1/9", "loss 4.0000", "1234 tokens/s", "9 s left"].map(String::from).into_iter();
        assert_eq!(whole_parts(parts(), usize::MAX), "prune 1/9  loss 4.0000  1234 tokens/s  9 s left");
        assert_eq!(whole_parts(parts(), 34), "prune 1/9  loss 4.0000  9 s left");
        assert_eq!(whole_parts(parts(), 3), "prune 1/9");
    }
}
