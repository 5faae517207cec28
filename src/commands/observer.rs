//! Shows a run of this process on the terminal: one line of progress, a line per evaluation and checkpoint; and turns
//! Ctrl-C, SIGTERM and SIGHUP into a checkpoint and a clean stop. A second signal stops at once.

use crate::cli::Printer;
use crate::cli::interrupt::{self, Listening};
use crate::cli::progress::Progress;
use crate::cli::table::{duration, optional};
use crate::train::evaluation::{EvalGates, EvalReport};
use crate::train::metrics::Timing;
use crate::train::step::StepReport;
use crate::train::{Observer, Trainer};
use crate::words::counted;
use std::path::Path;

/// The observer of the command line.
pub struct TerminalObserver {
    printer: Printer,
    progress: Progress,
    steps: u64,
    label: String,
    tokens_per_second: Option<f64>,
    /// Outside the loop (folding, exporting) there is nothing to save: the checkpoint is whole.
    _listening: Listening,
}

impl TerminalObserver {
    /// Shows a run of `steps`; `label` starts every line.
    pub fn new(printer: Printer, label: impl Into<String>, steps: u64) -> TerminalObserver {
        let answer = "stopping after this step with a checkpoint; press Ctrl-C again to quit now";
        TerminalObserver {
            printer,
            progress: Progress::default(),
            steps,
            label: label.into(),
            tokens_per_second: None,
            _listening: Listening::begin(Some(answer)),
        }
    }

    fn line(&mut self, text: String) {
        self.progress.finish();
        self.printer.note(format!("{} {text}", self.label));
    }
}

impl Observer for TerminalObserver {
    fn started(&mut self, trainer: &Trainer, resumed: bool) {
        let step = trainer.counters.step;
        let action = if resumed { format!("resumes after step {step}") } else { "starts".to_string() };
        self.line(format!("{action}, {} in all", counted(self.steps, "step")));
    }

    fn stepped(&mut self, trainer: &Trainer, report: &StepReport, timing: Timing) {
        // A running mean: single steps of a shared machine jump about.
        let rate =
            self.tokens_per_second.map_or(timing.tokens_per_second, |rate| 0.9 * rate + 0.1 * timing.tokens_per_second);
        self.tokens_per_second = Some(rate);
        let left = (self.steps - report.step.min(self.steps)) as f64 * report.tokens as f64 / rate;
        let (label, steps) = (self.label.clone(), self.steps);
        self.progress.show(|| {
            format!(
                "{label} {}/{steps}  loss {:.4}{}{}{}  {rate:.0} tokens/s  {} left",
                report.step,
                report.cross_entropy,
                report.distillation.map_or(String::new(), |loss| format!(" distillation {loss:.4}")),
                domain_losses(trainer, report),
                constraints(report),
                duration(left)
            )
        });
    }

    fn evaluated(&mut self, trainer: &Trainer, report: &EvalReport) {
        let domains = report.domains.iter().zip(&report.proportions).map(|(domain, share)| {
            let error = domain
                .standard_error
                .filter(|error| error.is_finite())
                .map_or(String::new(), |error| format!("±{error:.3}"));
            format!("{} {}{error} ({:.0} %)", domain.domain, optional(domain.loss, 4), 100.0 * share)
        });
        let domains = domains.collect::<Vec<_>>().join("  ");
        let cut = if report.gates == EvalGates::Target { " cut to target" } else { "" };
        let sparsity = trainer.masks().map_or(String::new(), |masks| {
            let expected = masks.expected_size().map_or(f64::NAN, |size| size.overall_sparsity);
            format!("  sparsity {expected:.3}/{:.3}", masks.overall_target_sparsity(report.step))
        });
        let teacher = report.teacher.map_or(String::new(), |loss| format!("  teacher {loss:.4}"));
        self.line(format!(
            "step {}{cut}: validation {}{teacher}{sparsity}  {domains}",
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

    fn interrupted(&mut self) -> bool {
        interrupt::requested()
    }
}

fn domain_losses(trainer: &Trainer, report: &StepReport) -> String {
    let known = trainer.domain_names().iter().zip(&report.domains);
    let losses = known.filter_map(|(name, domain)| Some(format!("{name} {:.3}", domain.loss?)));
    let losses = losses.collect::<Vec<_>>().join(" ");
    if losses.is_empty() { losses } else { format!(" [{losses}]") }
}

fn constraints(report: &StepReport) -> String {
    let module = |c: &shearling_masks::ModuleConstraint| {
        format!("{} {:.2}/{:.2}", c.module, c.expected_sparsity, c.target_sparsity)
    };
    let text = report.constraints.iter().map(module).collect::<Vec<_>>().join(" ");
    if text.is_empty() { text } else { format!("  sparsity {text}") }
}
