//! Answers about the domains: which were hurt, which recovered, where the data went.

use super::{Answer, Verdict};
use crate::inspect::{DomainStory, HeldOutLoss, RunHistory};
use crate::report::lineage::RunView;
use crate::report::number::{Unit, listed};

/// A domain counts as hurt from this many standard errors on.
const HURT_ERRORS: f64 = 2.0;
/// Shares of all rows that differ by less count as the same.
const EVEN: f64 = 0.005;
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
                format!("; proportion {} → {}", Unit::Percent.text(first), Unit::Percent.text(last))
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
