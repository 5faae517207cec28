//! Answers about a model that activates fewer neurons: how many units run, what that cost, whether the choice of experts
//! depends on the token.

use super::{Answer, Verdict};
use crate::inspect::experts::{DENSITY_TOLERANCE, STATIC_SHARE};
use crate::inspect::{EvaluatedExperts, ExpertHistory, ExpertLoss, NamedShare, RunHistory};
use crate::report::number::{Unit, decimals, listed};
use crate::words::thousands;

/// From so many scores near the threshold on, the choice hangs on little.
const NEAR_SHARE: f64 = 0.25;
/// A cost of fewer standard errors than this may be none.
const CLEAR_ERRORS: f64 = 2.0;

/// All three.
pub(super) fn answers(history: &RunHistory) -> Vec<Answer> {
    let Some(experts) = &history.experts else { return Vec::new() };
    let last = history.evaluations.iter().rev().find_map(|evaluation| evaluation.experts.as_ref());
    vec![units(history, experts, last), cost(history, experts), fixed(last)]
}

fn percent(share: f64) -> String {
    Unit::Percent.text(share)
}

fn units(history: &RunHistory, experts: &ExpertHistory, last: Option<&EvaluatedExperts>) -> Answer {
    const QUESTION: &str = "How many units run?";
    let Some(density) = experts.density else {
        let answer = "No step or evaluation says how many units ran.";
        return Answer::new("experts", QUESTION, Verdict::Open, answer);
    };
    let runs = format!("{} of the intermediate units run, mean over tokens and layers", percent(density));
    let near = |target: f64| (density - target).abs() <= DENSITY_TOLERANCE;
    let (verdict, answer) = match experts.target {
        Some(target) if !history.is_finished() => {
            (Verdict::Open, format!("So far {runs}; asked: {}.", percent(target)))
        }
        Some(target) if near(target) => (Verdict::Good, format!("{runs}, as asked ({}).", percent(target))),
        Some(target) => (Verdict::Bad, format!("{runs}; asked: {}.", percent(target))),
        None => (Verdict::Fact, format!("{runs}. The paper's penalties ask for no share.")),
    };
    let mut points = Vec::new();
    if let Some(last) = last {
        points.extend(extremes("layer", &last.layers, "layers"));
        points.extend(extremes("", &last.domains, "domains"));
        let union = |union: &NamedShare| Some(format!("{} for {} rows", percent(union.density?), union.name));
        let unions: Vec<String> = last.unions.iter().filter_map(union).collect();
        if !unions.is_empty() {
            points.push(format!("Rows that are decoded together need more units between them: {}.", listed(&unions)));
        }
    }
    Answer::new("experts", QUESTION, verdict, answer).with(points)
}

/// `From 38.2 % (wiki) to 54.2 % (cc) over the domains.`
fn extremes(kind: &str, shares: &[NamedShare], over: &str) -> Option<String> {
    let known = || shares.iter().filter_map(|share| Some((&share.name, share.density?)));
    let least = known().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let most = known().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let said = |(name, share): (&String, f64)| format!("{} ({})", percent(share), format!("{kind} {name}").trim());
    (known().count() > 1).then(|| format!("From {} to {} over the {over}.", said(least), said(most)))
}

fn cost(history: &RunHistory, experts: &ExpertHistory) -> Answer {
    const QUESTION: &str = "What did it cost in loss?";
    let open = |answer: &str| Answer::new("experts-cost", QUESTION, Verdict::Open, answer);
    let (Some(dense), Some(last)) = (experts.dense, experts.last) else {
        return open("It takes the loss of the dense model before the first step and one of its experts after it.");
    };
    let change = last.loss - dense.loss;
    let error = experts.cost_standard_error;
    let said = error.map_or(String::new(), |error| format!(" ± {error:.3}"));
    let clear = error.is_none_or(|error| change.abs() >= CLEAR_ERRORS * error);
    let text = match (change > 0.0, clear) {
        (true, true) => format!("{change:+.3}{said} nats per token over the dense model that the run began with."),
        (false, true) => format!(
            "Nothing on these rows: {change:+.3}{said} nats per token against the dense model that the run began with."
        ),
        (_, false) => format!("Less than can be told: {change:+.3}{said} nats per token."),
    };
    let text = if history.is_finished() { text } else { format!("So far: {text}") };
    let mut points = vec![
        "The dense model had not seen this run's training text: the same model trained as long with all units is the fair \
         comparison."
            .to_string(),
    ];
    let over = |loss: ExpertLoss| format!("{} ({:+.3})", decimals(loss.loss, 3), loss.loss - dense.loss);
    let rows = [("experts times scores", experts.soft), ("chosen experts", experts.switch)];
    for (what, loss) in rows.into_iter().filter_map(|(what, loss)| Some((what, loss?))) {
        points.push(format!("At the end of stage 1 (step {}), {what}: {}.", thousands(loss.step), over(loss)));
    }
    points.push(format!("At the last evaluation (step {}), chosen experts: {}.", thousands(last.step), over(last)));
    Answer::new("experts-cost", QUESTION, Verdict::Fact, text).with(points)
}

fn fixed(last: Option<&EvaluatedExperts>) -> Answer {
    const QUESTION: &str = "Do the experts depend on the token?";
    let Some((last, share)) = last.and_then(|last| Some((last, last.static_share()?))) else {
        let answer = "No evaluation says which experts ran.";
        return Answer::new("experts-static", QUESTION, Verdict::Open, answer);
    };
    let (verdict, answer) = match share > STATIC_SHARE {
        true => (
            Verdict::Bad,
            format!("Hardly: {} of them run for all tokens or for none. Pruning would be cheaper.", percent(share)),
        ),
        false => (Verdict::Good, format!("Yes: {} of them run for all tokens or for none.", percent(share))),
    };
    let mut points = Vec::new();
    if let (Some(on), Some(off)) = (last.always_on, last.always_off) {
        points.push(format!(
            "{} run for more than 99 % of the tokens, {} for less than 1 %.",
            percent(on),
            percent(off)
        ));
    }
    if let Some(near) = last.near_threshold {
        let much = if near > NEAR_SHARE { ": much hangs on little" } else { "" };
        points.push(format!("{} of the scores are within 0.1 of the threshold{much}.", percent(near)));
    }
    Answer::new("experts-static", QUESTION, verdict, answer).with(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::Evaluation;

    fn history(experts: ExpertHistory, always_on: f64) -> RunHistory {
        let share = |name: &str, density: f64| NamedShare { name: name.into(), density: Some(density) };
        let evaluated = EvaluatedExperts {
            density: experts.density,
            always_on: Some(always_on),
            always_off: Some(0.1),
            near_threshold: Some(0.3),
            unions: vec![share("2", 0.75)],
            layers: vec![share("0", 0.4), share("1", 0.6)],
            domains: vec![share("wiki", 0.5)],
        };
        let mut evaluation = Evaluation::default();
        evaluation.experts = Some(evaluated);
        RunHistory {
            planned_steps: Some(4),
            finished_steps: 4,
            experts: Some(experts),
            evaluations: vec![evaluation],
            ..RunHistory::default()
        }
    }

    #[test]
    fn units_cost_and_static_experts_are_judged() {
        let at = |step: u64, loss: f64| Some(ExpertLoss { step, loss });
        let experts = ExpertHistory {
            density: Some(0.503),
            target: Some(0.5),
            dense: at(0, 2.0),
            switch: at(2, 2.5),
            last: at(4, 2.1),
            cost_standard_error: Some(0.02),
            ..ExpertHistory::default()
        };
        let told = answers(&history(experts.clone(), 0.2));
        let verdicts = |told: &[Answer]| told.iter().map(|answer| answer.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(&told), [Verdict::Good, Verdict::Fact, Verdict::Good]);
        assert_eq!(told[0].points[0], "From 40 % (layer 0) to 60 % (layer 1) over the layers.");
        assert!(told[0].points[1].ends_with("75 % for 2 rows."), "one domain has no extremes: {:?}", told[0].points);
        assert_eq!(told[1].answer, "+0.100 ± 0.020 nats per token over the dense model that the run began with.");
        assert!(told[1].points[1].contains("step 2") && told[1].points[1].contains("(+0.500)"), "{:?}", told[1].points);
        let off = answers(&history(ExpertHistory { density: Some(0.6), last: at(4, 2.03), ..experts.clone() }, 0.7));
        assert_eq!(verdicts(&off), [Verdict::Bad, Verdict::Fact, Verdict::Bad]);
        assert!(off[1].answer.starts_with("Less than can be told: +0.030 ± 0.020"), "{}", off[1].answer);
        let paper = answers(&history(ExpertHistory { target: None, last: at(4, 1.9), ..experts }, 0.2));
        assert_eq!(paper[0].verdict, Verdict::Fact);
        assert!(paper[1].answer.starts_with("Nothing on these rows: -0.100"), "{}", paper[1].answer);
        assert!(answers(&RunHistory::default()).is_empty());
    }
}
