//! Answers about the domains: which were degraded, which recovered, where the data went.

use super::{Answer, Verdict};
use crate::inspect::story::few_rows;
use crate::inspect::{DomainStory, HeldOutLoss, Later, RunHistory};
use crate::report::from_eval;
use crate::report::lineage::RunView;
use crate::report::number::{Unit, decimals, listed, significant};
use crate::report::side_files::EvalFile;
use crate::words::{counted, plural};

/// A domain counts as degraded from this many standard errors on.
const DEGRADED_ERRORS: f64 = 2.0;
/// Shares of all tokens that differ by less count as the same.
const EVEN: f64 = 0.005;
/// A proportion that was higher, or lower, than at both ends by more than this is told.
const PEAK: f64 = 0.02;
/// So many domains are named one by one, even where they are all.
const NAMED: usize = 3;
/// A domain counts as recovered when so much of the damage is recovered.
const RECOVERED: f64 = 0.95;

pub(super) fn degraded(line: &[&RunView], all: &[RunView], eval: Option<&EvalFile>) -> Answer {
    const QUESTION: &str = "Which domains did pruning degrade, and which recovered?";
    let last = line.iter().rfind(|run| !run.history.is_lte()).map_or(String::new(), |run| run.label.clone());
    let recorded = from_eval::recorded(line, all, eval);
    let stories = match recorded.iter().any(|story| story.damage().is_some()) {
        true => recorded,
        false => Some(from_eval::stories(line, all, eval)).filter(|told| !told.is_empty()).unwrap_or(recorded),
    };
    let cut: Vec<&DomainStory> = stories.iter().filter(|story| story.cut.is_some()).collect();
    let measured: Vec<&DomainStory> = cut.iter().copied().filter(|story| story.damage().is_some()).collect();
    let mut points = cut;
    // Stable, and domains without a known damage come last.
    points.sort_by(|a, b| damage(b).total_cmp(&damage(a)));
    let points = points.into_iter().map(|story| story_point(story, &last)).collect();
    if measured.is_empty() {
        return Answer::new("degradation", QUESTION, Verdict::Open, unmeasured(&stories)).with(points);
    }
    let (verdict, answer) = verdict(&measured);
    let doubt = few_rows(&stories).map_or(String::new(), |said| format!(" {}.", sentence(&said)));
    Answer::new("degradation", QUESTION, verdict, answer + &doubt).with(points)
}

/// Why no damage is known.
fn unmeasured(stories: &[DomainStory]) -> &'static str {
    let reference = |story: &DomainStory| story.cut.is_some() && story.source.is_some();
    match stories.iter().any(reference) {
        true => {
            "None of these runs evaluated the source on the rows of the losses below: give the run that pruned it with masks, or, \
             after a cut at once, an evaluation of source, cut and small model: shearling eval SOURCE CUT SMALL --data DATA \
             --out eval.json, then this report again with that file (shearling report --eval eval.json)."
        }
        false => {
            "It takes a loss of the source and one of the cut model on the same rows, and the runs do not have both."
        }
    }
}

fn verdict(measured: &[&DomainStory]) -> (Verdict, String) {
    let degraded: Vec<&DomainStory> = measured.iter().copied().filter(|story| is_degraded(story)).collect();
    if degraded.is_empty() {
        return (Verdict::Good, "No domain lost more than two standard errors by pruning.".to_string());
    }
    let names = |of: &dyn Fn(&DomainStory) -> bool| {
        let names: Vec<&str> = degraded.iter().filter(|story| of(story)).map(|story| story.domain.as_str()).collect();
        (!names.is_empty()).then_some(names)
    };
    // Names of so many that they are all are said in two words.
    let many = |found: &[&str], whole: usize, all: String| match found.len() == whole && whole > NAMED {
        true => all,
        false => listed(found),
    };
    let is_back = |story: &DomainStory| story.recovered.is_some_and(|part| part >= RECOVERED);
    let all: Vec<&str> = degraded.iter().map(|story| story.domain.as_str()).collect();
    let all = many(&all, measured.len(), format!("all {}", counted(measured.len() as u64, "domain")));
    if degraded.iter().all(|story| story.later == Later::Nothing) {
        return (Verdict::Fact, format!("Degraded: {all}. No later evaluation says whether they recovered."));
    }
    if degraded.iter().all(|story| is_back(story)) {
        return (Verdict::Good, format!("Degraded: {all}. All of them have recovered."));
    }
    let parts = [
        ("Recovered", names(&is_back)),
        ("not recovered yet", names(&|story| story.later == Later::SameRows && !is_back(story))),
        ("evaluated on other rows since, so not comparable", names(&|story| story.later == Later::OtherRows)),
        ("not evaluated since", names(&|story| matches!(story.later, Later::NotContinued | Later::Nothing))),
    ];
    let parts =
        parts.into_iter().filter_map(|(what, names)| Some((what, many(&names?, degraded.len(), "all of them".into()))));
    let parts: Vec<String> = parts.map(|(what, names)| format!("{what}: {names}")).collect();
    (Verdict::Fact, format!("Degraded: {all}. {}.", sentence(&parts.join("; "))))
}

/// A sentence begins with a capital.
fn sentence(said: &str) -> String {
    said.chars().take(1).flat_map(char::to_uppercase).chain(said.chars().skip(1)).collect()
}

fn damage(story: &DomainStory) -> f64 {
    story.damage().unwrap_or(f64::NEG_INFINITY)
}

/// Without standard errors any rise counts.
fn is_degraded(story: &DomainStory) -> bool {
    damage(story) > 0.0 && story.degradation.is_none_or(|errors| errors >= DEGRADED_ERRORS)
}

fn loss(held: Option<HeldOutLoss>) -> String {
    held.map_or("–".to_string(), |held| decimals(held.loss, 3))
}

/// A domain in a sentence; `last` is the run that evaluated last.
fn story_point(story: &DomainStory, last: &str) -> String {
    let name = &story.domain;
    let Some(damage) = story.damage() else { return unmeasured_point(story, last) };
    let rows = if story.paired { " of the differences row by row" } else { " of the two means" };
    let errors =
        story.degradation_tenths().map_or(String::new(), |errors| format!(", {errors:.1} standard errors{rows}"));
    let now = match (story.later, story.recovered) {
        (Later::SameRows, Some(part)) if part >= 1.0 => format!(", now {} (all recovered)", loss(story.last)),
        (Later::SameRows, Some(part)) if part < 0.0 => format!(", now {} (worse since the cut)", loss(story.last)),
        (Later::SameRows, Some(part)) => {
            format!(", now {} ({} recovered)", loss(story.last), Unit::Percent.text(part))
        }
        (Later::SameRows, None) => format!(", now {}", loss(story.last)),
        (Later::OtherRows, _) => format!(". {last} evaluated it on other rows: {}", since(story)),
        (Later::NotContinued, _) => format!(". Not in the data of {last}, so not evaluated since"),
        (Later::Nothing, _) => String::new(),
    };
    format!("{name}: {} → {} by pruning ({damage:+.3}{errors}){now}.", loss(story.source), loss(story.cut))
}

/// What is known of a domain whose source was not evaluated on the rows of the cut.
fn unmeasured_point(story: &DomainStory, last: &str) -> String {
    let name = &story.domain;
    let why = match story.source {
        Some(_) => {
            let rows = story.reference_rows().unwrap_or("of other rows");
            format!("the reference loss of the source is {}, {rows}", loss(story.source))
        }
        None => "the source was not evaluated on it".to_string(),
    };
    let now = match story.later {
        Later::Nothing => String::new(),
        Later::NotContinued => format!("; not in the data of {last}"),
        Later::SameRows | Later::OtherRows => format!("; {}", since(story)),
    };
    format!("{name}: {} just cut; {why}{now}.", loss(story.continued_from.or(story.cut)))
}

/// From the cut to the last evaluation, both by the run that continued.
fn since(story: &DomainStory) -> String {
    format!("{} → {} since the cut", loss(story.continued_from.or(story.cut)), loss(story.last))
}

pub(super) fn data(line: &[&RunView]) -> Answer {
    const QUESTION: &str = "Where did the data go?";
    let histories: Vec<&RunHistory> = line.iter().map(|run| run.history).collect();
    let mut stories = crate::inspect::story::joined(&histories, &[]);
    let rows: f64 = stories.iter().filter_map(|story| story.rows).sum();
    if rows <= 0.0 {
        return Answer::new("data", QUESTION, Verdict::Open, "No step is recorded, so this cannot be said.");
    }
    // Rows of different runs may be of different lengths; without token counts they are all there is.
    let all: f64 = stories.iter().filter_map(|story| story.tokens).sum();
    let given = |story: &DomainStory| if all > 0.0 { story.tokens } else { story.rows }.unwrap_or(0.0);
    let total = if all > 0.0 { all } else { rows };
    stories.sort_by(|a, b| given(b).total_cmp(&given(a)));
    let share = |story: &DomainStory| Unit::Percent.text(given(story) / total);
    let even =
        stories.first().zip(stories.last()).is_some_and(|(most, least)| given(most) - given(least) < EVEN * total);
    let amount = if all > 0.0 {
        format!("{} tokens", Unit::Count.text(all))
    } else {
        format!("{} rows", Unit::Count.text(rows))
    };
    // Of several with the same share none is named.
    let of_share = |story: &DomainStory| match stories.iter().filter(|other| share(other) == share(story)).count() {
        0 | 1 => format!("{} ({})", story.domain, share(story)),
        alike => format!("each of {} ({})", counted(alike as u64, "domain"), share(story)),
    };
    let most = stories.first().map_or(String::new(), |story| format!("the most from {}", of_share(story)));
    let least = stories.last().filter(|_| stories.len() > 1);
    let least = least.map_or(String::new(), |story| format!(", the fewest from {}", of_share(story)));
    let answer = match even {
        true => format!("{amount} in all, about as many from each of {}.", counted(stories.len() as u64, "domain")),
        false => format!("{amount} in all: {most}{least}."),
    };
    let points = stories.iter().map(|story| {
        let moved = match (story.first_proportion, story.last_proportion) {
            (Some(first), Some(last)) => {
                let extremes = extremes(line, &story.domain, first.min(last), first.max(last));
                let (first, last) = (Unit::Percent.text(first), Unit::Percent.text(last));
                let way = if first == last { first } else { format!("{first} → {last}") };
                format!("; proportion {way}{extremes}")
            }
            _ => String::new(),
        };
        let tokens =
            story.tokens.map_or(String::new(), |tokens| format!(", about {} tokens", Unit::Count.text(tokens.round())));
        let epochs = story.epochs.map_or(String::new(), |epochs| {
            format!(", {} {}", significant(epochs, 2), plural(u64::from(epochs == 1.0), "epoch"))
        });
        let rows = story.rows.unwrap_or(0.0);
        format!(
            "{}: {} {}{tokens} ({}){epochs}{moved}.",
            story.domain,
            Unit::Count.text(rows),
            plural(rows as u64, "row"),
            share(story)
        )
    });
    Answer::new("data", QUESTION, Verdict::Fact, answer).with(points.collect())
}

/// The lowest and the highest proportion of a domain, each with its place, where it is well outside of what the mix began and
/// ended with: it explains the rows then.
fn extremes(line: &[&RunView], domain: &str, low: f64, high: f64) -> String {
    let mut known: Vec<(&str, u64, f64)> = Vec::new();
    for run in line {
        let steps = &run.history.steps;
        let of_domain = steps.domains.iter().filter(|steps| steps.domain == domain);
        let shares = of_domain.flat_map(|of_domain| steps.step.iter().zip(&of_domain.proportion));
        known.extend(shares.filter_map(|(step, share)| Some((run.label.as_str(), *step, (*share)?))));
    }
    let lowest = known.iter().min_by(|a, b| a.2.total_cmp(&b.2)).filter(|(.., share)| *share < low - PEAK);
    // Of several alike the first.
    let highest = known.iter().rev().max_by(|a, b| a.2.total_cmp(&b.2)).filter(|(.., share)| *share > high + PEAK);
    let said = |what: &str, found: Option<&(&str, u64, f64)>| {
        found.map_or(String::new(), |(run, step, share)| {
            format!(", {what} {} at step {step} of {run}", Unit::Percent.text(*share))
        })
    };
    said("highest", highest) + &said("lowest", lowest)
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
    fn all_of_many_domains_are_said_in_two_words() {
        let story = |name: &str, cut: f64, last: f64| {
            DomainStory::of_one_evaluation(
                (name, None),
                (1.0, Some(0.01)),
                (cut, Some(0.01)),
                Some((last, Some(0.01))),
                None,
            )
        };
        let said = |stories: &[DomainStory]| verdict(&stories.iter().collect::<Vec<_>>()).1;
        let mut stories = ["a", "b", "c", "d", "e"].map(|name| story(name, 2.0, 1.5));
        assert_eq!(said(&stories), "Degraded: all 5 domains. Not recovered yet: all of them.");
        stories[1] = story("b", 2.0, 1.0);
        assert_eq!(said(&stories), "Degraded: all 5 domains. Recovered: b; not recovered yet: a, c, d and e.");
        stories[2] = story("c", 1.0, 1.0);
        assert_eq!(said(&stories), "Degraded: a, b, d and e. Recovered: b; not recovered yet: a, d and e.");
        assert_eq!(said(&stories[..1]), "Degraded: a. Not recovered yet: a.");
    }

    #[test]
    fn of_domains_that_gave_as_much_none_is_named() {
        let said = |rows: &[f64]| {
            let story = |(index, rows): (usize, &f64)| DomainStory {
                domain: ["a", "b", "c"][index].into(),
                rows: Some(*rows),
                ..DomainStory::default()
            };
            let stories = rows.iter().enumerate().map(story).collect();
            let history = RunHistory { stories, ..RunHistory::default() };
            data(&[&RunView { history: &history, label: "prune".into(), index: 0, parent: None, tokens_before: 0.0 }])
                .answer
        };
        assert_eq!(
            said(&[60.0, 20.0, 20.0]),
            "100 rows in all: the most from a (60 %), the fewest from each of 2 domains (20 %)."
        );
        assert_eq!(
            said(&[40.0, 20.0, 40.0]),
            "100 rows in all: the most from each of 2 domains (40 %), the fewest from b (20 %)."
        );
        assert_eq!(said(&[20.0, 20.0, 20.0]), "60 rows in all, about as many from each of 3 domains.");
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
        let fell = of([run([0.1, 0.07, 0.05]), run([0.1, 0.1, 0.1])]);
        assert!(fell.ends_with("proportion 10 %, lowest 5 % at step 30 of prune."), "{fell}");
        let steady = of([run([0.2, 0.25, 0.3]), run([0.3, 0.315, 0.3])]);
        assert!(steady.ends_with("proportion 20 % → 30 %."), "{steady}");
    }
}
