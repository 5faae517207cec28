//! The events of a run, each with a line for people: start, resume, save, skip, exhausted, not_saved, mixer, divergence,
//! ended, written.

use super::lines::text;
use crate::words::{counted, device, thousands};
use serde::Serialize;
use serde_json::Value;

/// Something that happened at a step.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Finished steps.
    pub step: u64,
    /// `start`, `resume`, `save`, `skip`, `exhausted`, `not_saved`, `mixer`, `divergence`, `ended` or `written`.
    pub kind: String,
    /// What happened, in a line.
    pub text: String,
}

impl Event {
    /// From a record that is neither a step nor an evaluation; `None` when its type is unknown.
    pub(super) fn of(step: u64, kind: &str, record: &Value) -> Option<Event> {
        let said = |key: &str| text(&record[key]).unwrap_or_else(|| "?".to_string());
        let sentence = match kind {
            "start" => {
                let steps = record["steps"].as_u64().map_or("? steps".to_string(), |steps| counted(steps, "step"));
                format!("{} run of {steps} starts on {}", said("stage"), device(&said("device")))
            }
            "resume" => format!("resumed after step {} on {}", thousands(step), device(&said("device"))),
            "save" => format!("checkpoint; kept: {}", list(&record["kept"])),
            "skip" => format!("loss or gradient not finite, update skipped ({} in a row)", record["in_row"]),
            "exhausted" => format!("reached data.max_epochs and left the mix: {}", list(&record["domains"])),
            "not_saved" => format!("no checkpoint was written: {}", said("reason")),
            "mixer" | "divergence" => said("text"),
            "ended" => format!("the run ended with an error: {}", said("reason")),
            "written" => format!("model written to {}", said("path")),
            _ => return None,
        };
        Some(Event { step, kind: kind.to_string(), text: super::lines::shown(&sentence) })
    }
}

fn list(value: &Value) -> String {
    let mut items: Vec<String> = Vec::new();
    for item in value.as_array().into_iter().flatten().take(1000) {
        let item = text(item).unwrap_or_else(|| item.to_string());
        if !items.contains(&item) {
            items.push(item);
        }
    }
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_told_in_a_line() {
        let text = |kind: &str, record: Value| Event::of(5, kind, &record).unwrap().text;
        assert_eq!(text("save", json!({ "kept": [5, 5] })), "checkpoint; kept: 5");
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
        assert!(Event::of(5, "step", &json!({})).is_none());
    }
}
