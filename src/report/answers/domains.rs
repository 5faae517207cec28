//! Answers about the domains: which were hurt, which recovered, where the data went.

use super::{Answer, Verdict};
use crate::inspect::{DomainStory, HeldOutLoss, RunHistory};
use crate::report::lineage::RunView;
use crate::report::number::{Unit, listed};

/// A domain counts as hurt from this many standard errors on.
const HURT_ERRORS: f64 = 2.0;
/// Shares of all rows that differ by less count as the same.
const EVEN: f64 = 0.005;
/// A proportion that was higher than at both ends by more than this is told.
const PEAK: f64 = 0.02;
/// A domain counts as recovered when so much of the damage is made good.
const RECOVERED: f64 = 0.95;

pub(super) fn hurt(line: &[&RunView]) -> Answer {
    const QUESTION: &str = "Which domains were hurt by pruning, and which recovered?";
    let histories: Vec<&RunHistory> = line.iter().map(|run| run.history).collect();
    let stories = crate::inspect::story::joined(&histories);
    let both: Vec<&DomainStory> =
        stories.iter().filter(|story| story.source.is_some() && story.cut.is_some()).collect();
    let known: Vec<&DomainStory> = both.iter().copied().filter(|story| is_measured(story)).collect();
    if known.is_empty() {
        let answer = match both.is_empty() {
            true => "It takes a loss of the source and one of the cut model, and the runs do not have both.",
            false => {
                "None of these runs evaluated the source: give the run that pruned it too. Its reference losses are of \
                 other rows, so the differences below do not tell."
            }
        };
        let points = both.into_iter().map(story_point).collect();
        return Answer::new("hurt", QUESTION, Verdict::Open, answer).with(points);
    }
    let hurt: Vec<&&DomainStory> = known.iter().filter(|story| is_hurt(story)).collect();
    let names = |stories: &[&&DomainStory]| listed(&stories.iter().map(|s| s.domain.clone()).collect::<Vec<_>>());
    let later = known.iter().any(|story| story.recovered.is_some());
    let (back, still): (Vec<&&DomainStory>, Vec<&&DomainStory>) =
        hurt.iter().partition(|story| story.recovered.is_some_and(|part| part >= RECOVERED));
    let answer = match (hurt.is_empty(), later, still.is_empty()) {
        (true, ..) => "No domain lost more than two standard errors by the cut.".to_string(),
        (false, false, _) => format!("Hurt: {}. No later evaluation says whether they recovered.", names(&hurt)),
        (false, true, true) => format!("Hurt: {}. All of them have recovered.", names(&hurt)),
        (false, true, false) => {
            let back = if back.is_empty() { "none".to_string() } else { names(&back) };
            format!("Hurt: {}. Recovered: {back}; not yet: {}.", names(&hurt), names(&still))
        }
    };
    let verdict = match (hurt.is_empty(), later && still.is_empty()) {
        (true, _) | (false, true) => Verdict::Good,
        _ => Verdict::Fact,
    };
    let mut sorted = known;
    sorted.sort_by(|a, b| damage(b).total_cmp(&damage(a)));
    Answer::new("hurt", QUESTION, verdict, answer).with(sorted.into_iter().map(story_point).collect())
}

/// Whether the source's loss is of rows that a run evaluated; a reference loss may be of any.
fn is_measured(story: &DomainStory) -> bool {
    story.source.is_some_and(|source| source.step.is_some())
}

fn damage(story: &DomainStory) -> f64 {
    story.cut.zip(story.source).map_or(0.0, |(cut, source)| cut.loss - source.loss)
}

/// Without standard errors any rise counts.
fn is_hurt(story: &DomainStory) -> bool {
    damage(story) > 0.0 && story.hurt.is_none_or(|errors| errors >= HURT_ERRORS)
}

fn story_point(story: &DomainStory) -> String {
    let loss = |held: Option<HeldOutLoss>| held.map_or("–".to_string(), |held| Unit::Plain.text(held.loss));
    let rows = if story.paired { "" } else { ", taken as of different rows" };
    // Cut, not rounded: 1.96 is below two.
    let tenths = |errors: f64| (errors * 10.0).trunc() / 10.0;
    let errors = story.hurt.map_or(String::new(), |errors| format!(", {:.1} standard errors{rows}", tenths(errors)));
    let now = match story.recovered {
        Some(part) if part >= 1.0 => format!(", now {} (all made good)", loss(story.last)),
        Some(part) => format!(", now {} ({} made good)", loss(story.last), Unit::Percent.text(part)),
        None if story.last.is_some() && story.last != story.cut => format!(", now {}", loss(story.last)),
        None => String::new(),
    };
    format!(
        "{}: {} → {} by the cut ({:+.3}{errors}){now}.",
        story.domain,
        loss(story.source),
        loss(story.cut),
        damage(story)
    )
}

pub(super) fn data(line: &[&RunView]) -> Answer {
    const QUESTION: &str = "Where did the data go?";
    let histories: Vec<&RunHistory> = line.iter().map(|run| run.history).collect();
    let mut stories = crate::inspect::story::joined(&histories);
    let all: f64 = stories.iter().filter_map(|story| story.rows).sum();
    if all <= 0.0 {
        return Answer::new("data", QUESTION, Verdict::Open, "No step is recorded, so this cannot be said.");
    }
    let rows = |story: &DomainStory| story.rows.unwrap_or(0.0);
    stories.sort_by(|a, b| rows(b).total_cmp(&rows(a)));
    let tokens: f64 = histories.iter().filter_map(|history| history.tokens).sum();
    let share = |story: &DomainStory| Unit::Percent.text(rows(story) / all);
    let even = stories.first().zip(stories.last()).is_some_and(|(most, least)| rows(most) - rows(least) < EVEN * all);
    let most = stories.first().map_or(String::new(), |story| format!("{} gave most ({})", story.domain, share(story)));
    let least = stories.last().filter(|_| stories.len() > 1);
    let least = least.map_or(String::new(), |story| format!(", {} least ({})", story.domain, share(story)));
    let answer = match even {
        true => {
            format!("All {} domains gave about as much, {} tokens in all.", stories.len(), Unit::Count.text(tokens))
        }
        false => format!("Of {} tokens {most}{least}.", Unit::Count.text(tokens)),
    };
    let points = stories.iter().map(|story| {
        let moved = match (story.first_proportion, story.last_proportion) {
            (Some(first), Some(last)) => {
                let peak = peak(line, &story.domain, first.max(last)).unwrap_or_default();
                format!("; proportion {} → {}{peak}", Unit::Percent.text(first), Unit::Percent.text(last))
            }
            _ => String::new(),
        };
        let tokens = Unit::Count.text((tokens * rows(story) / all).round());
        let epochs = story.epochs.map_or(String::new(), |epochs| format!(", {} epochs", Unit::Plain.text(epochs)));
        format!(
            "{}: {} rows, about {tokens} tokens ({}){epochs}{moved}.",
            story.domain,
            Unit::Count.text(rows(story)),
            share(story)
        )
    });
    Answer::new("data", QUESTION, Verdict::Fact, answer).with(points.collect())
}

/// The highest proportion of a domain, with its place, where it is well above both `ends`: it explains the rows then.
fn peak(line: &[&RunView], domain: &str, ends: f64) -> Option<String> {
    let of_run = |run: &&RunView| {
        let steps = &run.history.steps;
        let of_domain = steps.domains.iter().find(|steps| steps.domain == domain)?;
        let known = steps.step.iter().zip(&of_domain.proportion).filter_map(|(step, share)| Some((*step, (*share)?)));
        let (step, share) = known.max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((run.label.clone(), step, share))
    };
    let (run, step, share) = line.iter().filter_map(of_run).max_by(|a, b| a.2.total_cmp(&b.2))?;
    (share > ends + PEAK).then(|| format!(", highest {} at step {step} of {run}", Unit::Percent.text(share)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::DomainSteps;

    /// A run of three steps that drew from `a` in these proportions.
    fn run(proportion: [f64; 3]) -> RunHistory {
        let column = |values: [f64; 3]| values.map(Some).to_vec();
        let domain = DomainSteps { domain: "a".into(), proportion: column(proportion), ..DomainSteps::default() };
        let [first, _, last] = proportion.map(Some);
        let story = DomainStory {
            domain: "a".into(),
            rows: Some(30.0),
            first_proportion: first,
            last_proportion: last,
            ..DomainStory::default()
        };
        let mut run = RunHistory { stories: vec![story], ..RunHistory::default() };
        run.steps.step = vec![10, 20, 30];
        run.steps.domains = vec![domain];
        run
    }

    #[test]
    fn a_proportion_that_rose_and_fell_is_told_with_its_peak() {
        let of = |runs: [RunHistory; 2]| {
            let view = |(index, history), label: &str| RunView {
                history,
                label: label.into(),
                index,
                parent: None,
                tokens_before: 0.0,
            };
            let views = [view((0, &runs[0]), "prune"), view((1, &runs[1]), "recover")];
            data(&views.iter().collect::<Vec<_>>()).points[0].clone()
        };
        let rose = of([run([0.167, 0.442, 0.4]), run([0.4, 0.3, 0.239])]);
        assert!(rose.ends_with("proportion 16.7 % → 23.9 %, highest 44.2 % at step 20 of prune."), "{rose}");
        let steady = of([run([0.2, 0.25, 0.3]), run([0.3, 0.315, 0.3])]);
        assert!(steady.ends_with("proportion 20 % → 30 %."), "{steady}");
    }
}
