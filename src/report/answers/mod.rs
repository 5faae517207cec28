//! The questions one has after a run, answered in plain sentences from its numbers: which layers and heads were kept, did
//! the constraint hold, when did the masks settle, which domains did pruning degrade and which recovered, where did the
//! data go, does the exported model match the masked one, is it faster; of a model taught to activate fewer neurons, how
//! many units run and what that cost. What cannot be answered says what is missing.

mod domains;
mod experts;
mod masks;
mod speed;

use super::lineage::RunView;
use super::side_files::{EvalFile, LatencyFile};
use serde::Serialize;

/// How an answer is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Cannot be said.
    Open,
    /// Neither good nor bad.
    Fact,
}

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// Name in addresses and in the embedded data.
    pub id: &'static str,
    /// The question.
    pub question: &'static str,
    /// How to take it.
    pub verdict: Verdict,
    /// The answer in a sentence.
    pub answer: String,
    /// What it rests on.
    pub points: Vec<String>,
}

impl Answer {
    fn new(id: &'static str, question: &'static str, verdict: Verdict, answer: impl Into<String>) -> Answer {
        Answer { id, question, verdict, answer: answer.into(), points: Vec::new() }
    }

    fn with(mut self, points: Vec<String>) -> Answer {
        self.points = points;
        self
    }
}

/// The answers for a pruning run and what continued it, or for a run that pruned nothing, one of the lines of `all`.
pub fn answers(
    line: &[&RunView],
    all: &[RunView],
    eval: Option<&EvalFile>,
    latency: Option<&LatencyFile>,
) -> Vec<Answer> {
    let prune = line.iter().find(|run| run.history.is_prune()).map(|run| run.history);
    let mut answers = Vec::new();
    match prune {
        Some(history) if history.one_shot => answers.extend([masks::one_shot(history), masks::equivalence(history)]),
        Some(history) => answers.extend([
            masks::survivors(history),
            masks::constraint(history),
            masks::settled(history),
            masks::equivalence(history),
        ]),
        // Whoever teaches a model to run fewer units asks for no survivors.
        None if line.iter().any(|run| run.history.experts.is_some()) => (),
        None => answers.push(Answer::new(
            "survivors",
            masks::WHICH_KEPT,
            Verdict::Open,
            "None of the given runs pruned, so nothing was removed here.",
        )),
    }
    let routed = line.iter().rev().find(|run| run.history.experts.is_some());
    answers.extend(routed.iter().flat_map(|run| experts::answers(run.history)));
    if prune.is_some() || routed.is_none() {
        answers.push(domains::degraded(line, all, eval));
    }
    answers.extend([domains::data(line), speed::speed(line, all, latency)]);
    answers
}
