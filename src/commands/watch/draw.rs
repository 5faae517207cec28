//! The view of a run as text: several lines for a terminal, or one for a log.

use super::fit::{cut, fitted, items_in};
use crate::cli::sparkline::sparkline;
use crate::cli::table::{Table, bytes, duration, grouped, optional};
use crate::cli::terminal::size_of_stdout;
use crate::inspect::live::{LiveEvaluation, LiveRun};
use crate::run_dir::Activity;
use crate::words::{counted, thousands};
use std::path::Path;

const BAR_COLUMNS: usize = 30;
const SPARKLINE_COLUMNS: usize = 40;
/// Stands between the items of a line.
const BETWEEN: &str = "  ";

/// Columns and rows of the terminal, if stdout is one.
pub(super) fn size() -> (usize, usize) {
    size_of_stdout().map_or((usize::MAX, usize::MAX), |(columns, rows)| (columns.max(20), rows.max(2)))
}

/// A picture that is drawn over the one before it.
#[derive(Default)]
pub(super) struct Screen {
    /// Lines of the picture that is there.
    drawn: usize,
}

impl Screen {
    /// What to write so that a view takes the place of the picture before, in a window of `width` columns and `rows` rows.
    /// The last picture of a run has all its lines: it stays, and what left the window can be scrolled to.
    pub(super) fn picture(&mut self, view: &View<'_>, (width, rows): (usize, usize)) -> String {
        let rows = if view.live.is_finished() { usize::MAX } else { rows };
        self.frame(&view.lines(width), rows)
    }

    /// What to write so that `lines` take the place of the picture before; at most as many as the terminal has rows.
    fn frame(&mut self, lines: &[String], rows: usize) -> String {
        let up = if self.drawn > 0 { format!("\u{1b}[{}A", self.drawn) } else { String::new() };
        // The cursor comes to stand in the row below.
        let shown = fitted(lines, rows.saturating_sub(1));
        self.drawn = shown.len();
        let text: String = shown.iter().map(|line| format!("{line}\u{1b}[K\n")).collect();
        format!("{up}\r{text}\u{1b}[J")
    }
}

/// A run at one moment.
pub(super) struct View<'a> {
    pub run: &'a Path,
    pub live: &'a LiveRun,
    pub activity: Activity,
    /// Seconds since the metrics last changed.
    pub idle_seconds: Option<f64>,
}

impl View<'_> {
    /// The whole view, no line wider than `width`.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let heading = [self.stage().to_string(), self.run.display().to_string(), self.state()];
        let mut lines = items_in(&heading, " · ", width);
        lines.extend(items_in(&self.progress(width), BETWEEN, width));
        for items in [self.loss(width), self.routers(), self.speed(), self.events()] {
            lines.extend(items_in(&items, BETWEEN, width));
        }
        for table in [self.modules(), self.domains()].into_iter().flatten() {
            lines.push(String::new());
            lines.extend(table.within(width).to_string().lines().map(String::from));
        }
        lines.iter().map(|line| cut(&printable(line), width)).collect()
    }

    /// The view in one line.
    pub(super) fn line(&self) -> String {
        let live = self.live;
        let mut parts = vec![format!("{} {}", self.stage(), self.steps())];
        parts.push(self.who());
        parts.extend(live.loss.map(|loss| format!("loss {loss:.4}")));
        parts.extend(self.sparsity().map(|sparsity| format!("sparsity {sparsity}")));
        parts.extend(self.density().map(|density| format!("density {density}")));
        parts.extend(live.evaluation.as_ref().map(|found| format!("validation {}", evaluated(found))));
        parts.extend(self.rate());
        parts.extend(self.left());
        printable(&parts.join("  "))
    }

    fn stage(&self) -> &str {
        self.live.stage.as_deref().unwrap_or("run")
    }

    fn steps(&self) -> String {
        let steps = self.live.steps.map_or("?".to_string(), thousands);
        format!("{}/{steps}", thousands(self.live.step))
    }

    /// Whether somebody is at work on it, and since when nothing was heard where that is worth a word.
    fn state(&self) -> String {
        let silent = self.idle_seconds.filter(|_| !self.live.is_finished() && self.is_silent());
        let since = silent.map_or(String::new(), |seconds| format!(", last record {} ago", duration(seconds)));
        format!("{}{since}", self.who())
    }

    fn who(&self) -> String {
        match self.activity {
            _ if self.live.is_finished() => "finished".to_string(),
            Activity::Process(process) => format!("running (process {process})"),
            Activity::Nobody => "stopped (no process on this machine is writing to it)".to_string(),
            Activity::Unknown => "not known whether a process is running".to_string(),
        }
    }

    /// Whether nothing was heard for much longer than a step takes; an evaluation may take a while.
    fn is_silent(&self) -> bool {
        let patience = match self.activity {
            Activity::Process(_) => 60.0_f64.max(10.0 * self.live.seconds_per_step.unwrap_or(0.0)),
            _ => 0.0,
        };
        self.idle_seconds.is_some_and(|idle| idle > patience)
    }

    fn progress(&self, width: usize) -> Vec<String> {
        let mut parts = vec![format!("step {}", self.steps())];
        // A bar that finds no room says nothing that the number does not.
        let columns = BAR_COLUMNS.min(width / 3);
        parts.extend(self.live.progress().map(|done| format!("{}  {:.0} %", bar(done, columns), 100.0 * done)));
        parts.extend(self.live.tokens.map(|tokens| format!("{} tokens", grouped(i128::from(tokens)))));
        parts.extend(self.left());
        parts
    }

    /// Tokens per second, and over what.
    fn rate(&self) -> Option<String> {
        let over = match self.live.recent_steps() {
            1 => "the last step".to_string(),
            steps => format!("the last {steps} steps"),
        };
        self.live.tokens_per_second.map(|rate| format!("{} tokens/s in {over}", grouped(rate as i64)))
    }

    fn left(&self) -> Option<String> {
        let live = self.live;
        if live.is_finished() || self.activity == Activity::Nobody {
            return None;
        }
        match live.after_the_steps() {
            Some(work) => Some(format!("steps done, {work}")),
            None => live.seconds_left().map(|seconds| format!("{} left", duration(seconds))),
        }
    }

    fn loss(&self, width: usize) -> Vec<String> {
        let live = self.live;
        let Some(loss) = live.loss else { return Vec::new() };
        let trend = sparkline(&live.losses, SPARKLINE_COLUMNS.min(width / 2));
        let mut parts = vec![format!("loss {}  {trend}", optional(Some(loss), 4))];
        parts.extend(live.distillation.map(|value| format!("distillation {value:.4}")));
        parts.extend(live.lagrangian.map(|value| format!("lagrangian {value:.4}")));
        parts
    }

    fn speed(&self) -> Vec<String> {
        let live = self.live;
        let mut parts = Vec::new();
        parts.extend(self.rate());
        parts.extend(live.seconds_per_step.map(|seconds| format!("{seconds:.2} s per step")));
        parts.extend(live.peak_memory_bytes.map(|peak| format!("peak memory {}", bytes(peak as f64))));
        parts.extend(live.learning_rate.map(|rate| format!("learning rate {rate:.2e}")));
        parts.extend(live.gradient_norm.map(|norm| format!("gradient norm {norm:.3}")));
        parts
    }

    fn events(&self) -> Vec<String> {
        let live = self.live;
        let mut parts = Vec::new();
        parts.extend(live.evaluation.as_ref().map(|found| format!("validation {}", evaluated(found))));
        parts.extend(live.cut.as_ref().map(|found| format!("cut to target {}", evaluated(found))));
        parts.extend(live.last_save.map(|step| format!("saved at step {}", thousands(step))));
        parts.extend(live.last_not_saved.map(|step| format!("not saved at step {}: disk full", thousands(step))));
        if live.skipped > 0 {
            let last = live.last_skip.map_or(String::new(), |step| format!(" (last at {})", thousands(step)));
            parts.push(format!("{} skipped{last}", counted(live.skipped, "step")));
        }
        if live.resumed > 0 {
            let times = if live.resumed == 1 { "once".to_string() } else { format!("{} times", live.resumed) };
            parts.push(format!("resumed {times}"));
        }
        if live.unreadable_lines > 0 {
            parts.push(counted(live.unreadable_lines, "unreadable line"));
        }
        parts
    }

    /// Expected overall sparsity and its target.
    fn sparsity(&self) -> Option<String> {
        let (expected, target) = (self.live.expected_sparsity?, self.live.target_sparsity);
        Some(format!("{expected:.3}/{}", optional(target, 3)))
    }

    /// Share of units that ran in the last step and its target.
    fn density(&self) -> Option<String> {
        let (density, target) = (self.live.density?, self.live.target_density);
        Some(target.map_or(format!("{density:.3}"), |target| format!("{density:.3}/{target:.3}")))
    }

    fn routers(&self) -> Vec<String> {
        let live = self.live;
        let Some(density) = live.density else { return Vec::new() };
        let asked = live.target_density.map_or(String::new(), |target| format!(" of {:.1} % asked", 100.0 * target));
        let stage = match live.router_stage {
            Some(1) => Some("stage 1: routers train"),
            Some(2) => Some("stage 2: routers are frozen"),
            _ => None,
        };
        std::iter::once(format!("density {:.1} %{asked}", 100.0 * density)).chain(stage.map(String::from)).collect()
    }

    fn modules(&self) -> Option<Table> {
        let mut table = Table::new(["module", "sparsity", "target", "violation", "λ1", "λ2"]);
        // Masks with an exact count have no multipliers: theirs stay zero.
        let moved = |value: Option<f64>| value.is_some_and(|value| value != 0.0);
        let multiplied = self.live.modules.iter().any(|module| moved(module.lambda_1) || moved(module.lambda_2));
        for module in &self.live.modules {
            let numbers = [
                optional(module.expected_sparsity, 4),
                optional(module.target_sparsity, 4),
                optional(module.violation, 4),
                optional(module.lambda_1.filter(|_| multiplied), 4),
                optional(module.lambda_2.filter(|_| multiplied), 4),
            ];
            table.row(std::iter::once(module.module.clone()).chain(numbers));
        }
        let overall = [optional(self.live.expected_sparsity, 4), optional(self.live.target_sparsity, 4)];
        table.row(std::iter::once("overall".to_string()).chain(overall));
        (!self.live.modules.is_empty()).then(|| table.without_empty_columns())
    }

    fn domains(&self) -> Option<Table> {
        let mut table = Table::new(["domain", "share", "loss", "validation", "reference", "epochs"]);
        for domain in &self.live.domains {
            let share = domain.proportion.map_or("–".to_string(), |share| format!("{:.1} %", 100.0 * share));
            let numbers = [
                if domain.exhausted { "exhausted".to_string() } else { share },
                optional(domain.loss, 4),
                optional(domain.validation_loss, 4),
                optional(domain.reference, 4),
                optional(domain.epochs, 3),
            ];
            table.row(std::iter::once(domain.name.clone()).chain(numbers));
        }
        (!self.live.domains.is_empty()).then_some(table)
    }
}

fn evaluated(found: &LiveEvaluation) -> String {
    let density = found.density.map_or(String::new(), |density| format!(" (density {:.1} %)", 100.0 * density));
    format!("{} at step {}{density}", optional(found.mean_loss, 4), thousands(found.step))
}

fn bar(done: f64, columns: usize) -> String {
    let full = (done * columns as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(columns.saturating_sub(full)))
}

/// Names come from a file: whatever would steer the terminal is shown as a dot.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::live::Event;
    use serde_json::{Value, json};

    fn live(records: &[Value]) -> LiveRun {
        let mut live = LiveRun::default();
        records.iter().for_each(|record| live.apply(Event::Record(record.clone())));
        live
    }

    fn view(live: &LiveRun, activity: Activity) -> View<'_> {
        View { run: Path::new("runs/a"), live, activity, idle_seconds: Some(125.0) }
    }

    fn records() -> Vec<Value> {
        vec![
            json!({ "type": "start", "step": 0, "stage": "prune", "steps": 4, "domains": ["wiki"] }),
            json!({ "type": "step", "step": 1, "loss": { "cross_entropy": 4.0, "lagrangian": 0.25 }, "seconds": 30.0,
                    "tokens_per_second": 1000.0, "domains": { "wiki": { "loss": 4.5, "proportion": 0.125 } },
                    "constraints": [{ "module": "hidden", "expected_sparsity": 0.1, "target_sparsity": 0.2 }],
                    "sparsity": { "expected": 0.15, "target": 0.2 } }),
        ]
    }

    #[test]
    fn the_view_says_what_the_records_say() {
        let mut live = live(&records());
        let text = view(&live, Activity::Process(7)).lines(80).join("\n");
        for said in [
            "prune · runs/a · running (process 7)",
            "step 1/4",
            "25 %",
            "1 min 30 s left",
            "loss 4.0000  ▄",
            "hidden",
            "12.5 %",
        ] {
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
        assert!(view(&live, Activity::Nobody).lines(200)[0].ends_with(", last record 2 min 5 s ago"));
        let line = view(&live, Activity::Nobody).line();
        assert!(line.contains("prune 1/4  stopped (") && !line.contains("ago"), "it is said once only: {line}");
        assert!(line.contains("sparsity 0.150/0.200") && !line.contains("left"), "{line}");
        for step in 2..=4 {
            live.apply(Event::Record(json!({ "type": "step", "step": step, "loss": { "cross_entropy": 1.0 } })));
        }
        let line = view(&live, Activity::Process(7)).line();
        assert!(line.contains("4/4") && line.ends_with("steps done, evaluating") && !line.contains("left"), "{line}");
        live.apply(Event::Record(json!({ "type": "save", "step": 4 })));
        let text = view(&live, Activity::Nobody).lines(80).join("\n");
        assert!(text.contains("finished") && text.contains("saved at step 4") && !text.contains("left"), "{text}");
    }

    #[test]
    fn an_lte_run_says_how_many_units_run() {
        let step = |routers: Value| json!({ "type": "step", "step": 1, "routers": routers });
        let routers = json!({ "density": 0.7512, "target": 0.75, "near_threshold": 0.1, "stage": 1 });
        let eval =
            json!({ "type": "eval", "step": 1, "gates": "experts", "mean_loss": 2.0, "experts": { "density": 0.5 } });
        let robust = live(&[step(routers), eval]);
        let text = view(&robust, Activity::Nobody).lines(120).join("\n");
        assert!(text.contains("density 75.1 % of 75.0 % asked  stage 1: routers train"), "{text}");
        assert!(text.contains("validation 2.0000 at step 1 (density 50.0 %)"), "{text}");
        assert!(view(&robust, Activity::Nobody).line().contains("  density 0.751/0.750  "));
        let paper = live(&[step(json!({ "density": 0.5, "stage": 2 }))]);
        let text = view(&paper, Activity::Nobody).lines(120).join("\n");
        assert!(text.contains("density 50.0 %  stage 2: routers are frozen"), "{text}");
    }

    #[test]
    fn nothing_is_wider_than_the_terminal_or_steers_it() {
        let evil =
            json!({ "type": "start", "step": 0, "stage": "\u{1b}[2Jprune", "domains": ["a\u{7}b", "c".repeat(300)] });
        let live = live(&[evil]);
        for line in view(&live, Activity::Unknown).lines(40) {
            assert!(line.chars().count() <= 40 && !line.contains(char::is_control), "{line:?}");
        }
        assert!(!view(&live, Activity::Unknown).line().contains(char::is_control));
    }

    #[test]
    fn lines_break_between_items_and_no_number_is_cut() {
        let mut records = records();
        let step = &mut records[1];
        (step["learning_rate"], step["gradient_norm"]) = (json!({ "weights": 1.934e-4 }), json!({ "total": 196.0228 }));
        step["peak_memory_bytes"] = json!(1_798_299_648u64);
        let without = view(&live(&records), Activity::Nobody).lines(100).join("\n");
        assert!(without.contains("sparsity") && !without.contains("λ2"), "masks without multipliers: {without}");
        records[1]["constraints"][0]["lambda_2"] = json!(0.25);
        let live = live(&records);
        let whole = view(&live, Activity::Nobody).lines(500);
        assert!(!whole.concat().contains('…'), "{whole:?}");
        for width in [60, 80, 100] {
            let lines = view(&live, Activity::Nobody).lines(width);
            assert!(
                lines.iter().all(|line| line.chars().count() <= width && !line.contains('…')),
                "{width}: {lines:#?}"
            );
            let text = lines.join("\n");
            for said in ["1,000 tokens/s in the last step", "learning rate 1.93e-4", "gradient norm 196.023", "λ2"] {
                assert!(text.contains(said), "{said} is not in {width} columns:\n{text}");
            }
        }
        // What finds no room at all ends before its numbers.
        for line in view(&live, Activity::Nobody).lines(20) {
            let numbers: Vec<&str> = line.split(|c: char| !c.is_ascii_digit() && c != '.').collect();
            for number in numbers.into_iter().filter(|number| number.len() > 1) {
                assert!(whole.join(" ").contains(number), "{number} of {line}");
            }
        }
        assert_eq!(
            (cut("12345", 5), cut("ab 123456", 6), cut("abcdefg", 5)),
            ("12345".into(), "ab …".into(), "abcd…".into())
        );
        let lines = ["a", "b", "c"].map(String::from);
        assert_eq!((fitted(&lines, 3), fitted(&lines, 2)), (lines.to_vec(), vec!["a".to_string(), "…".to_string()]));
    }

    #[test]
    fn the_last_picture_is_whole() {
        let mut records = records();
        let mut screen = Screen::default();
        let shown = screen.picture(&view(&live(&records), Activity::Process(7)), (80, 6));
        assert_eq!(shown.matches('\n').count(), 5, "a row is left for the cursor");
        records.push(json!({ "type": "step", "step": 4, "loss": { "cross_entropy": 1.0 } }));
        records.push(json!({ "type": "save", "step": 4 }));
        let ended = live(&records);
        let lines = view(&ended, Activity::Nobody).lines(80);
        let shown = screen.picture(&view(&ended, Activity::Nobody), (80, 6));
        assert!(lines.len() > 6 && lines.iter().all(|line| shown.contains(line.as_str())), "{shown}");
        assert!(shown.starts_with("\u{1b}[5A"), "it takes the place of the one before");
    }

    #[test]
    fn a_picture_takes_the_place_of_the_one_before() {
        let mut screen = Screen::default();
        let lines = |count: usize| vec!["x".to_string(); count];
        assert_eq!(screen.frame(&lines(2), 10), "\rx\u{1b}[K\nx\u{1b}[K\n\u{1b}[J");
        assert!(screen.frame(&lines(30), 10).starts_with("\u{1b}[2A\r"));
        assert!(screen.frame(&lines(1), 10).starts_with("\u{1b}[9A\r"), "a row is left for the cursor");
    }

    #[test]
    fn a_run_without_records_has_a_view() {
        let live = LiveRun::default();
        assert_eq!(view(&live, Activity::Nobody).lines(200).len(), 2);
    }
}
