//! When to evaluate, update the mixer, save and stop: pure functions of step numbers, so that a resumed run takes
//! the same decisions. `step` counts finished steps, from 1 to `steps`.

use crate::config::RunConfig;
use shearling_domains::MixerKind;

/// Intervals of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Steps of the whole run.
    pub steps: u64,
    /// Steps between evaluations.
    pub evaluate_every: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Stop (with a checkpoint) after this step.
    pub stop_at: Option<u64>,
    /// The mixer does not move before this step.
    pub mixer_from: u64,
}

impl Intervals {
    /// Intervals of a configuration.
    pub fn new(config: &RunConfig, stop_at: Option<u64>) -> Intervals {
        let (evaluate_every, save_every) = (config.eval.every_steps, config.checkpoint.every_steps);
        // While the targets of the masks still rise, an excess says how far these have come.
        let waits = config.mixer.kind == MixerKind::Bounded && config.target.is_some();
        let mixer_from = if waits { config.masks.target_warmup(config.train.steps) } else { 0 };
        Intervals { steps: config.train.steps, evaluate_every, save_every, stop_at, mixer_from }
    }

    /// Evaluations of the whole run: the one before the first step, the scheduled ones, and with masks a second one of the
    /// cut wherever a step is saved on schedule.
    pub fn evaluations(&self, with_masks: bool) -> u64 {
        1 + self.evaluations_after(0, with_masks)
    }

    /// Those of them that are left after `step`.
    pub fn evaluations_after(&self, step: u64, with_masks: bool) -> u64 {
        let steps = step + 1..=self.steps;
        let cuts = if with_masks { steps.clone().filter(|step| self.saves_on_schedule(*step)).count() } else { 0 };
        (steps.filter(|step| self.evaluates(*step)).count() + cuts) as u64
    }

    /// Evaluate after `step`: on schedule and at the end.
    pub fn evaluates(&self, step: u64) -> bool {
        step == self.steps || (step > 0 && step.is_multiple_of(self.evaluate_every))
    }

    /// Update the mixer after the evaluation of `step`: on schedule, but not before the first step (nothing was
    /// learned yet), not after the last (nothing follows), and not before it may.
    pub fn updates_mixer(&self, step: u64) -> bool {
        step > 0 && step < self.steps && step >= self.mixer_from && step.is_multiple_of(self.evaluate_every)
    }

    /// How often [`Self::updates_mixer`] says yes in the whole run.
    pub fn mixer_updates(&self) -> u64 {
        let before = |step: u64| step.saturating_sub(1) / self.evaluate_every.max(1);
        before(self.steps).saturating_sub(before(self.mixer_from))
    }

    /// Save after `step` on schedule or at the end. Only these saves are evaluated and compete for "best", so that
    /// stopping a run somewhere does not change what it keeps.
    pub fn saves_on_schedule(&self, step: u64) -> bool {
        step == self.steps || (step > 0 && step.is_multiple_of(self.save_every))
    }

    /// Save after `step`: on schedule, at the end, and where the run is told to stop.
    pub fn saves(&self, step: u64, interrupted: bool) -> bool {
        self.saves_on_schedule(step) || self.stops(step, interrupted)
    }

    /// Leave the loop after `step`.
    pub fn stops(&self, step: u64, interrupted: bool) -> bool {
        step >= self.steps || self.stop_at.is_some_and(|stop| step >= stop) || interrupted
    }
}

/// Whether a new evaluation is the best so far. A NaN never is.
pub fn improves(loss: f64, best: Option<f64>) -> bool {
    loss.is_finite() && best.is_none_or(|best| loss < best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Intervals = Intervals { steps: 100, evaluate_every: 30, save_every: 40, stop_at: None, mixer_from: 0 };

    #[test]
    fn evaluates_on_schedule_and_at_the_end() {
        let steps: Vec<u64> = (0..=100).filter(|step| RUN.evaluates(*step)).collect();
        assert_eq!(steps, [30, 60, 90, 100]);
    }

    #[test]
    fn the_mixer_moves_neither_before_the_first_nor_after_the_last_step() {
        let steps: Vec<u64> = (0..=100).filter(|step| RUN.updates_mixer(*step)).collect();
        assert_eq!(steps, [30, 60, 90]);
        assert!(!Intervals { evaluate_every: 50, ..RUN }.updates_mixer(100));
    }

    #[test]
    fn a_mixer_that_waits_moves_from_its_step_on_and_its_updates_are_counted() {
        for (mixer_from, expected) in [(0, vec![30, 60, 90]), (30, vec![30, 60, 90]), (31, vec![60, 90]), (100, vec![])]
        {
            let run = Intervals { mixer_from, ..RUN };
            let steps: Vec<u64> = (0..=100).filter(|step| run.updates_mixer(*step)).collect();
            assert_eq!((run.mixer_updates(), &steps), (expected.len() as u64, &expected));
        }
        assert_eq!(Intervals { evaluate_every: 50, ..RUN }.mixer_updates(), 1);
        // After 30, 60, 90 and 100; of the cut after 40, 80 and 100.
        assert_eq!([(0, false), (0, true)].map(|(step, masks)| RUN.evaluations_after(step, masks)), [4, 7]);
        assert_eq!([(60, true), (100, true)].map(|(step, masks)| RUN.evaluations_after(step, masks)), [4, 0]);
    }

    #[test]
    fn only_a_bounded_mixer_waits_and_only_for_masks() {
        let from = |sets: &[&str]| {
            let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n\
                        [train]\nsteps = 100\nbatch_rows = 2\nlearning_rate = 0.1\n";
            let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
            Intervals::new(&crate::config::parse(text, "test", &sets).unwrap(), None).mixer_from
        };
        assert_eq!(from(&["mixer.kind=bounded", "target.hidden_size=8"]), 20);
        assert_eq!(from(&["mixer.kind=bounded", "target.hidden_size=8", "masks.warmup_steps=7"]), 7);
        assert_eq!(from(&["mixer.kind=bounded"]), 0);
        assert_eq!(from(&["mixer.kind=dynamic", "target.hidden_size=8"]), 0);
    }

    #[test]
    fn saves_on_schedule_at_the_end_and_when_stopped() {
        let steps: Vec<u64> = (0..=100).filter(|step| RUN.saves(*step, false)).collect();
        assert_eq!(steps, [40, 80, 100]);
        assert!(RUN.saves(7, true) && RUN.stops(7, true));
        assert!(Intervals { stop_at: Some(5), ..RUN }.saves(5, false));
    }

    #[test]
    fn nan_is_never_the_best() {
        assert!(improves(2.0, None) && improves(1.0, Some(2.0)));
        assert!(!improves(f64::NAN, None) && !improves(2.0, Some(2.0)));
    }
}
