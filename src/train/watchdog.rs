//! Tells from the losses of a run whether it diverges.
//!
//! ```text
//! too high:  evaluation        mean > start + 1 nat                      without masks
//!                              mean > max(start + 1 nat, 0.98·ln V)      with masks, which cost several nats for a while
//!            32 steps together the same of their mean excess over what the start lost on the same mix of domains
//!            either            not finite; or every domain at ln V to 1e-4: a model that answers nothing
//! diverged:  three evaluations in a row, or three such spans of steps, or the last evaluation of the run
//! ```
//!
//! Below 0.98·ln V a loss that still falls, by a twentieth of a nat from the lowest of its row, is one more chance and does
//! not count: a run that was set back and recovers is not stopped on its way.
//!
//! `start` is the evaluation before the first step. A run from random weights starts at ln V and only falls; a pruned
//! source rises towards ln V, but what is there for three evaluations has lost all it knew. Warm-up needs no exception:
//! it makes changes smaller.
//!
//! Everything is read from the records of `metrics.jsonl`, while the run goes on and again when it resumes: a resumed run
//! judges as the uninterrupted one does, and the checkpoint knows nothing of it.

use crate::run_dir::record::{DomainEval, Eval, Record, Step, What};
use std::collections::BTreeMap;

/// Evaluations (or spans of steps) in a row that say so before a run has diverged.
pub const PATIENCE: u64 = 3;
/// Steps that are judged together.
const SPAN: u64 = 32;
/// Nats above the start that training does not explain.
const MARGIN: f64 = 1.0;
/// Nats by which a loss must fall to count as falling.
const FALL: f64 = 0.05;
/// Part of ln V from which a model with masks counts as knowing nothing; single letters of natural text are far below.
const NEAR_UNIFORM: f64 = 0.98;
/// How near to ln V every domain is when the model gives each token the same probability.
const SAME: f64 = 1e-4;

/// A loss that is too high.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Whether the one before was not.
    pub is_first: bool,
    /// What was found.
    pub text: String,
}

/// The judge of one run.
#[derive(Clone, Debug)]
pub struct Watchdog {
    uniform: f64,
    masked: bool,
    start: Option<Start>,
    evaluations: Streak,
    spans: Streak,
    span: Span,
    skipped_in_row: u64,
    /// The last step that changed the weights.
    last_applied: u64,
    /// The newest two checkpoints written while all was well, the newest first.
    good_saves: [Option<u64>; 2],
}

/// Alarms in a row that count, the lowest loss among them, and what the last one said.
#[derive(Clone, Debug, Default)]
struct Streak {
    in_row: u64,
    lowest: f64,
    text: String,
}

/// What is too high, and why.
struct Found {
    loss: f64,
    text: String,
}

impl Streak {
    fn take(&mut self, found: Option<Found>, uniform: f64) -> Option<Alarm> {
        let Some(Found { loss, text }) = found else {
            *self = Streak::default();
            return None;
        };
        let is_first = self.in_row == 0;
        let falls = !is_first && loss < NEAR_UNIFORM * uniform && loss < self.lowest - FALL;
        let lowest = if is_first { loss } else { self.lowest.min(loss) };
        *self = Streak { in_row: self.in_row + u64::from(!falls), lowest, text };
        Some(Alarm { is_first, text: self.text.clone() })
    }
}

/// The losses before the first step.
#[derive(Clone, Debug)]
struct Start {
    mean: f64,
    domains: BTreeMap<String, f64>,
}

/// Sums over the applied steps that are judged together.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    steps: u64,
    loss: f64,
    expected: f64,
}

impl Watchdog {
    /// For a run with this vocabulary, with or without masks.
    pub fn new(vocab_size: i64, masked: bool) -> Watchdog {
        Watchdog {
            uniform: (vocab_size.max(1) as f64).ln(),
            masked,
            start: None,
            evaluations: Streak::default(),
            spans: Streak::default(),
            span: Span::default(),
            skipped_in_row: 0,
            last_applied: 0,
            good_saves: [None; 2],
        }
    }

    /// Takes the next record of the run; what is wrong with it, if anything.
    pub fn take(&mut self, record: &Record) -> Option<Alarm> {
        match &record.what {
            What::Eval(eval) if !eval.is_as_run() => None,
            What::Eval(eval) if record.step == Some(0) => {
                self.start = Start::of(eval);
                None
            }
            What::Eval(eval) => {
                let found = self.judge_evaluation(eval);
                self.evaluations.take(found, self.uniform)
            }
            What::Step(step) => self.take_step(record.step, step),
            // Nothing is known of weights whose evaluation is due; they are saved again when it is made.
            What::Save(saved) => {
                if self.is_well() && saved.evaluation_due != Some(true) {
                    self.good_saves = [record.step, self.good_saves[0]];
                }
                None
            }
            _ => None,
        }
    }

    /// Whether nothing speaks against the weights as they are now.
    pub fn is_well(&self) -> bool {
        self.evaluations.in_row == 0 && self.spans.in_row == 0 && self.skipped_in_row == 0
    }

    /// The newest checkpoint that was written while all was well. One that holds the very weights that give a non-finite
    /// loss now is not.
    pub fn last_good_save(&self) -> Option<u64> {
        let blamed = |step: &u64| self.skipped_in_row > 0 && *step >= self.last_applied;
        self.good_saves.into_iter().flatten().find(|step| !blamed(step))
    }

    /// Why the run has diverged, if it has.
    pub fn verdict(&self) -> Option<String> {
        let of = |streak: &Streak, what: &str| {
            (streak.in_row >= PATIENCE)
                .then(|| format!("{what}: {} in a row, the last: {}", streak.in_row, streak.text))
        };
        of(&self.evaluations, "evaluations with too high a loss")
            .or_else(|| of(&self.spans, &format!("spans of {SPAN} steps with too high a training loss")))
    }

    /// What is wrong with the last evaluation, if anything: it is of the model that would be written.
    pub fn last_evaluation(&self) -> Option<&str> {
        (self.evaluations.in_row > 0).then_some(self.evaluations.text.as_str())
    }

    fn judge_evaluation(&self, eval: &Eval) -> Option<Found> {
        let has_rows = |domain: &DomainEval| domain.rows.is_some_and(|rows| rows > 0);
        let domains = || eval.domains.iter().filter(|(_, domain)| has_rows(domain));
        let broken: Vec<&str> = domains().filter(|(_, domain)| domain.loss.is_none()).map(|(name, _)| name).collect();
        if !broken.is_empty() {
            let text = format!("the validation loss is not finite ({})", broken.join(", "));
            return Some(Found { loss: f64::INFINITY, text });
        }
        let same = |domain: &DomainEval| (domain.loss.unwrap_or(0.0) - self.uniform).abs() < SAME;
        if domains().next().is_some() && domains().all(|(_, domain)| same(domain)) {
            let text = format!(
                "the validation loss of every domain is ln(vocabulary) = {:.4}: the model gives every token the same \
                 probability",
                self.uniform
            );
            return Some(Found { loss: self.uniform, text });
        }
        let mean = eval.mean_loss?;
        let text = || format!("the validation loss is {mean:.4}, {}", self.why());
        (mean > self.limit()).then(|| Found { loss: mean, text: text() })
    }

    fn take_step(&mut self, number: Option<u64>, step: &Step) -> Option<Alarm> {
        if step.applied == Some(false) {
            self.skipped_in_row += 1;
            return None;
        }
        self.skipped_in_row = 0;
        self.last_applied = number.unwrap_or(self.last_applied);
        let loss = step.loss.cross_entropy?;
        let expected = self.start.as_ref().and_then(|start| start.on_mix(step)).unwrap_or(0.0);
        let Span { steps, loss: losses, expected: sum } = self.span;
        self.span = Span { steps: steps + 1, loss: losses + loss, expected: sum + expected };
        if self.span.steps < SPAN {
            return None;
        }
        let Span { steps, loss, expected } = std::mem::take(&mut self.span);
        let (loss, expected) = (loss / steps as f64, expected / steps as f64);
        let allowed = self.limit() - self.start.as_ref().map_or(0.0, |start| start.mean);
        let text = || format!("the training loss of the last {SPAN} steps is {loss:.4}, {}", self.why());
        let found = (loss - expected > allowed).then(|| Found { loss, text: text() });
        self.spans.take(found, self.uniform)
    }

    fn limit(&self) -> f64 {
        let above = self.start.as_ref().map_or(self.uniform, |start| start.mean) + MARGIN;
        if self.masked { above.max(NEAR_UNIFORM * self.uniform) } else { above }
    }

    /// Beside what the limit is measured.
    fn why(&self) -> String {
        let uniform = format!("ln(vocabulary), the loss of a uniform guess, is {:.4}", self.uniform);
        match &self.start {
            Some(start) => format!("before the first step it was {:.4} ({uniform})", start.mean),
            None => uniform,
        }
    }
}

impl Start {
    fn of(eval: &Eval) -> Option<Start> {
        let domains = eval.domains.iter().filter_map(|(name, domain)| Some((name.to_string(), domain.loss?))).collect();
        Some(Start { mean: eval.mean_loss?, domains })
    }

    /// What the start would lose on the rows of a step.
    fn on_mix(&self, step: &Step) -> Option<f64> {
        let (mut rows, mut sum) = (0.0, 0.0);
        for (name, domain) in step.domains.iter() {
            let count = domain.rows.unwrap_or(0) as f64;
            rows += count;
            sum += count * self.domains.get(name).copied().unwrap_or(self.mean);
        }
        (rows > 0.0).then_some(sum / rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const VOCABULARY: i64 = 49_152;

    fn eval(step: u64, losses: [f64; 2]) -> Record {
        let domain = |loss: f64| json!({ "loss": loss, "rows": 4 });
        let gates = if step == 0 { "plain" } else { "expected" };
        Record::from(json!({ "type": "eval", "step": step, "gates": gates, "mean_loss": (losses[0] + losses[1]) / 2.0,
                "domains": { "a": domain(losses[0]), "b": domain(losses[1]) } }))
    }

    fn step(step: u64, loss: f64) -> Record {
        Record::from(json!({ "type": "step", "step": step, "applied": true, "loss": { "cross_entropy": loss },
                "domains": { "a": { "rows": 6 }, "b": { "rows": 2 } } }))
    }

    fn save(step: u64) -> Record {
        Record::from(json!({ "type": "save", "step": step }))
    }

    /// Alarms of evaluations every 50 steps, each domain half a nat to a side of the mean.
    fn alarms(watchdog: &mut Watchdog, means: &[f64]) -> Vec<u64> {
        let records = means.iter().enumerate().map(|(at, mean)| eval(50 * at as u64, [mean - 0.5, mean + 0.5]));
        records.map(|record| watchdog.take(&record).map_or(0, |_| watchdog.evaluations.in_row)).collect()
    }

    #[test]
    fn a_healthy_prune_run_is_left_alone_however_much_its_masks_cost() {
        let mut watchdog = Watchdog::new(VOCABULARY, true);
        let measured = [2.35, 2.6, 3.9, 5.3, 5.9, 5.6, 5.0, 4.6, 4.3, 4.2];
        assert_eq!(alarms(&mut watchdog, &measured), [0; 10]);
        for at in 1..=400 {
            assert_eq!(watchdog.take(&step(at, 6.8)), None, "drawn gates cost more than expected ones");
        }
        assert!(watchdog.verdict().is_none() && watchdog.is_well());
    }

    #[test]
    fn training_from_random_weights_is_left_alone() {
        let uniform = (VOCABULARY as f64).ln();
        let mut watchdog = Watchdog::new(VOCABULARY, false);
        assert_eq!(alarms(&mut watchdog, &[0.05, 0.05, 0.04, 0.02, -0.3, -2.0].map(|d| uniform + d)), [0; 6]);
        (1..=200).for_each(|at| assert_eq!(watchdog.take(&step(at, uniform + 0.1)), None));
        assert!(watchdog.is_well());
    }

    #[test]
    fn three_evaluations_at_the_uniform_loss_are_a_verdict_the_first_an_alarm() {
        let mut watchdog = Watchdog::new(VOCABULARY, true);
        assert_eq!(alarms(&mut watchdog, &[2.35, 10.8, 10.83]), [0, 1, 2]);
        assert!(watchdog.verdict().is_none() && !watchdog.is_well());
        let alarm = watchdog.take(&eval(150, [10.8, 10.8])).unwrap();
        assert!(alarm.text.contains("10.8000, before the first step it was 2.3500"), "{}", alarm.text);
        assert!(watchdog.verdict().unwrap().contains("3 in a row"));
        watchdog.take(&eval(200, [4.0, 4.0]));
        assert!(watchdog.verdict().is_none() && watchdog.is_well());
    }

    #[test]
    fn without_masks_a_nat_above_the_start_is_too_much() {
        let mut watchdog = Watchdog::new(VOCABULARY, false);
        assert_eq!(alarms(&mut watchdog, &[3.0, 3.3, 3.9, 4.1, 7.2]), [0, 0, 0, 1, 2]);
    }

    #[test]
    fn a_loss_that_still_falls_has_time_and_one_above_the_uniform_has_not() {
        let mut watchdog = Watchdog::new(VOCABULARY, false);
        let means = [3.0, 8.0, 7.0, 6.0, 5.0, 4.5, 4.49, 4.48];
        assert_eq!(alarms(&mut watchdog, &means), [0, 1, 1, 1, 1, 1, 2, 3]);
        let mut watchdog = Watchdog::new(VOCABULARY, false);
        assert_eq!(alarms(&mut watchdog, &[3.0, 101.0, 87.0, 35.0]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_model_that_answers_nothing_is_told_even_if_it_began_there() {
        let uniform = (VOCABULARY as f64).ln();
        let mut watchdog = Watchdog::new(VOCABULARY, false);
        watchdog.take(&eval(0, [uniform + 0.03, uniform + 0.02]));
        let alarm = watchdog.take(&eval(50, [uniform, uniform + 1e-6])).unwrap();
        assert!(alarm.text.contains("the same probability"), "{}", alarm.text);
    }

    #[test]
    fn a_loss_that_is_not_finite_is_told_with_its_domains_and_one_without_rows_is_not() {
        let mut watchdog = Watchdog::new(VOCABULARY, true);
        watchdog.take(&eval(0, [2.0, 2.0]));
        let mut record = eval(50, [2.0, 2.0]).to_json();
        record["domains"]["b"] = json!({ "loss": null, "rows": 0 });
        assert_eq!(watchdog.take(&Record::from(&record)), None);
        record["domains"]["a"]["loss"] = json!(null);
        assert_eq!(watchdog.take(&record.into()).unwrap().text, "the validation loss is not finite (a)");
    }

    #[test]
    fn between_evaluations_the_training_loss_is_judged_on_its_own_mix() {
        let mut watchdog = Watchdog::new(VOCABULARY, false);
        watchdog.take(&eval(0, [1.0, 5.0]));
        // Three quarters of the rows are of `a`: the start would lose 2 on them.
        let mut first = |loss: f64, from: u64| {
            let alarms = (from..from + 32).filter_map(|at| watchdog.take(&step(at, loss)));
            alarms.map(|alarm| alarm.is_first).collect::<Vec<_>>()
        };
        assert_eq!(first(2.9, 1), [false; 0]);
        assert_eq!((first(3.1, 33), first(3.1, 65), first(3.1, 97)), (vec![true], vec![false], vec![false]));
        assert!(watchdog.verdict().unwrap().contains("training loss"));
    }

    #[test]
    fn the_newest_good_checkpoint_is_the_last_one_before_it_went_wrong() {
        let mut watchdog = Watchdog::new(VOCABULARY, true);
        let skip = Record::from(json!({ "type": "step", "step": 152, "applied": false, "loss": {} }));
        for record in [eval(0, [2.0, 2.0]), eval(50, [3.0, 3.0]), save(50), eval(100, [12.0, 12.0]), save(100)] {
            watchdog.take(&record);
        }
        assert_eq!(watchdog.last_good_save(), Some(50));
        for record in [step(150, 3.0), eval(150, [3.0, 3.0]), save(150), step(151, 3.0), skip, save(152)] {
            watchdog.take(&record);
        }
        assert_eq!(watchdog.last_good_save(), Some(150));
    }

    #[test]
    fn a_checkpoint_of_the_weights_that_give_non_finite_losses_is_not_good() {
        let mut watchdog = Watchdog::new(VOCABULARY, true);
        let skip = Record::from(json!({ "type": "step", "step": 4, "applied": false, "loss": {} }));
        for record in [step(1, 3.0), save(1), step(2, 3.0), step(3, 3.0), save(3), skip] {
            watchdog.take(&record);
        }
        assert_eq!(watchdog.last_good_save(), Some(1));
        watchdog.take(&step(5, 3.0));
        assert_eq!(watchdog.last_good_save(), Some(3), "it was one batch");
    }
}
