//! The events of a run, each with a line for people: start, resume, save, skip, exhausted, not_saved, mixer, divergence,
//! ended, written.

use super::lines::shown;
use crate::run_dir::record::{Record, What};
use crate::words::{counted, device, thousands};
use serde::Serialize;

/// Something that happened at a step.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Finished steps.
    pub step: u64,
    /// `start`, `resume`, `save`, `skip`, `exhausted`, `not_saved`, `mixer`, `divergence`, `ended` or `written`.
    pub kind: String,
    /// What happened, in a line.
    pub text: String,
    /// Whether it is how a run goes and nothing to warn of.
    #[serde(skip)]
    pub is_routine: bool,
}

impl Event {
    /// From a record that is neither a step nor an evaluation; `None` when its type is unknown.
    pub(super) fn of(step: u64, record: &Record) -> Option<Event> {
        let said = |text: &Option<String>| text.as_deref().map_or("?".to_string(), shown);
        let text = match &record.what {
            What::Start(start) => {
                let steps = start.steps.map_or("? steps".to_string(), |steps| counted(steps, "step"));
                format!("{} run of {steps} starts on {}", said(&start.stage), device(&said(&start.device)))
            }
            What::Resume(start) => {
                let steps = start.steps.map_or(String::new(), |steps| format!(" of {}", thousands(steps)));
                format!("resumed after step {}{steps} on {}", thousands(step), device(&said(&start.device)))
            }
            What::Save(saved) => {
                let due =
                    if saved.evaluation_due == Some(true) { ", stopped in the evaluation of this step" } else { "" };
                format!("checkpoint{due}; kept: {}", list(saved.kept.0.iter().map(u64::to_string)))
            }
            What::Skip(skipped) => {
                let in_row = skipped.in_row.map_or("?".to_string(), |count| count.to_string());
                format!("loss or gradient not finite, update skipped ({in_row} in a row)")
            }
            What::Exhausted(exhausted) => {
                let domains = list(exhausted.domains.0.iter().map(|name| shown(name)));
                format!("reached data.max_epochs and left the mix: {domains}")
            }
            What::NotSaved(why) => format!("no checkpoint was written: {}", said(&why.reason)),
            What::Mixer(told) => said(&told.text),
            What::Divergence(told) => said(&told.text),
            What::Ended(why) => format!("the run ended with an error: {}", said(&why.reason)),
            What::Written(written) => format!("model written to {}/ in the run folder", said(&written.path)),
            What::Step(_) | What::Eval(_) | What::Other(..) => return None,
        };
        let is_routine = matches!(&record.what, What::Mixer(told) if told.is_routine());
        Some(Event { step, kind: record.kind().to_string(), text: shown(&text), is_routine })
    }
}

impl Event {
    /// Adds to a resume for how long nothing was recorded before, and that the run has more or fewer steps from then on.
    pub(super) fn tell_stop(&mut self, last: Option<f64>, now: Option<f64>, planned: Option<u64>, steps: Option<u64>) {
        let pause = last.zip(now).map(|(last, now)| now - last).filter(|pause| *pause >= 1.0);
        if let Some(pause) = pause {
            self.text.push_str(&format!(", {} after the last record", lasting(pause)));
        }
        if let Some((before, after)) = planned.zip(steps).filter(|(before, after)| before != after) {
            self.text.push_str(&format!("; train.steps {} → {}", thousands(before), thousands(after)));
        }
    }
}

/// `40 s`, `12 min`, `3 h`.
fn lasting(seconds: f64) -> String {
    match seconds.round() as u64 {
        few @ 0..120 => format!("{few} s"),
        some @ 120..7200 => format!("{} min", some / 60),
        many => format!("{} h", thousands(many / 3600)),
    }
}

/// At most a thousand items, each once.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut known: Vec<String> = Vec::new();
    for item in items.take(1000) {
        if !known.contains(&item) {
            known.push(item);
        }
    }
    known.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn events_are_told_in_a_line() {
        let of = |kind: &str, mut fields: Value| {
            fields["type"] = json!(kind);
            Event::of(5, &Record::from(fields))
        };
        let text = |kind: &str, fields: Value| of(kind, fields).unwrap().text;
        assert_eq!(text("save", json!({ "kept": [5, 5] })), "checkpoint; kept: 5");
        let due = text("save", json!({ "kept": [5], "evaluation_due": true }));
        assert_eq!(due, "checkpoint, stopped in the evaluation of this step; kept: 5");
        assert_eq!(
            text("exhausted", json!({ "domains": ["a", "b\u{1b}"] })),
            "reached data.max_epochs and left the mix: a, b\u{fffd}"
        );
        assert_eq!(text("mixer", json!({ "text": "a is half" })), "a is half");
        assert_eq!(text("ended", json!({})), "the run ended with an error: ?");
        assert_eq!(text("start", json!({ "stage": 1 })), "? run of ? steps starts on ?");
        for (device, told) in [("Cpu", "CPU"), ("CPU", "CPU"), ("Cuda(1)", "cuda:1"), ("cuda:0", "cuda:0")] {
            let resumed = format!("resumed after step 5 on {told}");
            assert_eq!(text("resume", json!({ "device": device })), resumed);
        }
        assert!(of("step", json!({})).is_none() && of("surprise", json!({})).is_none());
    }
}
