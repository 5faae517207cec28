//! What pruning did to each domain, and what training made good: the losses of the source, of the model just cut, and
//! the last ones, side by side. One run tells its part; a prune run and the run that continued its model tell all of it
//! together ([`joined`]).

use super::columns::ends;
use super::evaluations::{DomainEval, Evaluation};
use super::history::RunHistory;
use serde::Serialize;

/// A loss on held-out rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct HeldOutLoss {
    /// Nats per target token.
    pub loss: f64,
    /// Of the mean over rows, where it is known.
    pub standard_error: Option<f64>,
    /// Finished steps of the run that evaluated it; none for a reference loss from a file.
    pub step: Option<u64>,
}

/// A domain from the source to the last evaluation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DomainStory {
    /// Its name.
    pub domain: String,
    /// The model before pruning: evaluated before the first step, else the reference loss.
    pub source: Option<HeldOutLoss>,
    /// The model cut to its target, before any training without masks.
    pub cut: Option<HeldOutLoss>,
    /// At the last evaluation.
    pub last: Option<HeldOutLoss>,
    /// Cut − source in standard errors of the difference (both taken as independent; the rows are the same, so the true
    /// error is smaller).
    pub hurt: Option<f64>,
    /// Share of cut − source that the last evaluation made good: 1 is all of it. Only after a cut that did damage.
    pub recovered: Option<f64>,
    /// Proportion of the mix in the first and the last step.
    pub first_proportion: Option<f64>,
    /// See `first_proportion`.
    pub last_proportion: Option<f64>,
    /// Rows seen.
    pub rows: Option<f64>,
    /// Epochs over its training rows.
    pub epochs: Option<f64>,
}

/// What one run tells of each of its domains.
pub(super) fn of_run(history: &RunHistory) -> Vec<DomainStory> {
    history.domains.iter().map(|domain| of_domain(history, domain)).collect()
}

/// The story over several runs, in their order: the source from the first that knows it, the cut from the first prune
/// run (or the run that started from one), the last evaluation from the last run, proportions from first to last.
pub fn joined(histories: &[&RunHistory]) -> Vec<DomainStory> {
    let mut stories: Vec<DomainStory> = Vec::new();
    for story in histories.iter().flat_map(|history| &history.stories) {
        match stories.iter_mut().find(|known| known.domain == story.domain) {
            Some(known) => known.continue_with(story),
            None => stories.push(story.clone()),
        }
    }
    stories.iter_mut().for_each(DomainStory::measure);
    stories
}

impl DomainStory {
    fn continue_with(&mut self, later: &DomainStory) {
        // A measured source is better than a reference from a file.
        if self.source.is_none_or(|source| source.step.is_none()) {
            self.source = later.source.filter(|source| source.step.is_some()).or(self.source).or(later.source);
        }
        self.cut = self.cut.or(later.cut);
        // What a run evaluated before its first step is the model it was given: nothing later.
        self.last = later.last.filter(|last| last.step != Some(0)).or(self.last).or(later.last);
        self.first_proportion = self.first_proportion.or(later.first_proportion);
        self.last_proportion = later.last_proportion.or(self.last_proportion);
        self.rows = sum(self.rows, later.rows);
        self.epochs = sum(self.epochs, later.epochs);
    }

    /// Fills in `hurt` and `recovered`.
    fn measure(&mut self) {
        let (Some(source), Some(cut)) = (self.source, self.cut) else { return };
        let damage = cut.loss - source.loss;
        let error = cut.standard_error.unwrap_or(0.0).hypot(source.standard_error.unwrap_or(0.0));
        self.hurt = (error > 0.0).then(|| damage / error);
        // The last evaluation of a prune run is the cut itself: nothing was made good yet.
        let after = self.last.filter(|last| *last != cut && damage > 0.0);
        self.recovered = after.map(|last| (cut.loss - last.loss) / damage);
    }
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    if a.is_none() && b.is_none() { None } else { Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)) }
}

fn of_domain(history: &RunHistory, name: &str) -> DomainStory {
    let evaluated = |evaluation: &Evaluation| loss_in(evaluation, name);
    let prunes = history.stage.as_deref() == Some("prune");
    let start = history.evaluations.iter().find(|evaluation| evaluation.step == 0).and_then(evaluated);
    let cut = history.evaluations.iter().rev().find(|evaluation| evaluation.is_cut()).and_then(evaluated);
    let reference = history.evaluations.iter().find_map(|evaluation| evaluation.domain(name)?.reference);
    let reference = reference.map(|loss| HeldOutLoss { loss, standard_error: None, step: None });
    let steps = history.steps.domains.iter().find(|domain| domain.domain == name);
    let (first_proportion, last_proportion) = steps.map_or((None, None), |steps| ends(&steps.proportion));
    let mut story = DomainStory {
        domain: name.to_string(),
        source: if prunes { start.or(reference) } else { reference },
        cut: if prunes { cut } else { start.filter(|_| history.continues_pruned) },
        // Of a prune run only the cut model is published, so its last loss counts once there is one.
        last: cut.filter(|_| prunes).or_else(|| history.evaluations.iter().rev().find_map(evaluated)),
        first_proportion,
        last_proportion,
        rows: steps.and_then(|steps| ends(&steps.rows_total).1),
        epochs: steps.and_then(|steps| ends(&steps.epochs).1),
        ..DomainStory::default()
    };
    story.measure();
    story
}

fn loss_in(evaluation: &Evaluation, name: &str) -> Option<HeldOutLoss> {
    let DomainEval { loss, standard_error, .. } = evaluation.domain(name)?;
    Some(HeldOutLoss { loss: (*loss)?, standard_error: *standard_error, step: Some(evaluation.step) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(loss: f64, step: Option<u64>) -> Option<HeldOutLoss> {
        Some(HeldOutLoss { loss, standard_error: step.map(|_| 0.3), step })
    }

    #[test]
    fn damage_is_counted_in_standard_errors_and_recovery_as_its_share() {
        let mut story = DomainStory { source: at(1.0, Some(0)), cut: at(3.0, Some(9)), ..DomainStory::default() };
        story.last = story.cut;
        story.measure();
        assert!((story.hurt.unwrap() - 2.0 / 0.3f64.hypot(0.3)).abs() < 1e-12);
        assert_eq!(story.recovered, None, "the cut is the last that is known");
        let later = DomainStory { source: at(7.0, None), last: at(1.5, Some(20)), ..DomainStory::default() };
        story.continue_with(&later);
        story.measure();
        assert_eq!(story.source, at(1.0, Some(0)));
        assert_eq!(story.recovered, Some(0.75));
    }

    #[test]
    fn a_continuation_without_a_step_makes_nothing_good() {
        let mut story = DomainStory { source: at(1.0, Some(0)), cut: at(3.0, Some(9)), ..DomainStory::default() };
        story.last = story.cut;
        // The same model, evaluated once more: not the same digits.
        let later = DomainStory { cut: at(2.999, Some(0)), last: at(2.999, Some(0)), ..DomainStory::default() };
        story.continue_with(&later);
        story.measure();
        assert_eq!((story.recovered, story.last), (None, story.cut));
        let mut unknown = DomainStory::default();
        unknown.continue_with(&later);
        assert_eq!(unknown.last, later.last, "the only one that is known");
    }

    #[test]
    fn without_errors_or_damage_nothing_is_claimed() {
        let mut story = DomainStory { source: at(2.0, None), cut: at(1.0, None), ..DomainStory::default() };
        story.last = at(0.5, Some(3));
        story.measure();
        assert_eq!((story.hurt, story.recovered), (None, None));
    }
}
