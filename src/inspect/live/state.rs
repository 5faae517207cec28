//! Where a run stands, kept up to date record by record. What a record does not say stays as it was; records may come
//! from a file that is cut, damaged or of another version.

use super::Event;
use crate::inspect::lines::{MOST_GROUPS, is_name};
use crate::inspect::run::ConstraintSummary;
use crate::run_dir::record::{Constraint, Eval, Record, Start, Step, What};
use serde::Serialize;
use std::collections::VecDeque;

/// Steps over which speed is averaged: single steps of a shared machine jump about.
const RECENT_STEPS: usize = 20;

/// Where a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LiveRun {
    /// `prune`, `pretrain` or `lte`.
    pub stage: Option<String>,
    /// Finished steps.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: Option<u64>,
    /// Tokens seen.
    pub tokens: Option<u64>,
    /// Cross entropy of the last step, nats per token.
    pub loss: Option<f64>,
    /// KL divergence from the teacher in the last step; none without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<f64>,
    /// Lagrangian of the last step.
    pub lagrangian: Option<f64>,
    /// Learning rate of the weights.
    pub learning_rate: Option<f64>,
    /// Norm of all gradients, before clipping.
    pub gradient_norm: Option<f64>,
    /// By domain, in the order of the data.
    pub domains: Vec<LiveDomain>,
    /// By mask module.
    pub modules: Vec<ConstraintSummary>,
    /// Expected overall sparsity.
    pub expected_sparsity: Option<f64>,
    /// Overall target of the step.
    pub target_sparsity: Option<f64>,
    /// Share of intermediate units that ran in the last step; none without routers, as the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// The share asked for at that step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_density: Option<f64>,
    /// 1 while routers train, 2 when they are frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_stage: Option<u64>,
    /// Mean over the last steps.
    pub tokens_per_second: Option<f64>,
    /// Mean over the last steps.
    pub seconds_per_step: Option<f64>,
    /// Seconds of all evaluations after a step.
    pub evaluation_seconds: f64,
    /// Seconds of the last one, at whatever step: as long as the next will take.
    pub last_evaluation_seconds: f64,
    /// As in the last step.
    pub peak_memory_bytes: Option<u64>,
    /// The last evaluation of the model in training.
    pub evaluation: Option<LiveEvaluation>,
    /// The last evaluation of the masks cut to their target.
    pub cut: Option<LiveEvaluation>,
    /// Step of the last checkpoint.
    pub last_save: Option<u64>,
    /// Whether that was written when the run left an evaluation, which is still to be made.
    pub evaluation_due: bool,
    /// Step of the last checkpoint that found no room.
    pub last_not_saved: Option<u64>,
    /// Steps whose update was skipped.
    pub skipped: u64,
    /// The last of them.
    pub last_skip: Option<u64>,
    /// Times the run was resumed.
    pub resumed: u64,
    /// Lines that are no JSON.
    pub unreadable_lines: u64,
    /// Cross entropy of all steps; null where it was not finite.
    #[serde(skip)]
    pub losses: Vec<Option<f64>>,
    #[serde(skip)]
    recent: VecDeque<(f64, f64)>,
    /// Steps between evaluations, where the run says.
    #[serde(skip)]
    evaluate_every: Option<u64>,
    /// Steps that were evaluated, without that before the first one.
    #[serde(skip)]
    evaluated_steps: u64,
}

/// A domain of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LiveDomain {
    /// Name.
    pub name: String,
    /// The mixer's, for the last step, or from the evaluation after it on.
    pub proportion: Option<f64>,
    /// Loss in the last batch that held the domain.
    pub loss: Option<f64>,
    /// Loss at the last evaluation of the model in training.
    pub validation_loss: Option<f64>,
    /// Reference loss.
    pub reference: Option<f64>,
    /// How often its training rows have been seen.
    pub epochs: Option<f64>,
    /// Whether it has given all its rows.
    pub exhausted: bool,
}

/// An evaluation in one number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveEvaluation {
    /// After which step.
    pub step: u64,
    /// Mean over the domains.
    pub mean_loss: Option<f64>,
    /// Share of intermediate units that ran; none without routers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
}

impl LiveRun {
    /// Takes in what a follower found.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Restarted => *self = LiveRun::default(),
            Event::Unreadable => self.unreadable_lines += 1,
            Event::Record(record) => self.record(&Record::from(&record)),
        }
    }

    /// Whether the last step is done and saved: nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.steps.is_some_and(|steps| self.step >= steps && self.last_save == Some(self.step) && !self.evaluation_due)
    }

    /// What a run whose steps are all done is at before it is finished: its last evaluations (of a prune also that of the cut),
    /// then its last checkpoint.
    pub fn after_the_steps(&self) -> Option<&'static str> {
        if self.is_finished() || !self.steps.is_some_and(|steps| steps > 0 && self.step >= steps) {
            return None;
        }
        let here = |found: &Option<LiveEvaluation>| found.as_ref().is_some_and(|found| found.step == self.step);
        let cut = self.stage.as_deref() != Some("prune") || here(&self.cut);
        Some(if here(&self.evaluation) && cut { "writing the last checkpoint" } else { "evaluating" })
    }

    /// Part of the steps that is done, from 0 to 1.
    pub fn progress(&self) -> Option<f64> {
        self.steps.filter(|steps| *steps > 0).map(|steps| (self.step as f64 / steps as f64).min(1.0))
    }

    /// Steps that the mean speed is over.
    pub fn recent_steps(&self) -> usize {
        self.recent.len()
    }

    /// Seconds that the steps to come will take at the present speed, with the evaluations among them; checkpoints come on top.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.steps?.saturating_sub(self.step) as f64;
        let evaluating = if left > 0.0 { self.evaluation_seconds_left() } else { 0.0 };
        Some(left * self.seconds_per_step? + evaluating)
    }

    /// Seconds of the evaluations to come, each as long as those so far were in the mean: where masks are cut at some of them, these
    /// take twice as long. A run of an earlier version does not say when it evaluates: at least after the last step.
    fn evaluation_seconds_left(&self) -> f64 {
        let evaluated = self.evaluation.as_ref().map_or(0, |last| last.step);
        let steps = self.steps.unwrap_or_default().saturating_sub(evaluated);
        let mean = match self.evaluated_steps {
            0 => self.last_evaluation_seconds,
            count => self.evaluation_seconds / count as f64,
        };
        match self.evaluate_every {
            Some(every) => steps.div_ceil(every.max(1)) as f64 * mean,
            None => {
                (steps as f64 * self.evaluation_seconds / evaluated.max(1) as f64).max(self.last_evaluation_seconds)
            }
        }
    }

    fn record(&mut self, record: &Record) {
        let Some(step) = record.step else { return };
        match &record.what {
            What::Start(start) => self.start(start),
            What::Resume(start) => {
                self.resumed += 1;
                self.start(start);
            }
            What::Step(fields) => self.step(fields, step),
            What::Eval(fields) => self.evaluation(fields, step),
            What::Save(saved) => {
                self.last_save = Some(step);
                self.evaluation_due = saved.evaluation_due == Some(true);
            }
            What::NotSaved(_) => self.last_not_saved = Some(step),
            What::Skip(_) => self.last_skip = Some(step),
            What::Exhausted(exhausted) => self.exhausted(&exhausted.domains.0),
            _ => (),
        }
    }

    fn start(&mut self, start: &Start) {
        self.stage.clone_from(&start.stage);
        self.steps = start.steps;
        self.evaluate_every = start.evaluate_every.or(self.evaluate_every);
        for (index, name) in start.domains.0.iter().take(MOST_GROUPS).enumerate() {
            let proportion = start.proportions.get(index).copied().flatten();
            let reference = start.reference_losses.iter().flatten().nth(index).copied().flatten();
            let Some(domain) = self.domain(name) else { continue };
            domain.proportion = proportion.or(domain.proportion);
            domain.reference = reference.or(domain.reference);
        }
    }

    fn step(&mut self, record: &Step, step: u64) {
        self.step = step;
        self.tokens = record.tokens;
        self.loss = record.loss.cross_entropy;
        self.distillation = record.loss.distillation;
        self.lagrangian = record.loss.lagrangian;
        self.losses.push(self.loss);
        self.learning_rate = record.learning_rate.weights;
        self.gradient_norm = record.gradient_norm.total;
        self.peak_memory_bytes = record.peak_memory_bytes;
        self.skipped = record.skipped.unwrap_or(self.skipped);
        self.expected_sparsity = record.sparsity.as_ref().and_then(|sparsity| sparsity.expected);
        self.target_sparsity = record.sparsity.as_ref().and_then(|sparsity| sparsity.target);
        let routers = record.routers.as_ref();
        self.density = routers.and_then(|routers| routers.density);
        self.target_density = routers.and_then(|routers| routers.target);
        self.router_stage = routers.and_then(|routers| routers.stage);
        for (name, fields) in record.domains.iter().take(MOST_GROUPS) {
            let Some(domain) = self.domain(name) else { continue };
            domain.loss = fields.loss.or(domain.loss);
            domain.proportion = fields.proportion;
            domain.epochs = fields.epochs;
        }
        let modules = record.constraints.iter().flat_map(|constraints| &constraints.0).take(MOST_GROUPS);
        self.modules = modules.map(module).collect();
        self.speed(record);
    }

    fn speed(&mut self, record: &Step) {
        let (Some(seconds), Some(rate)) = (record.seconds, record.tokens_per_second) else { return };
        self.recent.push_back((seconds, seconds * rate));
        while self.recent.len() > RECENT_STEPS {
            self.recent.pop_front();
        }
        let seconds: f64 = self.recent.iter().map(|(seconds, _)| seconds).sum();
        let tokens: f64 = self.recent.iter().map(|(_, tokens)| tokens).sum();
        self.seconds_per_step = Some(seconds / self.recent.len() as f64);
        self.tokens_per_second = Some(tokens / seconds).filter(|rate| rate.is_finite());
    }

    fn evaluation(&mut self, record: &Eval, step: u64) {
        // The one before the first step comes once, however many steps there are.
        if step > 0 {
            self.evaluation_seconds += record.seconds.unwrap_or(0.0);
        }
        // The same model, run another way.
        if record.is_soft() {
            return;
        }
        self.last_evaluation_seconds = record.seconds.unwrap_or(0.0);
        let density = record.experts.as_ref().and_then(|experts| experts.density);
        let found = LiveEvaluation { step, mean_loss: record.mean_loss, density };
        if record.is_cut() {
            self.cut = Some(found);
            return;
        }
        self.evaluated_steps += u64::from(step > 0);
        self.evaluation = Some(found);
        for (name, fields) in record.domains.iter().take(MOST_GROUPS) {
            let Some(domain) = self.domain(name) else { continue };
            domain.validation_loss = fields.loss;
            domain.reference = fields.reference.or(domain.reference);
            domain.proportion = fields.proportion.or(domain.proportion);
        }
    }

    fn exhausted(&mut self, names: &[String]) {
        for name in names.iter().take(MOST_GROUPS) {
            if let Some(domain) = self.domain(name) {
                domain.exhausted = true;
            }
        }
    }

    /// A domain, made known if need be; none beyond [`MOST_GROUPS`], and none of a name that cannot be shown.
    fn domain(&mut self, name: &str) -> Option<&mut LiveDomain> {
        let known = self.domains.iter().position(|domain| domain.name == name);
        let place = known.unwrap_or(self.domains.len());
        if known.is_none() && place < MOST_GROUPS && is_name(name) {
            self.domains.push(LiveDomain { name: name.to_string(), ..LiveDomain::default() });
        }
        self.domains.get_mut(place)
    }
}

fn module(constraint: &Constraint) -> ConstraintSummary {
    ConstraintSummary {
        module: constraint.module.clone().unwrap_or("?".to_string()),
        expected_sparsity: constraint.expected_sparsity,
        target_sparsity: constraint.target_sparsity,
        violation: constraint.violation,
        lambda_1: constraint.lambda_1,
        lambda_2: constraint.lambda_2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn step(step: u64, seconds: f64) -> Value {
        json!({
            "type": "step", "step": step, "tokens": step * 100, "loss": { "cross_entropy": 3.0 / step as f64 },
            "domains": { "wiki": { "loss": if step == 2 { json!(null) } else { json!(1.5) }, "proportion": 0.5 } },
            "seconds": seconds, "tokens_per_second": 100.0 / seconds, "skipped": u64::from(step > 1),
        })
    }

    fn run(records: impl IntoIterator<Item = Value>) -> LiveRun {
        let mut run = LiveRun::default();
        records.into_iter().for_each(|record| run.apply(Event::Record(record)));
        run
    }

    #[test]
    fn it_stands_where_the_last_records_say() {
        let start = json!({ "type": "start", "step": 0, "stage": "prune", "steps": 4, "domains": ["code", "wiki"],
                            "proportions": [0.25, 0.75], "reference_losses": [1.0, 2.0] });
        let mut live = run([start.clone(), step(1, 3.0), step(2, 1.0)]);
        assert_eq!((live.step, live.steps, live.tokens, live.skipped), (2, Some(4), Some(200), 1));
        assert_eq!(live.losses, [Some(3.0), Some(1.5)]);
        assert_eq!((live.seconds_per_step, live.tokens_per_second), (Some(2.0), Some(50.0)));
        assert_eq!((live.progress(), live.seconds_left()), (Some(0.5), Some(4.0)));
        let evaluated = |step: u64| json!({ "type": "eval", "step": step, "seconds": 6.0 });
        let with_evaluations = run([start.clone(), evaluated(0), step(1, 3.0), step(2, 1.0), evaluated(2)]);
        assert_eq!(with_evaluations.seconds_left(), Some(10.0), "two steps of 2 s, and the evaluation after the last");
        let before_the_second = run([start.clone(), evaluated(0), step(1, 3.0), step(2, 1.0)]);
        assert_eq!(before_the_second.seconds_left(), Some(10.0), "two steps of 2 s, and the evaluation after the last");
        // Seven steps of 1 s; the second, fourth, sixth and last one are evaluated.
        let long = json!({ "type": "start", "step": 0, "stage": "pretrain", "steps": 7, "evaluate_every": 2 });
        let at = |records: &[Value]| run([&[long.clone(), evaluated(0)], records].concat()).seconds_left();
        assert_eq!(at(&[step(1, 1.0)]), Some(6.0 + 24.0));
        assert_eq!(at(&[step(1, 1.0), step(2, 1.0), evaluated(2), step(3, 1.0)]), Some(4.0 + 18.0));
        let [code, wiki] = &live.domains[..] else { panic!("two domains") };
        assert_eq!((code.name.as_str(), code.proportion, code.loss), ("code", Some(0.25), None));
        assert_eq!((wiki.proportion, wiki.loss, wiki.reference), (Some(0.5), Some(1.5), Some(2.0)));
        for record in [
            json!({ "type": "eval", "step": 2, "gates": "expected", "mean_loss": 1.25,
                    "domains": { "wiki": { "loss": 1.0, "proportion": 0.625 } } }),
            json!({ "type": "eval", "step": 2, "gates": "target", "mean_loss": 9.0, "domains": { "wiki": { "loss": 9.0 } } }),
            json!({ "type": "skip", "step": 2, "in_row": 1 }),
            json!({ "type": "exhausted", "step": 2, "domains": ["code"] }),
            json!({ "type": "save", "step": 2 }),
        ] {
            live.apply(Event::Record(record));
        }
        assert_eq!(live.evaluation, Some(LiveEvaluation { step: 2, mean_loss: Some(1.25), density: None }));
        assert_eq!(live.cut, Some(LiveEvaluation { step: 2, mean_loss: Some(9.0), density: None }));
        assert_eq!((live.domains[1].validation_loss, live.domains[1].proportion), (Some(1.0), Some(0.625)));
        assert!(live.domains[0].exhausted && !live.domains[1].exhausted);
        assert_eq!((live.last_skip, live.last_save), (Some(2), Some(2)));
        assert!(!live.is_finished(), "two of four steps");
        live.apply(Event::Restarted);
        assert_eq!(live, LiveRun::default());
    }

    #[test]
    fn routers_are_told_as_of_the_last_step_and_soft_scores_are_no_validation() {
        let routed = |step: u64, stage: u64| {
            json!({ "type": "step", "step": step,
                    "routers": { "density": 0.75, "target": 0.5, "near_threshold": 0.1, "stage": stage } })
        };
        let eval = |gates: &str, loss: f64, experts: Value| {
            json!({ "type": "eval", "step": 2, "gates": gates, "mean_loss": loss, "experts": experts, "seconds": 2.0,
                    "domains": { "wiki": { "loss": loss } } })
        };
        let hard = eval("experts", 1.5, json!({ "density": 0.625 }));
        let live = run([routed(1, 1), routed(2, 2), hard, eval("soft", 9.0, json!(null))]);
        assert_eq!((live.density, live.target_density, live.router_stage), (Some(0.75), Some(0.5), Some(2)));
        let expected = LiveEvaluation { step: 2, mean_loss: Some(1.5), density: Some(0.625) };
        assert_eq!((live.evaluation, live.domains[0].validation_loss), (Some(expected), Some(1.5)));
        assert_eq!(live.evaluation_seconds, 4.0, "both took time");
    }

    #[test]
    fn it_is_finished_when_the_last_step_is_saved() {
        let start = json!({ "type": "start", "step": 0, "steps": 2 });
        let mut live = run([start, step(1, 1.0), json!({ "type": "save", "step": 1 }), step(2, 1.0)]);
        assert!(!live.is_finished());
        assert_eq!(live.after_the_steps(), Some("evaluating"));
        live.apply(Event::Record(json!({ "type": "eval", "step": 2, "mean_loss": 2.0 })));
        assert_eq!(live.after_the_steps(), Some("writing the last checkpoint"));
        live.apply(Event::Record(json!({ "type": "save", "step": 2 })));
        assert!(live.is_finished() && live.after_the_steps().is_none());
    }

    #[test]
    fn a_run_that_was_stopped_in_its_last_evaluation_is_not_finished_before_that_is_made() {
        let start = json!({ "type": "start", "step": 0, "steps": 1 });
        let saved = json!({ "type": "save", "step": 1, "evaluation_due": true });
        let mut live = run([start, step(1, 1.0), saved]);
        assert!(!live.is_finished());
        live.apply(Event::Record(json!({ "type": "eval", "step": 1, "mean_loss": 2.0 })));
        assert!(!live.is_finished() && live.after_the_steps() == Some("writing the last checkpoint"));
        live.apply(Event::Record(json!({ "type": "save", "step": 1 })));
        assert!(live.is_finished());
    }

    #[test]
    fn speed_is_that_of_the_last_steps() {
        let live = run((1..=40).map(|at| step(at, if at <= 20 { 9.0 } else { 1.0 })));
        assert_eq!((live.seconds_per_step, live.seconds_left()), (Some(1.0), None));
        assert_eq!(live.losses.len(), 40);
    }

    #[test]
    fn a_strange_file_cannot_name_domains_without_end() {
        let names = |from: usize| (from..from + 400).map(|i| format!("d{i}")).collect::<Vec<_>>();
        let by_name = |from: usize| names(from).into_iter().map(|name| (name, json!({ "loss": 1 }))).collect::<Value>();
        let modules: Vec<Value> = (0..3000).map(|i| json!({ "module": format!("m{i}") })).collect();
        let live = run([
            json!({ "type": "start", "step": 0, "domains": names(0) }),
            json!({ "type": "eval", "step": 0, "domains": by_name(400) }),
            json!({ "type": "step", "step": 1, "domains": by_name(800), "constraints": modules }),
            json!({ "type": "exhausted", "step": 1, "domains": ["a\nb", "d7", "d1200"] }),
        ]);
        assert_eq!((live.domains.len(), live.modules.len()), (1000, 1000));
        assert!(live.domains[7].exhausted && live.domains[999].loss == Some(1.0));
        assert!(run([json!({ "type": "start", "step": 0, "domains": ["a\nb"] })]).domains.is_empty());
    }

    #[test]
    fn records_of_a_strange_file_do_no_harm() {
        for record in [
            json!(null),
            json!([1]),
            json!({ "type": 3, "step": 1 }),
            json!({ "type": "step", "step": -1 }),
            json!({ "type": "step", "step": 1, "loss": [], "domains": [], "constraints": [3, {}], "seconds": "x" }),
            json!({ "type": "eval", "step": 1, "domains": { "a": 3 } }),
            json!({ "type": "start", "step": 0, "steps": 0, "domains": "wiki", "proportions": {} }),
            json!({ "type": "exhausted", "step": 1, "domains": { "a": 1 } }),
        ] {
            let live = run([record]);
            assert_eq!((live.progress(), live.seconds_left(), live.is_finished()), (None, None, false));
        }
    }
}
