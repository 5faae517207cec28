//! The answer about speed, from the latency file: every other model against the first.

use super::{Answer, Verdict};
use crate::report::number::Unit;
use crate::report::side_files::{LatencyFile, LatencyModel, short_name};

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
    let factors: Vec<(&LatencyModel, f64)> =
        others.iter().filter_map(|model| Some((model, ratio(decode(model), decode(first))?))).collect();
    let best = factors.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((model, factor)) = best else {
        return Answer::new(
            "speed",
            QUESTION,
            Verdict::Open,
            "The latency file holds only one measured model: nothing to compare.",
        );
    };
    let (name, base) = (short_name(&model.model), short_name(&first.model));
    let (verdict, answer) = match *factor {
        factor if factor > 1.02 => (Verdict::Good, format!("Yes: {name} writes {factor:.2} times as fast as {base}.")),
        factor if factor >= 0.98 => (Verdict::Fact, format!("No difference: {name} writes as fast as {base}.")),
        factor => (Verdict::Bad, format!("No: {name} writes {factor:.2} times as fast as {base}, which is slower.")),
    };
    let points = std::iter::once((first, None)).chain(others.iter().map(|model| (model, Some(first))));
    Answer::new("speed", QUESTION, verdict, answer).with(points.map(|(model, base)| point(model, base)).collect())
}

fn decode(model: &LatencyModel) -> Option<f64> {
    model.decode.tokens_per_second
}

fn ratio(value: Option<f64>, base: Option<f64>) -> Option<f64> {
    Some(value? / base.filter(|base| *base > 0.0)?).filter(|ratio| ratio.is_finite())
}

fn point(model: &LatencyModel, base: Option<&LatencyModel>) -> String {
    let rate =
        |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{} tokens/s", Unit::Plain.text(value)));
    let times = |value: Option<f64>, base: Option<Option<f64>>| {
        base.and_then(|base| ratio(value, base)).map_or(String::new(), |ratio| format!(" ({ratio:.2}×)"))
    };
    let (write, read) = (decode(model), model.prefill.tokens_per_second);
    format!(
        "{}: writes {}{}, reads {}{}{}.",
        short_name(&model.model),
        rate(write),
        times(write, base.map(decode)),
        rate(read),
        times(read, base.map(|base| base.prefill.tokens_per_second)),
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
        for unknown in [speed(None), answer(&[]), answer(&[1.0]), answer(&[0.0, 1.0])] {
            assert_eq!(unknown.verdict, Verdict::Open, "{unknown:?}");
        }
    }
}
