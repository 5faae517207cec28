//! What pruning did to each domain, and what training recovered: the losses of the source, of the model just cut, and the
//! last ones, side by side. One run tells its part; a prune run and the run that continued its model tell all of it
//! together ([`joined`]).
//!
//! Losses are compared where they are of the same rows. Pruning and continuing often have text of their own; then nothing
//! is divided by anything, and [`Later`] says why.

use super::columns::ends;
use super::domain_story::{DomainStory, Later};
use super::evaluations::Evaluation;
use super::held_out::{HeldOutLoss, RowSet, RowsAgainst};
use super::history::RunHistory;
use super::same_data::data_of;
use crate::eval::statistics::{few_rows_said, paired_difference};

/// Losses of the same rows that were computed in batches of other sizes differ by less; those of other rows by more, mostly.
const SAME_LOSS: f64 = 5e-3;

/// What one run tells of each of its domains.
pub(super) fn of_run(history: &RunHistory) -> Vec<DomainStory> {
    let rows = |name: &str| {
        let steps = history.steps.domains.iter().find(|domain| domain.domain == name)?;
        ends(&steps.rows_total).1
    };
    let all: f64 = history.domains.iter().filter_map(|name| rows(name)).sum();
    let per_row = history.tokens.filter(|_| all > 0.0).map(|tokens| tokens / all);
    history.domains.iter().map(|domain| of_domain(history, domain, per_row)).collect()
}

/// The story over several runs, in their order: the source from the first that knows it, the cut from the first prune
/// run (or the run that started from one), the last evaluation from the last run, proportions from first to last. Where
/// none of them evaluated the source, as beside a one-shot cut, `others` are asked that began with the same.
pub fn joined(histories: &[&RunHistory], others: &[&RunHistory]) -> Vec<DomainStory> {
    let mut stories: Vec<DomainStory> = Vec::new();
    for story in histories.iter().flat_map(|history| &history.stories) {
        match stories.iter_mut().find(|known| known.domain == story.domain) {
            Some(known) => known.continue_with(story),
            None => stories.push(story.clone()),
        }
    }
    // A run that teaches to activate fewer neurons repairs nothing that was cut: what it costs is told by its experts.
    let trained: Vec<&&RunHistory> = histories.iter().filter(|history| !history.is_lte()).collect();
    let last = trained.last().filter(|last| trained.len() > 1 && !last.evaluations.is_empty());
    for story in &mut stories {
        story.take_source(histories, others);
        story.measure();
        if last.is_some_and(|last| !last.domains.contains(&story.domain)) {
            (story.later, story.recovered) = (Later::NotContinued, None);
        }
    }
    stories
}

/// What to say of the standard errors of these domains, where some stand on few rows.
pub fn few_rows(stories: &[DomainStory]) -> Option<String> {
    let rows = |story: &DomainStory| story.cut?.rows?.rows.filter(|_| story.degradation.is_some());
    few_rows_said(stories.iter().filter_map(rows))
}

impl DomainStory {
    fn continue_with(&mut self, later: &DomainStory) {
        // A measured source is better than a reference from a file.
        if !self.has_measured_source() && (later.has_measured_source() || self.source.is_none()) {
            (self.source, self.source_rows) = (later.source, later.source_rows.clone());
        }
        if self.cut.is_none() {
            (self.cut, self.cut_rows) = (later.cut, later.cut_rows.clone());
        }
        self.continued_from = later.cut.or(self.continued_from);
        // What a run evaluated before its first step is the model it was given: nothing later.
        self.last = later.last.filter(|last| last.step != Some(0)).or(self.last).or(later.last);
        self.first_proportion = self.first_proportion.or(later.first_proportion);
        self.last_proportion = later.last_proportion.or(self.last_proportion);
        self.rows = sum(self.rows, later.rows);
        self.tokens = sum(self.tokens, later.tokens);
        self.mixed_data |= later.mixed_data || self.data != later.data;
        self.epochs = sum(self.epochs, later.epochs).filter(|_| !self.mixed_data);
    }

    /// Whether a run evaluated the source; a reference loss comes from a file.
    fn has_measured_source(&self) -> bool {
        self.source.is_some_and(|source| source.step.is_some())
    }

    /// The source as another run evaluated it, on the rows of the cut.
    fn take_source(&mut self, histories: &[&RunHistory], others: &[&RunHistory]) {
        let (Some(first), Some(cut)) = (histories.first(), self.cut) else { return };
        if self.has_measured_source() || self.damage().is_some() || first.model_source.is_none() {
            return;
        }
        let same_source = others.iter().filter(|other| other.model_source == first.model_source);
        let known = same_source.flat_map(|other| &other.stories).find(|story| {
            story.domain == self.domain && story.source.is_some_and(|source| source.is_comparable_with(&cut))
        });
        if let Some(known) = known {
            (self.source, self.source_rows) = (known.source, known.source_rows.clone());
        }
    }

    /// Cut − source, where both are of the same rows.
    pub fn damage(&self) -> Option<f64> {
        let (source, cut) = (self.source?, self.cut?);
        cut.is_comparable_with(&source).then_some(cut.loss - source.loss)
    }

    /// Of a source that is a reference loss: whether that is of the rows of the other losses, in words.
    pub fn reference_rows(&self) -> Option<&'static str> {
        let reference = self.source.filter(|source| source.step.is_none() && !self.evaluated)?;
        let other = self.cut.or(self.continued_from).or(self.last);
        Some(match other.map_or(RowsAgainst::NotRecorded, |other| reference.rows_against(&other)) {
            RowsAgainst::Same => "of the same rows",
            RowsAgainst::Other => "of other rows",
            RowsAgainst::NotRecorded => "of rows that are not recorded",
        })
    }

    /// Of a source, its cut and what became of that, each with its loss and standard error, all on the same rows, and the
    /// standard error of cut − source row by row, where it is known. `steps` of the losses are not known.
    pub(crate) fn of_one_evaluation(
        (name, rows): (&str, Option<u64>),
        source: (f64, Option<f64>),
        cut: (f64, Option<f64>),
        last: Option<(f64, Option<f64>)>,
        paired_error: Option<f64>,
    ) -> DomainStory {
        let rows = Some(RowSet { data: Some(0), rows, tokens: None });
        let held = |(loss, standard_error)| HeldOutLoss { loss, standard_error, step: None, rows };
        let mut story = DomainStory {
            domain: name.to_string(),
            source: Some(held(source)),
            cut: Some(held(cut)),
            last: last.map(held),
            evaluated: true,
            ..DomainStory::default()
        };
        story.measure();
        if let Some((error, damage)) = paired_error.zip(story.damage()) {
            story.paired = true;
            (story.damage_standard_error, story.degradation) = (Some(error), Some(damage / error));
        }
        story
    }

    /// Takes the losses of an evaluation of source, cut and small model, where its own are not of the same rows: a reference loss
    /// of others says nothing of the cut. What a run evaluated since stays where the evaluation has no small model.
    pub(crate) fn take_losses(&mut self, other: &DomainStory) {
        if self.damage().is_some() || other.damage().is_none() {
            return;
        }
        let own = self.clone();
        *self = DomainStory {
            domain: own.domain,
            first_proportion: own.first_proportion,
            last_proportion: own.last_proportion,
            rows: own.rows,
            tokens: own.tokens,
            epochs: own.epochs,
            mixed_data: own.mixed_data,
            data: own.data,
            ..other.clone()
        };
        if other.later == Later::Nothing {
            (self.continued_from, self.last) = (own.continued_from.or(own.cut), own.last);
            self.later = if own.later == Later::SameRows { Later::OtherRows } else { own.later };
        }
    }

    /// Takes the error of cut − source row by row that another story has, where this one has none of its own and both are of
    /// the same losses.
    pub(crate) fn take_paired_error(&mut self, other: &DomainStory) {
        let agree = |own: Option<HeldOutLoss>, other: Option<HeldOutLoss>| {
            own.zip(other).is_some_and(|(own, other)| (own.loss - other.loss).abs() <= SAME_LOSS)
        };
        let same = agree(self.source, other.source) && agree(self.cut, other.cut);
        let error = other.damage_standard_error.filter(|error| other.paired && same && *error > 0.0);
        if let Some((damage, error)) = self.damage().zip(error).filter(|_| !self.paired) {
            self.paired = true;
            (self.damage_standard_error, self.degradation) = (Some(error), Some(damage / error));
        }
    }

    /// `degradation` in tenths, cut and not rounded: 1.96 is below two.
    pub fn degradation_tenths(&self) -> Option<f64> {
        // A zero without a sign.
        self.degradation.map(|errors| (errors * 10.0).trunc() / 10.0 + 0.0)
    }

    /// Fills in `degradation`, `recovered` and `later`.
    fn measure(&mut self) {
        let from = self.continued_from.or(self.cut);
        // The last evaluation of a prune run is the cut itself: nothing was recovered yet.
        let after = self.last.filter(|last| self.cut != Some(*last));
        self.later = match (after, self.cut) {
            (None, _) | (_, None) => Later::Nothing,
            (Some(after), Some(cut)) if after.is_comparable_with(&cut) => Later::SameRows,
            _ => Later::OtherRows,
        };
        let Some(damage) = self.damage() else { return };
        let error = |held: Option<HeldOutLoss>| held.and_then(|held| held.standard_error);
        let independent = error(self.cut).zip(error(self.source)).map(|(cut, source)| cut.hypot(source));
        let paired = paired_difference(&self.cut_rows, &self.source_rows).and_then(|paired| paired.standard_error);
        self.paired = paired.is_some();
        self.damage_standard_error = paired.or(independent).filter(|error| *error > 0.0);
        self.degradation = self.damage_standard_error.map(|error| damage / error);
        let gain = after.zip(from).filter(|(after, from)| after.is_comparable_with(from));
        let known = self.later == Later::SameRows && damage > 0.0;
        self.recovered = gain.filter(|_| known).map(|(after, from)| (from.loss - after.loss) / damage);
    }
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    if a.is_none() && b.is_none() { None } else { Some(a.unwrap_or(0.0) + b.unwrap_or(0.0)) }
}

fn of_domain(history: &RunHistory, name: &str, tokens_per_row: Option<f64>) -> DomainStory {
    let data = data_of(history);
    let evaluated = |evaluation: &Evaluation| HeldOutLoss::of(evaluation, name, data);
    let prunes = history.stage.as_deref() == Some("prune");
    let first = history.evaluations.iter().find(|evaluation| evaluation.step == 0);
    let cut_at_end = history.evaluations.iter().rev().find(|evaluation| evaluation.is_cut());
    let (start, cut) = (first.and_then(evaluated), cut_at_end.and_then(evaluated));
    let reference = history.evaluations.iter().find_map(|evaluation| evaluation.domain(name)?.reference);
    let reference = reference.map(|loss| HeldOutLoss::reference(loss, name, history.references.as_ref()));
    let steps = history.steps.domains.iter().find(|domain| domain.domain == name);
    let (first_proportion, last_proportion) = steps.map_or((None, None), |steps| ends(&steps.proportion));
    let rows = steps.and_then(|steps| ends(&steps.rows_total).1);
    let rows_of = |evaluation: Option<&Evaluation>| {
        evaluation.and_then(|evaluation| evaluation.domain(name)).map_or(vec![], |domain| domain.row_losses.clone())
    };
    let whole = |evaluation: &&Evaluation| evaluation.runs_all_units();
    let mut story = DomainStory {
        domain: name.to_string(),
        source: if prunes { start.or(reference) } else { reference },
        cut: if prunes { cut } else { start.filter(|_| history.continues_pruned) },
        // Of a prune run only the cut model is published, so its last loss counts once there is one.
        last: cut.filter(|_| prunes).or_else(|| history.evaluations.iter().rev().filter(whole).find_map(evaluated)),
        first_proportion,
        last_proportion,
        rows,
        tokens: rows.zip(tokens_per_row).map(|(rows, tokens)| rows * tokens),
        epochs: steps.and_then(|steps| ends(&steps.epochs).1),
        source_rows: rows_of(first.filter(|_| prunes)),
        cut_rows: rows_of(if prunes { cut_at_end } else { first }),
        data: Some(data),
        ..DomainStory::default()
    };
    story.measure();
    story
}

#[cfg(test)]
mod tests {
    use super::super::held_out::RowSet;
    use super::*;
    use crate::run_dir::record::{ReferenceDomain, ReferenceRows};
    use serde_json::json;

    fn at(loss: f64, step: Option<u64>) -> Option<HeldOutLoss> {
        on(1, loss, step)
    }

    /// A loss on the rows of a data set; a reference loss is of no known rows.
    fn on(data: u64, loss: f64, step: Option<u64>) -> Option<HeldOutLoss> {
        let rows = step.map(|_| RowSet { data: Some(data), rows: Some(8), tokens: Some(800) });
        Some(HeldOutLoss { loss, standard_error: step.map(|_| 0.3), step, rows })
    }

    #[test]
    fn damage_is_counted_in_standard_errors_and_recovery_as_its_share() {
        let mut story = DomainStory { source: at(1.0, Some(0)), cut: at(3.0, Some(9)), ..DomainStory::default() };
        story.last = story.cut;
        story.measure();
        assert!((story.degradation.unwrap() - 2.0 / 0.3f64.hypot(0.3)).abs() < 1e-12);
        assert_eq!(story.recovered, None, "the cut is the last that is known");
        let later = DomainStory { source: at(7.0, None), last: at(1.5, Some(20)), ..DomainStory::default() };
        story.continue_with(&later);
        story.measure();
        assert_eq!(story.source, at(1.0, Some(0)));
        assert_eq!(story.recovered, Some(0.75));
    }

    #[test]
    fn losses_of_one_evaluation_take_the_place_of_a_reference_of_other_rows() {
        let run = || {
            let mut run = DomainStory {
                source: at(2.4, None),
                cut: at(7.7, Some(0)),
                last: at(5.3, Some(28)),
                ..DomainStory::default()
            };
            (run.domain, run.rows) = ("a".into(), Some(30.0));
            run.measure();
            run
        };
        let told = |last: Option<(f64, Option<f64>)>| {
            let evaluation =
                DomainStory::of_one_evaluation(("a", Some(2)), (1.6, Some(0.1)), (7.7, Some(0.1)), last, Some(0.1));
            let mut told = run();
            told.take_losses(&evaluation);
            told
        };
        assert_eq!((run().damage(), run().reference_rows()), (None, Some("of rows that are not recorded")));
        let story = told(Some((5.3, Some(0.1))));
        assert!((story.damage().unwrap() - 6.1).abs() < 1e-12 && story.later == Later::SameRows, "{story:?}");
        assert_eq!((story.reference_rows(), story.rows, story.paired), (None, Some(30.0), true));
        let story = told(None);
        assert_eq!((story.later, story.continued_from, story.last), (Later::OtherRows, run().cut, run().last));
        let mut measured = DomainStory { source: at(1.0, Some(0)), cut: at(3.0, Some(9)), ..DomainStory::default() };
        measured.take_losses(&DomainStory::of_one_evaluation(("a", None), (1.5, None), (9.0, None), None, None));
        assert_eq!(measured.damage(), Some(2.0), "what a run measured stays");
    }

    #[test]
    fn an_error_row_by_row_is_taken_over_where_the_losses_are_the_same() {
        let own = || {
            let mut own = DomainStory { source: at(1.0, Some(0)), cut: at(3.0, Some(9)), ..DomainStory::default() };
            own.measure();
            own
        };
        let measured = |source: f64, cut: f64| {
            DomainStory::of_one_evaluation(("a", None), (source, Some(0.3)), (cut, Some(0.3)), None, Some(0.1))
        };
        let mut story = own();
        story.take_paired_error(&measured(1.001, 3.0));
        assert!(story.paired && (story.degradation.unwrap() - 20.0).abs() < 1e-9, "{story:?}");
        assert_eq!(story.damage(), Some(2.0), "the losses stay");
        let mut other_rows = own();
        other_rows.take_paired_error(&measured(1.1, 3.0));
        assert_eq!((other_rows.paired, other_rows.degradation), (false, own().degradation));
        let tenths = |degradation: f64| DomainStory { degradation: Some(degradation), ..own() }.degradation_tenths();
        assert_eq!([1.96, -0.04, 14.39].map(tenths), [1.9, 0.0, 14.3].map(Some));
    }

    #[test]
    fn rows_that_were_evaluated_twice_are_compared_one_by_one() {
        let evaluation = |step: u64, gates: &str, rows: &[f64]| {
            let loss = rows.iter().sum::<f64>() / rows.len() as f64;
            let domain = json!({ "loss": loss, "standard_error": 2.0, "row_losses": rows });
            Evaluation::of_json(step, json!({ "gates": gates, "domains": { "a": domain } }))
        };
        let history = |rows: &[f64]| RunHistory {
            stage: Some("prune".to_string()),
            evaluations: vec![evaluation(0, "plain", &[1.0, 5.0, 9.0]), evaluation(7, "target", rows)],
            ..RunHistory::default()
        };
        let story = of_domain(&history(&[1.1, 5.3, 9.2]), "a", None);
        // Differences 0.1, 0.3, 0.2: mean 0.2, error 0.1 / √3.
        assert!(story.paired && (story.degradation.unwrap() - 0.2 / (0.1 / 3f64.sqrt())).abs() < 1e-9, "{story:?}");
        let other = of_domain(&history(&[1.1, 5.3]), "a", None);
        assert!(!other.paired && (other.damage_standard_error.unwrap() - 8f64.sqrt()).abs() < 1e-12, "{other:?}");
        let rows = story.cut.unwrap().rows;
        let held = |loss: f64, step: u64| Some(HeldOutLoss { loss, standard_error: None, step: Some(step), rows });
        let continued = DomainStory { cut: held(5.5, 0), last: held(5.4, 4), ..DomainStory::default() };
        let mut joined = story.clone();
        joined.continue_with(&continued);
        joined.measure();
        assert!(joined.paired && (joined.degradation.unwrap() - story.degradation.unwrap()).abs() < 1e-12);
        // Both runs evaluated the cut on these rows; the gain is that of the run that continued it.
        assert!((joined.recovered.unwrap() - (5.5 - 5.4) / 0.2).abs() < 1e-9, "{joined:?}");
    }

    #[test]
    fn a_reference_loss_is_compared_where_its_rows_are_recorded_and_the_same() {
        let measured = |data: Option<&str>, rows: u64| ReferenceRows {
            data_fingerprint: data.map(String::from),
            domains: [(
                "a".to_string(),
                ReferenceDomain { rows: Some(rows), tokens: Some(800), standard_error: Some(0.4) },
            )]
            .into_iter()
            .collect(),
        };
        let told = |references: Option<ReferenceRows>| {
            let domain = json!({ "loss": 3.0, "standard_error": 0.3, "reference": 1.0, "rows": 8, "tokens": 800 });
            let history = RunHistory {
                data_fingerprint: Some("here".into()),
                continues_pruned: true,
                evaluations: vec![Evaluation::of_json(0, json!({ "gates": "plain", "domains": { "a": domain } }))],
                references,
                ..RunHistory::default()
            };
            let story = of_domain(&history, "a", None);
            (story.reference_rows().unwrap(), story.degradation)
        };
        assert_eq!(told(None), ("of rows that are not recorded", None));
        assert_eq!(
            told(Some(measured(None, 8))),
            ("of rows that are not recorded", None),
            "of which data is not known"
        );
        assert_eq!(told(Some(measured(None, 16))), ("of other rows", None));
        assert_eq!(told(Some(measured(Some("elsewhere"), 8))), ("of other rows", None));
        let (said, degradation) = told(Some(measured(Some("here"), 8)));
        assert!(said == "of the same rows" && (degradation.unwrap() - 4.0).abs() < 1e-12, "{degradation:?}");
    }

    #[test]
    fn a_continuation_without_a_step_recovers_nothing() {
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
    fn losses_of_other_rows_are_not_divided_by_one_another() {
        let prune = DomainStory {
            source: at(1.0, Some(0)),
            cut: at(3.0, Some(9)),
            last: at(3.0, Some(9)),
            ..DomainStory::default()
        };
        let continued = |data: u64| DomainStory {
            cut: on(data, 3.5, Some(0)),
            last: on(data, 2.0, Some(20)),
            ..DomainStory::default()
        };
        let told = |later: &DomainStory| {
            let mut story = prune.clone();
            story.continue_with(later);
            story.measure();
            (story.later, story.recovered, story.degradation.is_some())
        };
        assert_eq!(told(&continued(1)), (Later::SameRows, Some(0.75), true));
        assert_eq!(told(&continued(2)), (Later::OtherRows, None, true), "the damage is still known");
        let mut fewer = continued(1);
        for held in [&mut fewer.cut, &mut fewer.last] {
            held.as_mut().unwrap().rows.as_mut().unwrap().rows = Some(4);
        }
        assert_eq!(told(&fewer), (Later::OtherRows, None, true), "fewer rows of the same data are other rows");
    }

    #[test]
    fn a_source_that_another_run_evaluated_counts_on_the_same_rows() {
        let run = |source: Option<&str>, story: DomainStory| RunHistory {
            model_source: source.map(String::from),
            stories: vec![DomainStory { domain: "a".into(), ..story }],
            ..RunHistory::default()
        };
        let one_shot = RunHistory { model_source: Some("hf".into()), ..RunHistory::default() };
        let cut = DomainStory { cut: at(9.0, Some(0)), cut_rows: vec![8.0, 10.0], ..DomainStory::default() };
        let continued = run(Some("one-shot/pruned"), cut);
        let told = |source: &str, data: u64| {
            let known =
                DomainStory { source: on(data, 2.0, Some(0)), source_rows: vec![1.5, 2.5], ..DomainStory::default() };
            let other = run(Some(source), known);
            let story = joined(&[&one_shot, &continued], &[&one_shot, &continued, &other]).remove(0);
            (story.damage(), story.paired)
        };
        assert_eq!(told("hf", 1), (Some(7.0), true));
        assert_eq!(told("hf", 2), (None, false), "of other rows");
        assert_eq!(told("another", 1), (None, false), "another source");
    }

    #[test]
    fn epochs_are_added_over_one_data_set_only() {
        let run = |data: u64| DomainStory { epochs: Some(0.5), data: Some(data), ..DomainStory::default() };
        let told = |later: &[u64]| {
            let mut story = run(1);
            later.iter().for_each(|data| story.continue_with(&run(*data)));
            story.epochs
        };
        assert_eq!((told(&[1]), told(&[2]), told(&[2, 2])), (Some(1.0), None, None));
    }

    #[test]
    fn without_errors_or_damage_nothing_is_claimed() {
        let mut story = DomainStory { source: at(2.0, None), cut: at(1.0, None), ..DomainStory::default() };
        story.last = at(0.5, Some(3));
        story.measure();
        assert_eq!((story.degradation, story.recovered), (None, None));
    }
}
