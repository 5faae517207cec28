//! `shearling watch`: a run as it goes on, seen from another process. It reads `metrics.jsonl` and asks who holds the
//! run; it takes no lock and writes nothing, so any number may watch.
//!
//! On a terminal the view is redrawn in place; elsewhere each look that found something new prints one line. A run
//! whose last step is saved ends the watch. One that merely stopped does not: it may be resumed.

mod draw;
mod fit;

use super::ExitStatus;
use crate::cli::Printer;
use crate::cli::arguments::Watch;
use crate::inspect::live::{Follower, LiveRun};
use crate::inspect::{runs_hint, was_cut_at_once};
use crate::run_dir::layout::{METRICS, PRUNED, RESOLVED_CONFIG};
use crate::run_dir::{Activity, RunLock, only_begun};
use anyhow::Context;
use draw::{Screen, View};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// `shearling watch`
pub fn run(arguments: &Watch) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    require_run(&arguments.run)?;
    let mut watched = Watched::new(&arguments.run);
    watched.look()?;
    if was_cut_at_once(&arguments.run) {
        return Ok(cut_at_once(&arguments.run, &printer));
    }
    if arguments.once {
        let (width, _) = draw::size();
        printer.data(lines(&watched.view().lines(width)), || watched.json());
        return Ok(ExitStatus::Done);
    }
    match std::io::stdout().is_terminal() {
        true => redraw(&mut watched, &printer, arguments.interval),
        false => print_lines(&mut watched, &printer, arguments.interval),
    }
}

/// A cut at once takes no step: there is nothing to watch, and nothing to wait for.
fn cut_at_once(run: &Path, printer: &Printer) -> ExitStatus {
    let model = run.join(PRUNED);
    let text = format!(
        "prune · {} · finished: the model was cut at once, which takes no steps; it is in {}\n",
        run.display(),
        model.display()
    );
    printer.data(text, || {
        json!({ "run": run, "running": false, "process": null, "finished": true, "stage": "prune", "one_shot": true,
                "step": 0, "steps": 0, "model": model })
    });
    ExitStatus::Done
}

/// A run's folder has its configuration from the start, its metrics from the first record on.
fn require_run(run: &Path) -> anyhow::Result<()> {
    std::fs::read_dir(run).with_context(|| format!("cannot open the run folder {}", run.display()))?;
    if run.join(RESOLVED_CONFIG).exists() || run.join(METRICS).exists() || was_cut_at_once(run) {
        return Ok(());
    }
    if let Some(begun) = only_begun(run) {
        anyhow::bail!("there is nothing to watch in {}: {begun}", run.display());
    }
    let hint = runs_hint(run);
    anyhow::bail!("{} is not a run folder (it has neither {RESOLVED_CONFIG} nor {METRICS}){hint}", run.display())
}

fn redraw(watched: &mut Watched, printer: &Printer, interval: f64) -> anyhow::Result<ExitStatus> {
    let mut screen = Screen::default();
    loop {
        printer.data(screen.picture(&watched.view(), draw::size()), || Value::Null);
        if watched.live.is_finished() {
            return Ok(ExitStatus::Done);
        }
        std::thread::sleep(Duration::from_secs_f64(interval));
        watched.look()?;
        // Its model may have come meanwhile.
        if was_cut_at_once(watched.run) {
            return Ok(cut_at_once(watched.run, printer));
        }
    }
}

fn print_lines(watched: &mut Watched, printer: &Printer, interval: f64) -> anyhow::Result<ExitStatus> {
    let mut said = String::new();
    loop {
        // What stands still is not said again.
        let line = watched.view().line();
        if line != said {
            printer.data(format!("{line}\n"), || Value::Null);
            said = line;
        }
        if watched.live.is_finished() {
            return Ok(ExitStatus::Done);
        }
        std::thread::sleep(Duration::from_secs_f64(interval));
        watched.look()?;
        if was_cut_at_once(watched.run) {
            return Ok(cut_at_once(watched.run, printer));
        }
    }
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A run that is looked at again and again.
struct Watched<'a> {
    run: &'a Path,
    follower: Follower,
    live: LiveRun,
    activity: Activity,
    /// Seconds since the metrics last changed.
    idle_seconds: Option<f64>,
}

impl Watched<'_> {
    fn new(run: &Path) -> Watched<'_> {
        let follower = Follower::new(&run.join(METRICS));
        Watched { run, follower, live: LiveRun::default(), activity: Activity::Unknown, idle_seconds: None }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        // Before the records: a run that ends in between is then seen with its last ones.
        self.activity = RunLock::activity(self.run);
        let live = &mut self.live;
        self.follower.look(&mut |event| live.apply(event))?;
        let changed = std::fs::metadata(self.run.join(METRICS)).and_then(|metadata| metadata.modified());
        let idle = |changed| SystemTime::now().duration_since(changed).unwrap_or_default().as_secs_f64();
        self.idle_seconds = changed.ok().map(idle);
        Ok(())
    }

    fn view(&self) -> View<'_> {
        View { run: self.run, live: &self.live, activity: self.activity, idle_seconds: self.idle_seconds }
    }

    fn json(&self) -> Value {
        let process = match self.activity {
            Activity::Process(process) => Some(process),
            _ => None,
        };
        let mut answer = json!({
            "run": self.run,
            "running": (self.activity != Activity::Unknown).then_some(process.is_some()),
            "process": process,
            "finished": self.live.is_finished(),
            "seconds_since_change": self.idle_seconds,
            "seconds_left": self.live.seconds_left(),
        });
        let state = serde_json::to_value(&self.live).unwrap_or_default();
        if let (Value::Object(answer), Value::Object(state)) = (&mut answer, state) {
            answer.extend(state);
        }
        answer
    }
}
