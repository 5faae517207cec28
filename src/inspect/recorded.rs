//! `metrics.jsonl` of a run as steps, evaluations and events. Damaged lines, unknown types and lines that go back in
//! time are counted and named, never fatal. First half of reading a history; the other is the mask files.

use super::columns::Steps;
use super::evaluations::Evaluation;
use super::events::Event;
use super::lines::{Line, MOST_GROUPS, read_lines, shown};
use crate::run_dir::record::{Eval, Record, Start, Step, What, Written};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Most steps that are kept in memory: some five hundred bytes each. `Steps` bounds what domains and modules add.
const MOST_STEPS: usize = 1_000_000;
const MOST_EVALUATIONS: usize = 100_000;
/// Most numbers that evaluations hold, all together.
const MOST_EVALUATED: usize = 32 << 20;
/// Line numbers that a note names.
const NAMED_LINES: usize = 5;

/// What a metrics file tells.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The first `start`, or the first `resume` where the start is missing.
    pub start: Option<Started>,
    /// Steps that the last `resume` planned.
    pub resumed_steps: Option<u64>,
    /// When the last record was written.
    last_time: Option<f64>,
    /// The last `written`, and after which step.
    pub written: Option<(u64, Written)>,
    /// Whether the last checkpoint was written when the run left an evaluation.
    pub evaluation_due: bool,
    pub steps: Steps,
    /// In the order of their steps.
    pub evaluations: Vec<Evaluation>,
    /// Numbers that they hold.
    evaluated: usize,
    pub events: Vec<Event>,
    pub damaged: Numbered,
    pub too_long: Numbered,
    pub went_back: Numbered,
    /// The last line, where it is cut.
    pub cut_at_end: Option<u64>,
    /// Lines without a usable type and step, by what they call themselves.
    pub unknown: BTreeMap<String, u64>,
    /// Records beyond what is kept.
    pub beyond: u64,
}

/// How a run began, and when.
#[derive(Debug)]
pub(super) struct Started {
    pub time: Option<f64>,
    pub what: Start,
}

/// Line numbers: how many, and the first few.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    pub count: u64,
    first: Vec<u64>,
}

impl Numbered {
    fn add(&mut self, line: u64) {
        self.count += 1;
        if self.first.len() < NAMED_LINES {
            self.first.push(line);
        }
    }
}

impl std::fmt::Display for Numbered {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let first = self.first.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let more = if self.count > self.first.len() as u64 { ", …" } else { "" };
        let lines = if self.count == 1 { "line" } else { "lines" };
        write!(f, "{lines} {first}{more}")
    }
}

impl Recorded {
    /// Reads a metrics file.
    ///
    /// # Errors
    /// It cannot be opened or read; what was read so far is lost then.
    pub(super) fn read(path: &Path) -> std::io::Result<Recorded> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let mut recorded = Recorded::default();
        read_lines(path, &mut |number, line| match line {
            Line::Record(record) => recorded.take(number, &record),
            Line::Damaged => recorded.damaged.add(number),
            Line::TooLong => recorded.too_long.add(number),
            Line::CutAtEnd => recorded.cut_at_end = Some(number),
        })?;
        Ok(recorded)
    }

    fn take(&mut self, line: u64, record: &Record) {
        let Some(step) = record.step else { return self.pass_over(record.kind()) };
        match &record.what {
            What::Step(fields) => self.take_step(line, step, fields),
            What::Eval(fields) => self.take_evaluation(line, step, fields),
            _ => self.take_event(step, record),
        }
        self.last_time = record.time.or(self.last_time);
    }

    fn take_step(&mut self, line: u64, step: u64, record: &Step) {
        if self.steps.step.last().is_some_and(|last| step <= *last) {
            // One history: as a resumed run drops what it will come past again.
            self.went_back.add(line);
            let kept = self.steps.step.partition_point(|known| *known < step);
            self.steps.truncate(kept);
            self.forget_evaluations(|evaluation| evaluation.step >= step);
        }
        if self.steps.len() < MOST_STEPS && self.steps.has_room() {
            self.steps.push(step, record);
        } else {
            self.beyond += 1;
        }
    }

    fn take_evaluation(&mut self, line: u64, step: u64, record: &Eval) {
        if self.forget_evaluations(|evaluation| evaluation.step > step) {
            self.went_back.add(line);
        }
        let evaluation = Evaluation::of(step, record);
        let evaluated = self.evaluated.saturating_add(evaluation.cells());
        if self.evaluations.len() < MOST_EVALUATIONS && evaluated <= MOST_EVALUATED {
            self.evaluated = evaluated;
            self.evaluations.push(evaluation);
        } else {
            self.beyond += 1;
        }
    }

    /// Drops evaluations from the end while they are `outdated`; whether there were any. They are in the order of their
    /// steps, so each is looked at once however often the lines go back.
    fn forget_evaluations(&mut self, outdated: impl Fn(&Evaluation) -> bool) -> bool {
        let before = self.evaluations.len();
        while let Some(last) = self.evaluations.pop_if(|last| outdated(last)) {
            self.evaluated = self.evaluated.saturating_sub(last.cells());
        }
        self.evaluations.len() < before
    }

    fn take_event(&mut self, step: u64, record: &Record) {
        let Some(mut event) = Event::of(step, record) else { return self.pass_over(record.kind()) };
        if let What::Resume(resumed) = &record.what {
            let planned = self.resumed_steps.or(self.start.as_ref().and_then(|started| started.what.steps));
            event.tell_stop(self.last_time, record.time, planned, resumed.steps);
            self.resumed_steps = resumed.steps.or(self.resumed_steps);
        }
        match &record.what {
            What::Start(start) => self.take_start(start, record.time),
            What::Resume(start) if self.start.is_none() => self.take_start(start, record.time),
            What::Save(saved) => self.evaluation_due = saved.evaluation_due == Some(true),
            What::Written(written) => self.written = Some((step, (**written).clone())),
            _ => (),
        }
        if self.events.len() < MOST_EVALUATIONS {
            self.events.push(event);
        } else {
            self.beyond += 1;
        }
    }

    fn take_start(&mut self, start: &Start, time: Option<f64>) {
        for name in start.domains.0.iter().map(|name| shown(name)) {
            self.steps.add_domain(&name, self.steps.len());
        }
        self.start = Some(Started { time, what: start.clone() });
    }

    fn pass_over(&mut self, kind: &str) {
        if self.unknown.len() < NAMED_LINES {
            *self.unknown.entry(shown(kind)).or_default() += 1;
        } else if let Some(count) = self.unknown.get_mut(&shown(kind)) {
            *count += 1;
        }
    }

    /// Domains in the order of the data, then any that only evaluations know; at most [`MOST_GROUPS`].
    pub(super) fn domains(&self) -> Vec<String> {
        let of_steps = self.steps.domains.iter().map(|domain| &domain.domain);
        let of_evaluations = self.evaluations.iter().flat_map(|evaluation| &evaluation.domains);
        let names = of_steps.chain(of_evaluations.map(|domain| &domain.domain));
        let mut known = BTreeSet::new();
        names.filter(|name| known.insert(*name)).take(MOST_GROUPS).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DomainSteps, ModuleSteps};
    use super::*;
    use serde_json::json;

    fn read(lines: &[&str]) -> Recorded {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        Recorded::read(file.path()).unwrap()
    }

    #[test]
    fn a_history_goes_forward_only() {
        let recorded = read(&[
            r#"{"type":"start","step":0,"domains":["b","a"]}"#,
            r#"{"type":"step","step":1,"loss":{"total":1}}"#,
            r#"{"type":"step","step":2,"loss":{"total":2}}"#,
            r#"{"type":"step","step":3,"loss":{"total":3}}"#,
            r#"{"type":"step","step":2,"loss":{"total":20},"domains":{"c":{}}}"#,
        ]);
        assert_eq!(recorded.steps.step, [1, 2]);
        assert_eq!(recorded.steps.loss_total, [Some(1.0), Some(20.0)]);
        assert_eq!(recorded.went_back.to_string(), "line 5");
        assert_eq!(recorded.domains(), ["b", "a", "c"]);
    }

    #[test]
    fn evaluations_go_forward_only() {
        let eval = |step: u64| format!(r#"{{"type":"eval","step":{step}}}"#);
        let step = |step: u64| format!(r#"{{"type":"step","step":{step}}}"#);
        let lines = [step(1), eval(1), step(2), eval(2), eval(2), eval(1), step(2), eval(2), step(1)];
        let read = |lines: &[String]| read(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let steps = |recorded: &Recorded| recorded.evaluations.iter().map(|e| e.step).collect::<Vec<_>>();
        assert_eq!(steps(&read(&lines[..5])), [1, 2, 2]);
        let back = read(&lines[..8]);
        assert_eq!((steps(&back), back.went_back.to_string()), (vec![1, 1, 2], "lines 6, 7".to_string()));
        assert!(read(&lines).evaluations.is_empty() && read(&lines).evaluated == 0);
    }

    #[test]
    fn what_would_not_fit_is_counted() {
        let mut recorded = Recorded::default();
        recorded.steps.step = (1..=3000).collect();
        recorded.steps.domains = vec![DomainSteps::default(); 1000];
        recorded.steps.modules = vec![ModuleSteps::default(); 1000];
        recorded.take(1, &json!({ "type": "step", "step": 3001 }).into());
        assert_eq!((recorded.steps.len(), recorded.beyond), (3000, 1));
        recorded.evaluated = MOST_EVALUATED - 40;
        let rows = |count: usize| {
            Record::from(json!({ "type": "eval", "step": 3000, "row_sparsity": { "a": vec![0.5; count] } }))
        };
        recorded.take(2, &rows(100));
        assert_eq!((recorded.evaluations.len(), recorded.beyond), (0, 2));
        recorded.take(3, &rows(10));
        assert_eq!((recorded.evaluations.len(), recorded.beyond), (1, 2));
    }

    #[test]
    fn a_resume_tells_of_the_pause_and_of_another_number_of_steps() {
        let recorded = read(&[
            r#"{"type":"start","step":0,"steps":940,"stage":"pretrain","device":"CPU","time":1000}"#,
            r#"{"type":"step","step":1,"time":1010}"#,
            r#"{"type":"resume","step":1,"steps":620,"device":"CPU","time":1735}"#,
            r#"{"type":"resume","step":1,"steps":620,"device":"CPU","time":1735.25}"#,
        ]);
        let texts: Vec<&str> = recorded.events.iter().map(|event| event.text.as_str()).collect();
        let resumed = "resumed after step 1 of 620 on CPU";
        let first = format!("{resumed}, 12 min after the last record; train.steps 940 → 620");
        assert_eq!(texts[1..], [first.as_str(), resumed]);
        assert_eq!(recorded.resumed_steps, Some(620));
    }

    #[test]
    fn only_so_many_domains_are_told_apart() {
        let eval = |at: usize| {
            let domains: Vec<String> = (0..600).map(|i| format!(r#""d{}":{{"loss":1}}"#, at * 300 + i)).collect();
            format!(r#"{{"type":"eval","step":{at},"domains":{{{}}}}}"#, domains.join(","))
        };
        let lines: Vec<String> = (0..5).map(eval).collect();
        let recorded = read(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        let expected: Vec<String> = (0..1000).map(|i| format!("d{i}")).collect();
        assert_eq!(recorded.domains(), expected);
    }

    #[test]
    fn what_is_not_understood_is_counted() {
        let recorded = read(&[
            r#"{"type":"surprise","step":1}"#,
            r#"{"type":"surprise","step":2}"#,
            r#"{"type":"step"}"#,
            r#"{"type":"step","step":-4}"#,
            "garbage",
            r#"{"type":"step","step":9,"#,
        ]);
        assert_eq!(recorded.unknown, BTreeMap::from([("surprise".to_string(), 2), ("step".to_string(), 2)]));
        assert_eq!((recorded.damaged.count, recorded.cut_at_end), (1, Some(6)));
        assert!(recorded.steps.is_empty());
    }

    #[test]
    fn a_folder_of_that_name_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Recorded::read(folder.path()).is_err());
        assert!(Recorded::read(&folder.path().join("none")).is_err());
    }
}
