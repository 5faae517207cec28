//! The lines of `metrics.jsonl`, typed: whoever writes one and whoever reads one agrees here on what is in it and what it is
//! called. docs/formats/metrics.md has the meaning and the unit of every field.
//!
//! ```text
//! train, export ─► Record ─► {"type": …, "step": …, fields…, "time": …} ─► Record ─► inspect, watch, TensorBoard, watchdog
//! ```
//!
//! Reading is lenient: a line may be damaged, of another version, or no run's at all. What cannot be read is left out, and a
//! kind of line that is not known keeps its fields as they are ([`What::Other`]).

mod eval;
mod events;
mod lenient;
mod masks;
mod step;

pub use eval::{DomainEval, Eval, ExpertState};
pub use events::{
    Comparison, Divergence, Effect, Exhausted, MAX_CHANGE, Mixed, Reason, ReferenceDomain, ReferenceRows, Rounding,
    Saved, Skipped, Start, Written,
};
pub use lenient::{Items, Named};
pub use masks::{MaskState, ModuleMasks, Unit, Units};
pub use step::{Constraint, DomainStep, GradientNorm, LearningRate, Routers, Sparsity, Step, StepLoss};

use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longer than any line that a run writes: an evaluation names at most a thousand units per list.
pub const LONGEST_LINE_BYTES: u64 = 16 << 20;

const TYPE: &str = "type";
const STEP: &str = "step";
const TIME: &str = "time";

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Finished steps; every line of a run has them.
    pub step: Option<u64>,
    /// When it was written, in seconds since 1970.
    pub time: Option<f64>,
    /// What happened.
    pub what: What,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The run begins.
    Start(Box<Start>),
    /// The run goes on in another process.
    Resume(Box<Start>),
    /// A step is done.
    Step(Box<Step>),
    /// The model was evaluated.
    Eval(Box<Eval>),
    /// A checkpoint is written.
    Save(Saved),
    /// No checkpoint could be written.
    NotSaved(Reason),
    /// A domain has given all its rows.
    Exhausted(Exhausted),
    /// A step had no update.
    Skip(Skipped),
    /// Something to know of the mix.
    Mixer(Mixed),
    /// A loss is too high.
    Divergence(Divergence),
    /// The run ended with an error.
    Ended(Reason),
    /// The model is written.
    Written(Box<Written>),
    /// Something else: its type, and its own fields.
    Other(String, Map<String, Value>),
}

impl Record {
    /// A line that is not written yet.
    pub fn new(step: u64, what: What) -> Record {
        Record { step: Some(step), time: None, what }
    }

    /// The same line, written now. Nothing that a run computes depends on it.
    pub fn stamped(mut self) -> Record {
        if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.time = Some(since.as_millis() as f64 / 1e3);
        }
        self
    }

    /// Its type.
    pub fn kind(&self) -> &str {
        match &self.what {
            What::Start(_) => "start",
            What::Resume(_) => "resume",
            What::Step(_) => "step",
            What::Eval(_) => "eval",
            What::Save(_) => "save",
            What::NotSaved(_) => "not_saved",
            What::Exhausted(_) => "exhausted",
            What::Skip(_) => "skip",
            What::Mixer(_) => "mixer",
            What::Divergence(_) => "divergence",
            What::Ended(_) => "ended",
            What::Written(_) => "written",
            What::Other(kind, _) => kind,
        }
    }

    /// Its own fields, without type, step and time.
    pub fn fields(&self) -> Map<String, Value> {
        let fields = match &self.what {
            What::Start(fields) | What::Resume(fields) => serde_json::to_value(fields),
            What::Step(fields) => serde_json::to_value(fields),
            What::Eval(fields) => serde_json::to_value(fields),
            What::Save(fields) => serde_json::to_value(fields),
            What::NotSaved(fields) | What::Ended(fields) => serde_json::to_value(fields),
            What::Exhausted(fields) => serde_json::to_value(fields),
            What::Skip(fields) => serde_json::to_value(fields),
            What::Mixer(fields) => serde_json::to_value(fields),
            What::Divergence(fields) => serde_json::to_value(fields),
            What::Written(fields) => serde_json::to_value(fields),
            What::Other(_, fields) => return fields.clone(),
        };
        match fields {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        }
    }

    /// The line as JSON.
    pub fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert(TYPE.to_string(), json!(self.kind()));
        line.extend(self.step.map(|step| (STEP.to_string(), json!(step))));
        line.extend(self.fields());
        line.extend(self.time.map(|time| (TIME.to_string(), json!(time))));
        Value::Object(line)
    }
}

impl From<&Value> for Record {
    fn from(line: &Value) -> Record {
        let kind = line[TYPE].as_str().unwrap_or_default();
        let what = match kind {
            "start" => What::Start(lenient::whole(line)),
            "resume" => What::Resume(lenient::whole(line)),
            "step" => What::Step(lenient::whole(line)),
            "eval" => What::Eval(lenient::whole(line)),
            "save" => What::Save(lenient::whole(line)),
            "not_saved" => What::NotSaved(lenient::whole(line)),
            "exhausted" => What::Exhausted(lenient::whole(line)),
            "skip" => What::Skip(lenient::whole(line)),
            "mixer" => What::Mixer(lenient::whole(line)),
            "divergence" => What::Divergence(lenient::whole(line)),
            "ended" => What::Ended(lenient::whole(line)),
            "written" => What::Written(lenient::whole(line)),
            _ => What::Other(kind.to_string(), own_fields(line)),
        };
        Record { step: line[STEP].as_u64(), time: line[TIME].as_f64(), what }
    }
}

impl From<Value> for Record {
    fn from(line: Value) -> Record {
        Record::from(&line)
    }
}

fn own_fields(line: &Value) -> Map<String, Value> {
    let fields = line.as_object().into_iter().flatten();
    let own = fields.filter(|(key, _)| ![TYPE, STEP, TIME].contains(&key.as_str()));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line of the runs that an earlier version wrote comes out as it went in: no key is lost, renamed or moved, and
    /// no number changes.
    #[test]
    fn lines_of_runs_are_read_and_written_the_same() {
        let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
        let mut kinds = std::collections::BTreeSet::new();
        for run in ["prune", "pretrain", "whole/prune", "whole/pretrain"] {
            let text = std::fs::read_to_string(fixtures.join(run).join("metrics.jsonl")).unwrap();
            for line in text.lines() {
                let record = Record::from(serde_json::from_str::<Value>(line).unwrap());
                assert!(!matches!(record.what, What::Other(..)), "{line}");
                assert_eq!(record.to_json().to_string(), line);
                kinds.insert(record.kind().to_string());
            }
        }
        assert!(["start", "step", "eval", "save", "written"].iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
    }

    #[test]
    fn a_field_of_the_wrong_type_costs_itself_alone() {
        let line = json!({
            "type": "step", "step": 3, "tokens": "many", "loss": { "total": [], "cross_entropy": 2.0 }, "applied": 3,
            "domains": { "a": 7, "b": { "loss": 1.5, "rows": -1 } },
            "constraints": [3, { "module": "hidden", "violation": "none", "lambda_1": 0.5 }, {}], "sparsity": 4,
        });
        let Record { step: Some(3), what: What::Step(step), .. } = Record::from(&line) else { panic!("a step") };
        assert_eq!((step.tokens, step.applied, step.loss.cross_entropy), (None, None, Some(2.0)));
        let named: Vec<_> = step.domains.iter().map(|(name, domain)| (name, domain.loss, domain.rows)).collect();
        assert_eq!(named, [("a", None, None), ("b", Some(1.5), None)]);
        let constraints = step.constraints.unwrap().0;
        assert_eq!((constraints.len(), constraints[0].lambda_1, constraints[0].violation), (2, Some(0.5), None));
        assert_eq!(step.sparsity, None);
    }

    #[test]
    fn what_is_not_known_keeps_its_fields() {
        let line = json!({ "type": "surprise", "step": 1, "text": "hello", "time": 2.5 });
        let record = Record::from(&line);
        assert_eq!((record.kind(), record.fields().len()), ("surprise", 1));
        assert_eq!(record.to_json(), line);
        for broken in [json!(null), json!([1]), json!({ "type": 3, "step": -1 })] {
            assert_eq!((Record::from(&broken).step, Record::from(&broken).kind()), (None, ""));
        }
    }
}
