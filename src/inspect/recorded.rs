//! `metrics.jsonl` of a run as steps, evaluations and events. Damaged lines, unknown types and lines that go back in
//! time are counted and named, never fatal. First half of reading a history; the other is the mask files.

use super::columns::Steps;
use super::evaluations::Evaluation;
use super::events::Event;
use super::lines::{Line, read_lines, shown, text};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Most steps that are kept in memory: some three hundred bytes each, and one more number per domain and module.
const MOST_STEPS: usize = 1_000_000;
const MOST_EVALUATIONS: usize = 100_000;
/// Line numbers that a note names.
const NAMED_LINES: usize = 5;

/// What a metrics file tells.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// The first `start`, or the first `resume` where the start is missing.
    pub start: Value,
    /// The last `written`.
    pub written: Value,
    pub steps: Steps,
    pub evaluations: Vec<Evaluation>,
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

    fn take(&mut self, line: u64, record: &Value) {
        let kind = record["type"].as_str().unwrap_or("");
        let Some(step) = record["step"].as_u64() else { return self.pass_over(kind) };
        match kind {
            "step" => self.take_step(line, step, record),
            "eval" if self.evaluations.len() < MOST_EVALUATIONS => {
                self.evaluations.push(Evaluation::of(step, record));
            }
            "eval" => self.beyond += 1,
            _ => self.take_event(step, kind, record),
        }
    }

    fn take_step(&mut self, line: u64, step: u64, record: &Value) {
        if self.steps.step.last().is_some_and(|last| step <= *last) {
            // One history: as a resumed run drops what it will come past again.
            self.went_back.add(line);
            let kept = self.steps.step.partition_point(|known| *known < step);
            self.steps.truncate(kept);
            self.evaluations.retain(|evaluation| evaluation.step < step);
        }
        if self.steps.len() < MOST_STEPS {
            self.steps.push(step, record);
        } else {
            self.beyond += 1;
        }
    }

    fn take_event(&mut self, step: u64, kind: &str, record: &Value) {
        let Some(event) = Event::of(step, kind, record) else { return self.pass_over(kind) };
        if kind == "start" || (kind == "resume" && self.start.is_null()) {
            self.start = record.clone();
            for name in record["domains"].as_array().into_iter().flatten().filter_map(text) {
                self.steps.add_domain(&name, self.steps.len());
            }
        }
        if kind == "written" {
            self.written = record.clone();
        }
        if self.events.len() < MOST_EVALUATIONS {
            self.events.push(event);
        } else {
            self.beyond += 1;
        }
    }

    fn pass_over(&mut self, kind: &str) {
        if self.unknown.len() < NAMED_LINES {
            *self.unknown.entry(shown(kind)).or_default() += 1;
        } else if let Some(count) = self.unknown.get_mut(&shown(kind)) {
            *count += 1;
        }
    }

    /// Domains in the order of the data, then any that only evaluations know.
    pub(super) fn domains(&self) -> Vec<String> {
        let mut names: Vec<String> = self.steps.domains.iter().map(|domain| domain.domain.clone()).collect();
        for evaluation in &self.evaluations {
            for domain in &evaluation.domains {
                if !names.contains(&domain.domain) {
                    names.push(domain.domain.clone());
                }
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
