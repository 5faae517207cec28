//! `shearling export`, and how writing a model folder is shown wherever it happens.

use super::ExitStatus;
use super::finish::finish;
use super::mask_warnings::report_masks;
use super::refusal::Origin;
use super::resumed::refuse_cut_at_once;
use crate::cli::Printer;
use crate::cli::arguments::Export;
use crate::cli::progress::Progress;
use crate::cli::table::estimated;
use crate::config::{self, RunConfig, Stage, Target};
use crate::export::{Job, Observer, Written, open_step};
use crate::files::refuse_taken;
use crate::native::runtime::device;
use crate::prune::{Equivalence, Transfer};
use crate::run_dir::layout::{RESOLVED_CONFIG, mask_file};
use crate::train::saved_run::saved_config;
use crate::train::{Outcome, Setup};
use crate::words::counted;
use anyhow::Context;
use shearling_masks::MaskReport;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `RUN` or `RUN@STEP`.
pub(super) fn split_step(text: &str) -> anyhow::Result<(PathBuf, Option<u64>)> {
    if Path::new(text).is_dir() {
        return Ok((text.into(), None));
    }
    match text.rsplit_once('@') {
        Some((run, step)) => {
            let step = step.parse().with_context(|| format!("{text:?}: after @ a step number is expected"))?;
            Ok((run.into(), Some(step)))
        }
        None => Ok((text.into(), None)),
    }
}

/// `shearling export`
pub fn run(arguments: &Export) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(false);
    let (run, step) = split_step(&arguments.run)?;
    // Before the hashes of a large checkpoint are computed.
    refuse_taken(&arguments.out)?;
    refuse_cut_at_once(&run, "checkpoint to export")?;
    let config = saved_config(&run)?;
    let step = open_step(&run, step)?;
    let stage = match (mask_file(step.path()).is_file(), &config.lte) {
        (true, _) => Stage::Prune,
        (false, Some(_)) => Stage::Lte,
        (false, None) => Stage::Pretrain,
    };
    let target = smaller_target(&config, &arguments.target)?;
    if stage != Stage::Prune && target.is_some() {
        anyhow::bail!("{} has no masks: --target cuts a checkpoint of a prune run", arguments.run);
    }
    let job = Job::from_run(config, stage, arguments.out.clone(), |config| {
        if target.is_some() {
            config.target = target;
        }
        if let Some(dtype) = arguments.dtype {
            config.prune.dtype = Some(dtype.into());
            config.checkpoint.export_dtype = Some(dtype.into());
        }
        config.prune.unproven |= arguments.unproven;
    })?;
    let device = device::parse(&arguments.device)?;
    let written = job.write(&step, device, &mut Shown::new(&run, printer)).map_err(anyhow::Error::from);
    finish(written.map(Some), &Origin::Run(arguments.run.clone().into()), &printer)
}

/// The run's target with the sizes of `--target` in it; `None` without any.
fn smaller_target(saved: &RunConfig, sizes: &[String]) -> anyhow::Result<Option<Target>> {
    if sizes.is_empty() {
        return Ok(None);
    }
    let sets: Vec<String> = sizes.iter().map(|size| format!("target.{size}")).collect();
    let config = config::parse(&config::resolved_toml(saved)?, RESOLVED_CONFIG, &sets);
    Ok(config.context("--target takes KEY=SIZE, as hidden_size=1536")?.target)
}

/// The end of a run: writes its model folder from its last step, and says so in its metrics.
pub(super) fn write_model(
    setup: &Setup,
    outcome: &Outcome,
    out: PathBuf,
    printer: &Printer,
) -> anyhow::Result<Written> {
    let step = open_step(&outcome.run, Some(outcome.step))?;
    let written = Job::of(setup, out)?.write(&step, setup.device, &mut Shown::new(&outcome.run, *printer))?;
    let warnings = written.record(outcome, setup.config.run.tensorboard)?;
    warnings.iter().for_each(|warning| printer.warn(warning));
    Ok(written)
}

/// `prune.method` other than `learned`: no run, the source is cut at once by its scores.
pub(super) fn prune_one_shot(setup: &Setup, out: PathBuf, printer: &Printer) -> anyhow::Result<Written> {
    let mut shown = Shown::new(&setup.config.run.directory, *printer);
    Ok(Job::one_shot(setup, out, &mut shown)?)
}

/// Shows on the terminal what an export does.
struct Shown {
    /// The run, for commands that are named.
    run: PathBuf,
    printer: Printer,
    progress: Progress,
    /// What is being done, and since when.
    pass: Option<(String, Instant)>,
}

impl Shown {
    fn new(run: &Path, printer: Printer) -> Shown {
        Shown { run: run.to_path_buf(), printer, progress: Progress::default(), pass: None }
    }
}

/// Seconds of a pass before which its pace says nothing.
const PACE_SECONDS: f64 = 3.0;

/// `, 12 s left of this pass`, once there is a pace.
fn rest_of_pass(taken: f64, done: usize, of: usize) -> String {
    if taken < PACE_SECONDS || done == 0 || done >= of {
        return String::new();
    }
    format!(", {} left of this pass", estimated(taken / done as f64 * (of - done) as f64))
}

impl Observer for Shown {
    fn masks(&mut self, report: &MaskReport) {
        report_masks(report, &self.run, &self.printer);
        self.printer.note("cutting to the target, then comparing with the masked model in fp64");
    }

    fn rotated(&mut self, share: f64, unrotated: usize, dimensions: i64) {
        std::mem::take(&mut self.progress).finish();
        let stay = match unrotated {
            0 => String::new(),
            some => format!("; {some} of {dimensions} dimensions are not rotated, since embedding and head are tied"),
        };
        let share = 100.0 * share;
        self.printer
            .note(format!("principal basis: the kept dimensions hold {share:.1} % of the residual stream{stay}"));
    }

    fn progress(&mut self, what: &str, done: usize, of: usize) {
        if self.pass.as_ref().is_none_or(|(own, _)| own != what) {
            self.pass = Some((what.to_string(), Instant::now()));
        }
        let taken = self.pass.as_ref().map_or(0.0, |(_, start)| start.elapsed().as_secs_f64());
        self.progress.show(|| format!("{what} {done}/{of}{}", rest_of_pass(taken, done, of)));
    }

    fn degraded(&mut self, rows: i64, before: f64, after: f64) {
        let rows = counted(rows, "held-out row");
        self.printer.note(format!("loss on {rows}: {before:.4} before the cut, {after:.4} after"));
    }

    fn compared(&mut self, transfer: &Transfer, equivalence: &Equivalence) {
        std::mem::take(&mut self.progress).finish();
        self.printer.note(transfer);
        report_equivalence(equivalence, &self.printer);
    }
}

fn report_equivalence(equivalence: &Equivalence, printer: &Printer) {
    if !equivalence.passed() {
        printer.warn(format!("published unproven, as asked: {equivalence}"));
        return;
    }
    printer.note(equivalence);
    printer.note(equivalence.cost());
    if equivalence.rounding.is_costly() {
        let dtype = equivalence.rounding.dtype.name();
        printer.warn(format!(
            "this model loses more than usual by being stored in {dtype}: prune.dtype = \"fp32\" (or export --dtype fp32) \
             keeps its weights as they were trained"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::rest_of_pass;

    #[test]
    fn a_pass_says_what_is_left_once_it_has_a_pace() {
        assert_eq!(rest_of_pass(10.0, 5, 30), ", 50 s left of this pass");
        for nothing in [rest_of_pass(1.0, 5, 30), rest_of_pass(10.0, 0, 30), rest_of_pass(10.0, 30, 30)] {
            assert_eq!(nothing, "");
        }
    }
}
