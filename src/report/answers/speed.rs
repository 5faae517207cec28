//! The answer about speed, from the latency file: the models that a line of runs wrote against the one that it began
//! with. Models of other runs in the same file have no part in it.

use super::{Answer, Verdict};
use crate::report::lineage::RunView;
use crate::report::measured::{Part, part_in};
use crate::report::number::{Unit, listed};
use crate::report::side_files::{LatencyFile, LatencyModel, Spread, short_name};

/// Closer to 1 than this, in any round, is no difference worth a verdict.
const MARGIN: f64 = 0.02;
/// Rounds further apart than this give no one factor: the machine had other work.
const UNSTEADY: f64 = 1.5;
/// Models that a sentence names.
const NAMED_MODELS: usize = 8;

const QUESTION: &str = "Is the small model faster?";

pub(super) fn speed(line: &[&RunView], all: &[RunView], latency: Option<&LatencyFile>) -> Answer {
    let open = |answer: String| Answer::new("speed", QUESTION, Verdict::Open, answer);
    let Some(latency) = latency else {
        let how = "Not measured here: shearling bench latency SOURCE SMALL --out latency.json measures it, --latency latency.json shows it.";
        return open(how.to_string());
    };
    match Compared::of(line, all, latency) {
        Ok(compared) => compared.answer(),
        Err(missing) => open(missing),
    }
}

/// The measured models of one line.
struct Compared<'a> {
    base: &'a LatencyModel,
    /// Every other one with its decoding speed over the base's, where that is known.
    others: Vec<(&'a LatencyModel, Option<Spread>)>,
    /// Whether the base is what the file compares with, round by round.
    is_first: bool,
    /// Measured models that are none of these runs'.
    foreign: usize,
    /// That others took CPUs meanwhile, where that was too much.
    busy: Option<String>,
}

impl<'a> Compared<'a> {
    /// What the file has of the line, or in words what it has not.
    fn of(line: &[&RunView], all: &[RunView], latency: &'a LatencyFile) -> Result<Compared<'a>, String> {
        let part = |model: &LatencyModel| part_in(line, all, &model.model, model.parameters);
        let own: Vec<(&LatencyModel, Part)> =
            latency.models.iter().filter_map(|model| Some((model, part(model)?))).collect();
        let names = |models: &mut dyn Iterator<Item = &LatencyModel>| named(models.map(|m| m.model.clone()).collect());
        if latency.models.is_empty() {
            return Err("The latency file holds no models.".to_string());
        }
        if own.is_empty() {
            let measured = names(&mut latency.models.iter());
            return Err(format!(
                "The latency file has {measured}: none of these runs exported or started from any of them."
            ));
        }
        let Some((base, _)) = own.iter().copied().find(|(_, part)| *part == Part::Source) else {
            let measured = names(&mut own.iter().map(|(model, _)| *model));
            return Err(format!(
                "Of these runs the latency file has {measured}, but not the model that they started from: nothing to compare \
                 with."
            ));
        };
        let is_first = latency.models.first().is_some_and(|first| std::ptr::eq(first, base));
        let written = own.iter().filter(|(_, part)| *part == Part::Written).map(|(model, _)| *model);
        let others: Vec<_> = written.map(|model| (model, decode_factor(model, base, is_first))).collect();
        if others.iter().all(|(_, factor)| factor.is_none()) {
            let base = &base.model;
            return Err(format!(
                "Of these runs the latency file has rates of only one model, {base}: nothing to compare."
            ));
        }
        let (foreign, busy) = (latency.models.len() - own.len(), latency.busy());
        Ok(Compared { base, others, is_first, foreign, busy })
    }

    fn answer(&self) -> Answer {
        let known = self.others.iter().filter_map(|(model, factor)| Some((*model, (*factor)?)));
        let best = known.max_by(|a, b| a.1.median.total_cmp(&b.1.median));
        let (verdict, answer) = match best {
            Some((model, factor)) => verdict(&short_name(&model.model), factor, &short_name(&self.base.model)),
            None => (Verdict::Open, "The latency file has no rates.".to_string()),
        };
        let unsteady = best.is_some_and(|(_, factor)| is_unsteady(factor));
        // What others took from both models need not be the same.
        let (verdict, answer) = match &self.busy {
            Some(busy) => (Verdict::Fact, format!("{answer} {busy}")),
            None if unsteady => (verdict, format!("{answer} The machine was busy; measure again.")),
            None => (verdict, answer),
        };
        let base = point(self.base, None, None);
        let others = self
            .others
            .iter()
            .map(|(model, factor)| point(model, *factor, prefill_factor(model, self.base, self.is_first)));
        let rest = match self.foreign {
            0 => None,
            1 => Some("One more measured model is not from these runs: see Speed.".to_string()),
            more => Some(format!("{more} more measured models are not from these runs: see Speed.")),
        };
        Answer::new("speed", QUESTION, verdict, answer).with(std::iter::once(base).chain(others).chain(rest).collect())
    }
}

/// Folders as the file names them: their ends alone are what different runs have in common.
fn named(folders: Vec<String>) -> String {
    let more = folders.len().saturating_sub(NAMED_MODELS);
    let rest = (more > 0).then(|| format!("{more} more"));
    listed(&folders.into_iter().take(NAMED_MODELS).chain(rest).collect::<Vec<_>>())
}

fn is_unsteady(factor: Spread) -> bool {
    factor.high > UNSTEADY * factor.low
}

fn verdict(name: &str, factor: Spread, base: &str) -> (Verdict, String) {
    let (times, low, high) = (factor.median, factor.low, factor.high);
    if is_unsteady(factor) {
        let answer =
            format!("Not clear: {name} decodes {low:.2}× to {high:.2}× as fast as {base}, depending on the round.");
        return (Verdict::Fact, answer);
    }
    if low > 1.0 + MARGIN {
        return (Verdict::Good, format!("Yes: {name} decodes {times:.2}× as fast as {base}."));
    }
    if high < 1.0 - MARGIN {
        return (Verdict::Bad, format!("No, it is slower: {name} decodes {times:.2}× as fast as {base}."));
    }
    (Verdict::Fact, format!("No clear difference: {name} decodes {times:.2}× as fast as {base}."))
}

/// How much faster a model decodes than the base: round by round where that was measured (against the file's first
/// model), else by the rates.
fn decode_factor(model: &LatencyModel, base: &LatencyModel, base_is_first: bool) -> Option<Spread> {
    let rates = (model.decode.tokens_per_second, base.decode.tokens_per_second);
    model.decode.speed_over_first.filter(|_| base_is_first).or_else(|| ratio(rates.0, rates.1))
}

/// The same for prefill.
fn prefill_factor(model: &LatencyModel, base: &LatencyModel, base_is_first: bool) -> Option<Spread> {
    let rates = (model.prefill.tokens_per_second, base.prefill.tokens_per_second);
    model.prefill.speed_over_first.filter(|_| base_is_first).or_else(|| ratio(rates.0, rates.1))
}

fn ratio(value: Option<f64>, base: Option<f64>) -> Option<Spread> {
    let ratio = value? / base.filter(|base| *base > 0.0)?;
    ratio.is_finite().then_some(Spread { median: ratio, low: ratio, high: ratio })
}

/// Rates from a hundred on need no decimals.
fn rounded(rate: f64) -> f64 {
    if rate.abs() >= 100.0 { rate.round() } else { rate }
}

fn point(model: &LatencyModel, decode: Option<Spread>, prefill: Option<Spread>) -> String {
    let rate = |value: Option<f64>| {
        value.map_or("–".to_string(), |value| format!("{} tokens/s", Unit::Count.text(rounded(value))))
    };
    let times = |factor: Option<Spread>| match factor {
        Some(factor) if factor.low < factor.high => {
            format!(" ({:.2}×, rounds {:.2}× to {:.2}×)", factor.median, factor.low, factor.high)
        }
        Some(factor) => format!(" ({:.2}×)", factor.median),
        None => String::new(),
    };
    let bound = model.decode.fraction_of_roofline;
    let bound = bound.map_or(String::new(), |part| format!(", {} of what the memory allows", Unit::Percent.text(part)));
    format!(
        "{}: decode {}{}{bound}, prefill {}{}{}.",
        short_name(&model.model),
        rate(model.decode.tokens_per_second),
        times(decode),
        rate(model.prefill.tokens_per_second),
        times(prefill),
        model.peak_memory_bytes.map_or(String::new(), |bytes| format!(", peak memory {}", Unit::Bytes.text(bytes)))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::RunHistory;

    fn file(rates: &[f64]) -> LatencyFile {
        let model = |(index, rate): (usize, &f64)| {
            serde_json::json!({
                "model": format!("runs/m{index}"), "prefill": { "tokens_per_second": 10.0 * rate },
                "decode": { "tokens_per_second": rate },
            })
        };
        serde_json::from_value(serde_json::json!({ "models": rates.iter().enumerate().map(model).collect::<Vec<_>>() }))
            .unwrap()
    }

    /// A pruning run that began with `runs/m0` and wrote `runs/m1`, and what continued it and wrote `runs/m2`; then
    /// another line, of `runs/n0` to `runs/n2`.
    fn answer_of(latency: Option<&LatencyFile>, line: usize) -> Answer {
        let run = |path: &str, source: &str| RunHistory {
            path: path.into(),
            model_source: Some(source.into()),
            ..RunHistory::default()
        };
        let runs = [
            run("runs/m1", "runs/m0"),
            run("runs/m2", "runs/m1"),
            run("runs/n1", "runs/n0"),
            run("runs/n2", "runs/n1"),
        ];
        let view = |(index, history)| RunView {
            history,
            label: String::new(),
            index,
            parent: (index % 2 == 1).then(|| index - 1),
            tokens_before: 0.0,
        };
        let views: Vec<RunView> = runs.iter().enumerate().map(view).collect();
        let own: Vec<&RunView> = views.iter().skip(2 * line).take(2).collect();
        speed(&own, &views, latency)
    }

    #[test]
    fn faster_slower_and_alike_are_told_apart() {
        let answer = |rates: &[f64]| answer_of(Some(&file(rates)), 0);
        let faster = answer(&[50.0, 40.0, 125.0]);
        assert_eq!(
            (faster.verdict, faster.answer.as_str()),
            (Verdict::Good, "Yes: runs/m2 decodes 2.50× as fast as runs/m0.")
        );
        assert_eq!(faster.points[2], "runs/m2: decode 125 tokens/s (2.50×), prefill 1,250 tokens/s (2.50×).");
        assert_eq!(answer(&[50.0, 40.0]).verdict, Verdict::Bad);
        let mut busy = file(&[50.0, 40.0, 125.0]);
        (busy.cpus_taken_by_others, busy.models[2].decode.fraction_of_roofline) = (Some(1.33), Some(0.145));
        let doubted = answer_of(Some(&busy), 0);
        assert!(doubted.verdict == Verdict::Fact && doubted.answer.starts_with(&faster.answer), "{doubted:?}");
        assert!(doubted.answer.contains("busy meanwhile: others took 1.3 CPUs"), "{doubted:?}");
        assert!(doubted.points[2].contains("(2.50×), 14.5 % of what the memory allows, prefill"), "{doubted:?}");
        assert_eq!(answer(&[50.0, 50.0]).verdict, Verdict::Fact);
        let mut rounds = file(&[50.0, 60.0]);
        rounds.models[1].decode.speed_over_first = Some(Spread { median: 1.2, low: 0.9, high: 1.3 });
        assert_eq!(answer_of(Some(&rounds), 0).verdict, Verdict::Fact, "a round was slower");
        rounds.models[1].decode.speed_over_first = Some(Spread { median: 3.0, low: 1.3, high: 7.7 });
        let unsteady = answer_of(Some(&rounds), 0);
        assert!(unsteady.verdict == Verdict::Fact && unsteady.answer.contains("1.30× to 7.70×"), "{unsteady:?}");
        assert!(unsteady.answer.ends_with("The machine was busy; measure again."), "{unsteady:?}");
        rounds.cpus_taken_by_others = Some(1.8);
        let told = answer_of(Some(&rounds), 0).answer;
        assert_eq!(told.to_lowercase().matches("machine was busy").count(), 1, "{told}");
        for unknown in [answer_of(None, 0), answer(&[]), answer(&[1.0]), answer(&[0.0, 1.0])] {
            assert_eq!(unknown.verdict, Verdict::Open, "{unknown:?}");
        }
    }

    #[test]
    fn only_models_of_the_line_count() {
        let mut latency = file(&[50.0, 40.0, 100.0, 1000.0]);
        let foreign = answer_of(Some(&latency), 1);
        assert_eq!(foreign.verdict, Verdict::Open);
        for model in &latency.models {
            assert!(foreign.answer.contains(&model.model), "{foreign:?}");
        }
        assert!(foreign.answer.contains("none of these runs exported"), "{foreign:?}");
        let own = answer_of(Some(&latency), 0);
        assert_eq!(own.answer, "Yes: runs/m2 decodes 2.00× as fast as runs/m0.", "m3 is no model of these runs");
        assert!(own.points.last().unwrap().contains("One more measured model"), "{own:?}");

        // The file's rounds are against its first model, which is not what this line began with.
        latency.models[1].decode.speed_over_first = Some(Spread { median: 9.0, low: 9.0, high: 9.0 });
        latency.models[0].model = "runs/n0".into();
        latency.models[2].model = "runs/m0".into();
        let own = answer_of(Some(&latency), 0);
        assert_eq!(own.answer, "No, it is slower: runs/m1 decodes 0.40× as fast as runs/m0.");
        latency.models[2].model = "runs/n3".into();
        let alone = answer_of(Some(&latency), 0);
        assert!(
            alone.verdict == Verdict::Open && alone.answer.contains("not the model that they started from"),
            "{alone:?}"
        );
    }
}
