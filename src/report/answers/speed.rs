//! The answer about speed, from the latency file: every other model against the first.

use super::{Answer, Verdict};
use crate::report::number::{Unit, significant};
use crate::report::side_files::{LatencyFile, LatencyModel, Spread, short_name};

/// Closer to 1 than this, in any round, is no difference worth a verdict.
const MARGIN: f64 = 0.02;
/// Rounds further apart than this give no one factor: the machine had other work.
const UNSTEADY: f64 = 1.5;

pub(super) fn speed(latency: Option<&LatencyFile>) -> Answer {
    const QUESTION: &str = "Is the small model faster?";
    let Some(latency) = latency else {
        let answer =
            "Not measured here: shearling bench latency SOURCE SMALL --json measures it, --latency takes its output.";
        return Answer::new("speed", QUESTION, Verdict::Open, answer);
    };
    let (Some(first), [_, others @ ..]) = (latency.models.first(), latency.models.as_slice()) else {
        return Answer::new("speed", QUESTION, Verdict::Open, "The latency file holds no models.");
    };
    let factors: Vec<(&LatencyModel, Spread)> =
        others.iter().filter_map(|model| Some((model, decode_factor(model, first)?))).collect();
    let best = factors.iter().max_by(|a, b| a.1.median.total_cmp(&b.1.median));
    let Some((model, factor)) = best else {
        return Answer::new(
            "speed",
            QUESTION,
            Verdict::Open,
            "The latency file holds only one measured model: nothing to compare.",
        );
    };
    let (name, base) = (short_name(&model.model), short_name(&first.model));
    let times = factor.median;
    let (verdict, answer) = match factor {
        Spread { low, high, .. } if *high > UNSTEADY * low => {
            let answer = format!(
                "Not clear: {name} writes {low:.2} to {high:.2} times as fast as {base}, by round. The machine was busy; \
                 measure again."
            );
            (Verdict::Fact, answer)
        }
        factor if factor.low > 1.0 + MARGIN => {
            (Verdict::Good, format!("Yes: {name} writes {times:.2} times as fast as {base}."))
        }
        factor if factor.high < 1.0 - MARGIN => {
            (Verdict::Bad, format!("No: {name} writes {times:.2} times as fast as {base}, which is slower."))
        }
        _ => (Verdict::Fact, format!("No clear difference: {name} writes {times:.2} times as fast as {base}.")),
    };
    let points = std::iter::once((first, None)).chain(others.iter().map(|model| (model, Some(first))));
    Answer::new("speed", QUESTION, verdict, answer).with(points.map(|(model, base)| point(model, base)).collect())
}

/// How often as fast a model writes as the first: round by round where that was measured, else by the rates.
fn decode_factor(model: &LatencyModel, first: &LatencyModel) -> Option<Spread> {
    let rates = (model.decode.tokens_per_second, first.decode.tokens_per_second);
    model.decode.speed_over_first.or_else(|| ratio(rates.0, rates.1))
}

/// The same for reading.
fn prefill_factor(model: &LatencyModel, first: &LatencyModel) -> Option<Spread> {
    let rates = (model.prefill.tokens_per_second, first.prefill.tokens_per_second);
    model.prefill.speed_over_first.or_else(|| ratio(rates.0, rates.1))
}

fn ratio(value: Option<f64>, base: Option<f64>) -> Option<Spread> {
    let ratio = value? / base.filter(|base| *base > 0.0)?;
    ratio.is_finite().then_some(Spread { median: ratio, low: ratio, high: ratio })
}

fn point(model: &LatencyModel, first: Option<&LatencyModel>) -> String {
    let rate =
        |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{} tokens/s", significant(value, 4)));
    let times = |factor: Option<Spread>| match factor {
        Some(factor) if factor.low < factor.high => {
            format!(" ({:.2}×, {:.2} to {:.2} by round)", factor.median, factor.low, factor.high)
        }
        Some(factor) => format!(" ({:.2}×)", factor.median),
        None => String::new(),
    };
    format!(
        "{}: writes {}{}, reads {}{}{}.",
        short_name(&model.model),
        rate(model.decode.tokens_per_second),
        times(first.and_then(|first| decode_factor(model, first))),
        rate(model.prefill.tokens_per_second),
        times(first.and_then(|first| prefill_factor(model, first))),
        model.peak_memory_bytes.map_or(String::new(), |bytes| format!(", {} of memory", Unit::Bytes.text(bytes)))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn faster_slower_and_alike_are_told_apart() {
        let answer = |rates: &[f64]| speed(Some(&file(rates)));
        let faster = answer(&[50.0, 40.0, 125.0]);
        assert_eq!(
            (faster.verdict, faster.answer.as_str()),
            (Verdict::Good, "Yes: runs/m2 writes 2.50 times as fast as runs/m0.")
        );
        assert_eq!(faster.points[2], "runs/m2: writes 125 tokens/s (2.50×), reads 1250 tokens/s (2.50×).");
        assert_eq!(answer(&[50.0, 40.0]).verdict, Verdict::Bad);
        assert_eq!(answer(&[50.0, 50.0]).verdict, Verdict::Fact);
        let mut rounds = file(&[50.0, 60.0]);
        rounds.models[1].decode.speed_over_first = Some(Spread { median: 1.2, low: 0.9, high: 1.3 });
        assert_eq!(speed(Some(&rounds)).verdict, Verdict::Fact, "a round was slower");
        rounds.models[1].decode.speed_over_first = Some(Spread { median: 3.0, low: 1.3, high: 7.7 });
        let unsteady = speed(Some(&rounds));
        assert!(unsteady.verdict == Verdict::Fact && unsteady.answer.contains("1.30 to 7.70"), "{unsteady:?}");
        for unknown in [speed(None), answer(&[]), answer(&[1.0]), answer(&[0.0, 1.0])] {
            assert_eq!(unknown.verdict, Verdict::Open, "{unknown:?}");
        }
    }
}
