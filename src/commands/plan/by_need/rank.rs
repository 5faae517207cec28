//! `--rank N`: the first proposals tried instead of argued: each is cut at once, trained for a short while with the source as
//! its teacher, and ordered by what it then loses on held-out rows. The folders of the trials are removed.
//!
//! ```text
//! proposals ─► [target] ─► cut at once ─► a short distilled run ─► held-out loss ─► order
//! ```

use super::target::target_table;
use crate::cli::Printer;
use crate::cli::table::{Table, duration, grouped};
use crate::commands::execute::execute;
use crate::commands::init::budget::{Budget, Stages};
use crate::commands::shapes::Proposal;
use crate::config::{Prune, RunConfig, Stage, parse};
use crate::files::Staging;
use crate::hf::ModelConfig;
use crate::inspect::RunHistory;
use crate::prune::shape::resized;
use crate::run_dir::layout::PRUNED;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use shearling_domains::Dataset;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Share of the teacher in the loss of a trial: what was measured best.
const TEACHER: f64 = 0.5;
/// Held-out rows of a domain that a trial is judged on.
const ROWS: usize = 16;

/// What is asked for.
pub(super) struct Ranking<'a> {
    /// The source.
    pub(super) source: &'a Path,
    pub(super) model: &'a ModelConfig,
    /// Prepared data.
    pub(super) data: &'a Path,
    /// How many proposals.
    pub(super) count: usize,
    /// Tokens that each is trained on.
    pub(super) tokens: u64,
}

/// A proposal that was tried.
pub(super) struct Trial {
    /// Its row among the proposals, from 0.
    pub(super) row: usize,
    why: String,
    /// Held-out loss right after the cut, mean over the domains.
    cut: f64,
    /// After training.
    pub(super) loss: f64,
    seconds: f64,
}

impl Ranking<'_> {
    /// Tries the first proposals; the best comes first.
    pub(super) fn run(&self, proposals: &[Proposal], printer: &Printer) -> anyhow::Result<Vec<Trial>> {
        if !self.source.is_dir() {
            bail!("--rank cuts and trains: give the model's folder with its weights, not {}", self.source.display());
        }
        Dataset::open(self.data)?;
        let scratch = Staging::new(&std::env::temp_dir().join("shearling-rank"))
            .context("--rank needs a folder for its trials in the temporary folder (TMPDIR)")?;
        let count = self.count.min(proposals.len());
        let mut trials = Vec::new();
        for (row, proposal) in proposals.iter().enumerate().take(count) {
            printer.note(format!("trial {} of {count}: {}", row + 1, proposal.why));
            trials.push(self.trial(row, proposal, scratch.path(), printer)?);
        }
        trials.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        Ok(trials)
    }

    fn trial(&self, row: usize, proposal: &Proposal, scratch: &Path, printer: &Printer) -> anyhow::Result<Trial> {
        let start = Instant::now();
        let folder = |name: &str| scratch.join(format!("{}-{name}", row + 1));
        let (cut, run) = (folder("cut"), folder("run"));
        execute(self.cut(proposal, &cut)?, Stage::Prune, false, None, printer)?;
        let training = self.training(proposal, &cut.join(PRUNED), &run)?;
        if execute(training, Stage::Pretrain, false, None, printer)?.is_none() {
            bail!("stopped: nothing is ranked");
        }
        let history = RunHistory::read(&run)?;
        let mut losses = history.evaluations.iter().filter_map(|evaluation| evaluation.mean_loss);
        let first = losses.next().context("a trial was not evaluated")?;
        let trial = Trial {
            row,
            why: proposal.why.to_string(),
            cut: first,
            loss: losses.next_back().unwrap_or(first),
            seconds: start.elapsed().as_secs_f64(),
        };
        for folder in [&cut, &run] {
            std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        Ok(trial)
    }

    fn cut(&self, proposal: &Proposal, directory: &Path) -> anyhow::Result<RunConfig> {
        let target = target_table(&proposal.shape);
        let text = format!("{}{target}[prune]\ndtype = \"fp32\"\ncheck_rows = 1\n", self.head(self.source, directory));
        Ok(parse(&text, "the cut of a trial", &[])?)
    }

    fn training(&self, proposal: &Proposal, pruned: &Path, directory: &Path) -> anyhow::Result<RunConfig> {
        let tokens = Dataset::open(self.data)?.sequence_length() as i64;
        let small = resized(self.model, &proposal.shape);
        let (budget, rows) = (Budget::Tokens(self.tokens as f64), Prune::default().calibration_rows);
        let stage = Stages::after_a_cut(self.model, &small, tokens, budget, rows).next;
        let text = format!(
            "{}[train]\nsteps = {steps}\nbatch_rows = {}\nlearning_rate = {:e}\nwarmup_steps = {}\n[distill]\nteacher = {}\n\
             weight = {TEACHER}\n[eval]\nevery_steps = {steps}\nrows_per_domain = {ROWS}\n[checkpoint]\nevery_steps = {steps}\n",
            self.head(pruned, directory),
            stage.batch_rows,
            stage.learning_rate,
            stage.steps / 20,
            quoted(self.source),
            steps = stage.steps,
        );
        Ok(parse(&text, "the run of a trial", &[])?)
    }

    fn head(&self, source: &Path, directory: &Path) -> String {
        format!(
            "[run]\ndirectory = {}\ndtype = \"auto\"\n[model]\nsource = {}\n[data]\npath = {}\nmax_epochs = 1000\n",
            quoted(directory),
            quoted(source),
            quoted(self.data)
        )
    }
}

/// The order, with what each trial lost.
pub(super) fn table(trials: &[Trial], tokens: u64) -> String {
    let trained = format!("after {} tokens", grouped(tokens));
    let mut table = Table::new(["order", "row", "shape", "just cut", &trained, "took"]);
    for (order, trial) in trials.iter().enumerate() {
        let losses = [trial.cut, trial.loss].map(|loss| format!("{loss:.4}"));
        let [cut, loss] = losses;
        table.row([
            (order + 1).to_string(),
            (trial.row + 1).to_string(),
            trial.why.clone(),
            cut,
            loss,
            duration(trial.seconds),
        ]);
    }
    format!(
        "\nheld-out loss, mean over the domains, {ROWS} rows each; cut at once, then trained with the source as teacher:\n{table}"
    )
}

/// For `--json`.
pub(super) fn json(trials: &[Trial]) -> Value {
    let trial = |trial: &Trial| json!({ "row": trial.row + 1, "why": trial.why, "cut_loss": trial.cut, "loss": trial.loss, "seconds": trial.seconds });
    trials.iter().map(trial).collect()
}

fn quoted(path: &Path) -> String {
    toml::Value::String(absolute(path).display().to_string()).to_string()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
