//! What pruning did to each domain, and what training made good: the losses of the source, of the model just cut, and
//! the last ones, side by side. One run tells its part; a prune run and the run that continued its model tell all of it
//! together ([`joined`]).

use super::columns::ends;
use super::evaluations::{DomainEval, Evaluation};
use super::history::RunHistory;
use crate::eval::statistics::paired_difference;
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
    /// Standard error of cut − source: of the differences row by row where one run evaluated both on the same rows
    /// (`paired`), else as if the two were independent. None against a reference loss, which is of other rows.
    pub damage_standard_error: Option<f64>,
    /// Whether that error is of paired rows. If not, the true one is likely much smaller.
    pub paired: bool,
    /// Cut − source in these standard errors.
    pub hurt: Option<f64>,
    /// Share of cut − source that was made good since: 1 is all of it. Only after a cut that did damage.
    pub recovered: Option<f64>,
    /// Proportion of the mix in the first and the last step.
    pub first_proportion: Option<f64>,
    /// See `first_proportion`.
    pub last_proportion: Option<f64>,
    /// Rows seen.
    pub rows: Option<f64>,
    /// Epochs over its training rows.
    pub epochs: Option<f64>,
    /// Of cut − source, from rows that one run evaluated twice.
    #[serde(skip)]
    pub(crate) paired_error: Option<f64>,
    /// The cut as the run that continued it evaluated it: its rows may be others than those of the run that pruned.
    #[serde(skip)]
    pub(crate) continued_from: Option<HeldOutLoss>,
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
        self.paired_error = self.paired_error.or(later.paired_error);
        self.continued_from = later.cut.or(self.continued_from);
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
        let independent = cut.standard_error.zip(source.standard_error).map(|(cut, source)| cut.hypot(source));
        self.paired = self.paired_error.is_some();
        self.damage_standard_error = self.paired_error.or(independent).filter(|error| *error > 0.0);
        self.hurt = self.damage_standard_error.map(|error| damage / error);
        // The last evaluation of a prune run is the cut itself: nothing was made good yet.
        let after = self.last.filter(|last| *last != cut && damage > 0.0);
        let from = self.continued_from.unwrap_or(cut);
        self.recovered = after.map(|last| (from.loss - last.loss) / damage);
    }
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    if a.is_none() && b.is_none() { None } else { Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)) }
}

fn of_domain(history: &RunHistory, name: &str) -> DomainStory {
    let evaluated = |evaluation: &Evaluation| loss_in(evaluation, name);
    let prunes = history.stage.as_deref() == Some("prune");
    let first = history.evaluations.iter().find(|evaluation| evaluation.step == 0);
    let cut_at_end = history.evaluations.iter().rev().find(|evaluation| evaluation.is_cut());
    let (start, cut) = (first.and_then(evaluated), cut_at_end.and_then(evaluated));
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
        paired_error: first.zip(cut_at_end).filter(|_| prunes).and_then(|(from, to)| paired_error(from, to, name)),
        ..DomainStory::default()
    };
    story.measure();
    story
}

/// Error of the mean difference between two evaluations of the same rows.
fn paired_error(from: &Evaluation, to: &Evaluation, name: &str) -> Option<f64> {
    paired_difference(&to.domain(name)?.row_losses, &from.domain(name)?.row_losses)?.standard_error
}

fn loss_in(evaluation: &Evaluation, name: &str) -> Option<HeldOutLoss> {
    let DomainEval { loss, standard_error, .. } = evaluation.domain(name)?;
    Some(HeldOutLoss { loss: (*loss)?, standard_error: *standard_error, step: Some(evaluation.step) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn rows_that_were_evaluated_twice_are_compared_one_by_one() {
        let evaluation = |step: u64, gates: &str, rows: &[f64]| {
            let loss = rows.iter().sum::<f64>() / rows.len() as f64;
            let domain = json!({ "loss": loss, "standard_error": 2.0, "row_losses": rows });
            Evaluation::of(step, &json!({ "gates": gates, "domains": { "a": domain } }))
        };
        let history = |rows: &[f64]| RunHistory {
            stage: Some("prune".to_string()),
            evaluations: vec![evaluation(0, "plain", &[1.0, 5.0, 9.0]), evaluation(7, "target", rows)],
            ..RunHistory::default()
        };
        let story = of_domain(&history(&[1.1, 5.3, 9.2]), "a");
        // Differences 0.1, 0.3, 0.2: mean 0.2, error 0.1 / √3.
        assert!(story.paired && (story.hurt.unwrap() - 0.2 / (0.1 / 3f64.sqrt())).abs() < 1e-9, "{story:?}");
        let other = of_domain(&history(&[1.1, 5.3]), "a");
        assert!(!other.paired && (other.damage_standard_error.unwrap() - 8f64.sqrt()).abs() < 1e-12, "{other:?}");
        let continued = DomainStory { cut: at(5.5, Some(0)), last: at(5.4, Some(4)), ..DomainStory::default() };
        let mut joined = story.clone();
        joined.continue_with(&continued);
        joined.measure();
        assert!(joined.paired && (joined.hurt.unwrap() - story.hurt.unwrap()).abs() < 1e-12);
        // What was made good is that of the rows that the second run evaluated.
        assert!((joined.recovered.unwrap() - (5.5 - 5.4) / 0.2).abs() < 1e-9, "{joined:?}");
    }

    #[test]
    fn a_reference_loss_is_of_other_rows_and_hurts_nobody() {
        let mut story = DomainStory { source: at(1.0, None), cut: at(3.0, Some(9)), ..DomainStory::default() };
        story.measure();
        assert_eq!((story.hurt, story.damage_standard_error), (None, None));
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
