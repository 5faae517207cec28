//! What one of the two files says that the other says otherwise: stage, data, intervals, memory.

use super::budget::Stage;
use super::rows::Rows;
use crate::config::{MomentKind, Stage as Command};
use crate::train::decide::Intervals;
use crate::train::fit::Settings;
use shearling_domains::{Dataset, Split};
use std::path::{Path, PathBuf};

/// How often a row may be seen, if the data allow it.
const EPOCHS: f64 = 4.0;
/// Domains that are assumed while there is no data.
pub(super) const ASSUMED_DOMAINS: u64 = 7;
/// Part of the training rows that evaluations may forward; each costs a third of a step's row.
const EVALUATED: f64 = 0.4;
/// The same where a short stage would else be evaluated hardly ever: half of the time of training, where `plan` begins to warn.
const MOST_EVALUATED: f64 = 1.5;
/// The least memory without a loss of precision: what is written where nothing fits.
pub(super) const ONE_ROW: Settings = Settings {
    micro_batch_rows: 1,
    activation_checkpointing: 1,
    selective_recomputation: false,
    moments: MomentKind::Fp32,
    moments_on_host: false,
};

/// What one file says.
#[derive(Debug)]
pub(super) struct Part {
    command: Command,
    pub(super) stage: Stage,
    pub(super) directory: PathBuf,
    pub(super) data: PathBuf,
    /// `None` while there is no data.
    pub(super) rows: Option<Rows>,
    pub(super) max_epochs: f64,
    pub(super) eval_every: u64,
    pub(super) eval_rows: u64,
    pub(super) eval_rows_said: String,
    pub(super) save_every: u64,
    pub(super) settings: Settings,
    pub(super) memory_said: String,
    pub(super) disk_said: String,
    /// How long it takes, if the speed is known, and the same in words.
    pub(super) time: Option<(f64, String)>,
}

impl Part {
    /// The stage that `file` is for, on the data at `data`, if they are there; of at least `least` steps.
    pub(super) fn new(
        command: Command,
        mut stage: Stage,
        least: u64,
        file: &Path,
        data: PathBuf,
        dataset: Option<&Dataset>,
    ) -> Part {
        let max_epochs = dataset.map_or(EPOCHS, |dataset| within(dataset, &mut stage, least));
        let rows = dataset.map(|dataset| Rows::new(dataset, stage.rows(), max_epochs));
        let (eval_every, eval_rows, eval_rows_said) =
            evaluations(&stage, domains(rows.as_ref()), command == Command::Prune);
        Part {
            command,
            stage,
            directory: Path::new("runs").join(file.file_stem().unwrap_or_default()),
            data,
            rows,
            max_epochs,
            eval_every,
            eval_rows,
            eval_rows_said: eval_rows_said.to_string(),
            save_every: save_every(&stage, eval_every),
            settings: ONE_ROW,
            memory_said: String::new(),
            disk_said: String::new(),
            time: None,
        }
    }

    /// Evaluates on so many rows of each domain, less often where that would take too much of the time.
    pub(super) fn evaluate_on(&mut self, rows: u64, said: &str) {
        let domains = domains(self.rows.as_ref());
        let every = [6, 4, 3, 2].map(|parts| interval(&self.stage, parts));
        let within = |part: f64| {
            let fits = |every: &u64| fits(&self.stage, *every, domains * rows, self.prunes(), part);
            every.into_iter().find(fits)
        };
        let every = within(EVALUATED).or_else(|| within(MOST_EVALUATED));
        self.eval_every = every.unwrap_or(interval(&self.stage, 1));
        self.save_every = save_every(&self.stage, self.eval_every);
        (self.eval_rows, self.eval_rows_said) = (rows, said.to_string());
    }

    /// How many evaluations there will be, and their share of the time: a forward is a third of a step.
    pub(super) fn evaluations_said(&self) -> String {
        let count = intervals(&self.stage, self.eval_every).evaluations(self.prunes());
        let evaluated = (count * domains(self.rows.as_ref()) * self.eval_rows) as f64 / 3.0;
        let share = 100.0 * evaluated / (evaluated + self.stage.rows() as f64);
        let share = if share < 1.0 { "under 1".to_string() } else { format!("about {share:.0}") };
        format!("{count} evaluations with that before the first step, {share} % of the time")
    }

    /// Whether it is the file of the prune stage.
    pub(super) fn prunes(&self) -> bool {
        self.command == Command::Prune
    }
}

/// How many domains there are; assumed while there are no data.
fn domains(rows: Option<&Rows>) -> u64 {
    rows.map_or(ASSUMED_DOMAINS, |rows| rows.shares().count() as u64)
}

/// Steps between evaluations, held-out rows of each domain, and what is to be said of that. The published intervals, unless that
/// would be fewer than six evaluations; and fewer still before a domain has less than eight rows, which tell little.
fn evaluations(stage: &Stage, domains: u64, masked: bool) -> (u64, u64, &'static str) {
    let within = |part: f64| move |(every, rows): &(u64, u64)| fits(stage, *every, domains * rows, masked, part);
    let usual = [6, 4, 3].into_iter().flat_map(|parts| [64, 32, 16, 8].map(|rows| (interval(stage, parts), rows)));
    let short = [6, 4, 3, 2].map(|parts| (interval(stage, parts), 4));
    if let Some((every, rows)) = usual.into_iter().find(within(EVALUATED)) {
        return (every, rows, "held-out rows, as many as a tenth of the time or so allows");
    }
    match short.into_iter().find(within(MOST_EVALUATED)) {
        Some((every, rows)) => {
            (every, rows, "held-out rows, few, so that evaluations take at most a third of so short a run")
        }
        None => (interval(stage, 1), 4, "held-out rows; too few steps to evaluate on the way"),
    }
}

/// Steps between evaluations that are `parts` of a stage, or the published ones if those are fewer.
fn interval(stage: &Stage, parts: u64) -> u64 {
    (stage.steps / parts).clamp(1, if stage.steps > 10_000 { 400 } else { 50 * 6 / parts })
}

/// Whether evaluations of so many rows in all, one every so many steps, forward no more than this part of the training rows.
fn fits(stage: &Stage, evaluate_every: u64, rows: u64, masked: bool, part: f64) -> bool {
    (intervals(stage, evaluate_every).evaluations(masked) * rows) as f64 <= part * stage.rows() as f64
}

/// What a stage does on schedule.
fn intervals(stage: &Stage, evaluate_every: u64) -> Intervals {
    let save_every = save_every(stage, evaluate_every);
    Intervals { steps: stage.steps, evaluate_every, save_every, stop_at: None, mixer_from: 0 }
}

/// Saved steps are evaluated: on the same steps as the others.
fn save_every(stage: &Stage, eval_every: u64) -> u64 {
    ((stage.steps / 4).clamp(1, 3200) / eval_every).max(1) * eval_every
}

/// Shortens a stage to what its data allow, at `EPOCHS` each row, but not below `least` steps: then rows are seen more
/// often. Gives the epochs.
fn within(dataset: &Dataset, stage: &mut Stage, least: u64) -> f64 {
    let rows: u64 = (0..dataset.domain_names().len()).map(|domain| dataset.rows(domain, Split::Train)).sum();
    // A tenth is left over: shares are rounded, and every domain keeps below its own limit.
    let most = (rows as f64 * EPOCHS * 0.9 / stage.batch_rows as f64) as u64;
    let steps = stage.steps.min(most.max(least));
    stage.flops *= steps as f64 / stage.steps as f64;
    stage.steps = steps;
    EPOCHS.max((stage.rows() as f64 / (rows.max(1) as f64 * 0.9)).ceil())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_of_a_short_stage_leave_most_of_the_time() {
        for (steps, batch_rows) in [(69, 4), (100, 4), (300, 4), (600, 32), (20_000, 256)] {
            let stage = Stage { steps, batch_rows, learning_rate: 1e-4, flops: 1.0 };
            for command in [Command::Prune, Command::Pretrain] {
                let mut part = Part::new(command, stage, 1, Path::new("a.toml"), PathBuf::from("data"), None);
                for given in [false, true] {
                    if given {
                        part.evaluate_on(4, "as given");
                    }
                    let Part { eval_every: evaluate_every, eval_rows, save_every, .. } = part;
                    let intervals = Intervals { steps, evaluate_every, save_every, stop_at: None, mixer_from: 0 };
                    // A forward is a third of a step: half of the time of training.
                    let forwarded = intervals.evaluations(part.prunes()) * ASSUMED_DOMAINS * eval_rows;
                    assert!(
                        2 * forwarded <= 3 * stage.rows(),
                        "{steps} steps: every {evaluate_every} on {eval_rows} rows"
                    );
                    assert!(evaluate_every < steps, "{steps} steps are evaluated on the way");
                    let said = part.evaluations_said();
                    let count = format!("{} evaluations", intervals.evaluations(part.prunes()));
                    assert!(said.starts_with(&count) && said.ends_with(" % of the time"), "{said}");
                }
            }
        }
    }
}
