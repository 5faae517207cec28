//! What came out: medians over the rounds with their spread, ratios to the first model, and the roofline.

use super::contestant::Contestant;
use super::rounds::Measured;
use super::timed_decode::{DecodeTimes, Lengths};
use crate::cli::table::{Table, bytes, grouped};
use crate::commands::place::{dtype_name, place};
use crate::native::runtime::contention::Contention;
use crate::native::runtime::device;
use crate::native::runtime::threads;
use serde_json::{Value, json};
use tch::{Device, Kind};

/// The whole result.
pub(in crate::commands) struct LatencyReport {
    rows: Vec<Row>,
    /// Bytes per second, median over the rounds.
    bandwidth: Spread,
    lengths: Lengths,
    kind: Kind,
    device: Device,
    /// What other processes took meanwhile, if it was too much.
    busy: Option<Contention>,
}

/// One model.
struct Row {
    name: String,
    parameters: i64,
    weight_bytes: i64,
    cache_bytes: usize,
    bytes_per_token: f64,
    peak_memory_bytes: Option<u64>,
    /// Seconds.
    prefill: Spread,
    /// Seconds per token.
    step: Spread,
    /// Speed over the first model's, round by round.
    prefill_ratio: Spread,
    step_ratio: Spread,
}

/// Median, smallest and largest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let (count, middle) = (sorted.len(), sorted.len() / 2);
        let median = if count.is_multiple_of(2) { (at(middle.wrapping_sub(1)) + at(middle)) / 2.0 } else { at(middle) };
        Spread { median, low: at(0), high: at(count.wrapping_sub(1)) }
    }

    fn json(&self) -> Value {
        json!({ "median": self.median, "low": self.low, "high": self.high })
    }
}

impl LatencyReport {
    pub(super) fn new(
        contestants: Vec<Contestant>,
        measured: Measured,
        lengths: Lengths,
        kind: Kind,
        device: Device,
        busy: Option<Contention>,
    ) -> LatencyReport {
        // The middle step of the decode.
        let context = lengths.prompt as f64 + (lengths.new + 1) as f64 / 2.0;
        let first = measured.decodes.first().cloned().unwrap_or_default();
        let rows = contestants.into_iter().zip(&measured.decodes);
        let rows = rows.map(|(contestant, decodes)| Row::new(contestant, context, &first, decodes)).collect();
        LatencyReport { rows, bandwidth: Spread::of(measured.bandwidth), lengths, kind, device, busy }
    }

    /// Decoded tokens per second of model number `index`, median over the rounds.
    pub(in crate::commands) fn decoded_per_second(&self, index: usize) -> Option<f64> {
        self.rows.get(index).map(|row| 1.0 / row.step.median)
    }

    pub(super) fn text(&self) -> String {
        let mut speeds = Table::new(["model", "prefill tok/s", "×", "decode tok/s", "×", "spread", "ms/token"]);
        let mut sizes = Table::new(["model", "parameters", "weights", "peak memory", "roofline tok/s", "reached"]);
        for row in &self.rows {
            let rate = 1.0 / row.step.median;
            let roofline = self.roofline(row);
            speeds.row([
                row.name.clone(),
                grouped((self.lengths.prompt as f64 / row.prefill.median).round() as i64),
                format!("{:.2}", row.prefill_ratio.median),
                format!("{rate:.1}"),
                format!("{:.2}", row.step_ratio.median),
                format!("{:.1}–{:.1}", 1.0 / row.step.high, 1.0 / row.step.low),
                format!("{:.2}", 1e3 * row.step.median),
            ]);
            sizes.row([
                row.name.clone(),
                grouped(row.parameters),
                bytes(row.weight_bytes as f64),
                row.peak_memory_bytes.map_or("–".to_string(), |peak| bytes(peak as f64)),
                format!("{roofline:.1}"),
                format!("{:.0} %", 100.0 * rate / roofline),
            ]);
        }
        format!(
            "{speeds}\n{sizes}\n×: times as fast as the first model, median of the rounds' ratios\nprefill of {} tokens, decoding of {}, batch size 1; {}, {}; memory bandwidth {:.1} GB/s ({:.1}–{:.1})\n",
            grouped(self.lengths.prompt),
            grouped(self.lengths.new),
            place(self.kind, self.device),
            threads::in_words(),
            self.bandwidth.median / 1e9,
            self.bandwidth.low / 1e9,
            self.bandwidth.high / 1e9,
        )
    }

    pub(in crate::commands) fn json(&self) -> Value {
        json!({
            "device": device::name(self.device),
            "threads": tch::get_num_threads(),
            "dtype": dtype_name(self.kind),
            "cpus_taken_by_others": self.busy.map(|busy| busy.others),
            "memory_bandwidth_bytes_per_second": self.bandwidth.median,
            "memory_bandwidth_spread": self.bandwidth.json(),
            "models": self.rows.iter().map(|row| self.row_json(row)).collect::<Vec<_>>(),
        })
    }

    fn row_json(&self, row: &Row) -> Value {
        let rate = 1.0 / row.step.median;
        json!({
            "model": row.name,
            "parameters": row.parameters,
            "weight_bytes": row.weight_bytes,
            "prefill": {
                "tokens": self.lengths.prompt,
                "seconds": row.prefill.median,
                "tokens_per_second": self.lengths.prompt as f64 / row.prefill.median,
                "seconds_spread": row.prefill.json(),
                "speed_over_first": row.prefill_ratio.json(),
            },
            "decode": {
                "context": self.lengths.prompt,
                "tokens": self.lengths.new,
                "seconds_per_token": row.step.median,
                "tokens_per_second": rate,
                "bytes_per_token": row.bytes_per_token,
                "roofline_tokens_per_second": self.roofline(row),
                "fraction_of_roofline": rate / self.roofline(row),
                "seconds_per_token_spread": row.step.json(),
                "speed_over_first": row.step_ratio.json(),
            },
            "cache_bytes": row.cache_bytes,
            "peak_memory_bytes": row.peak_memory_bytes,
        })
    }

    /// Tokens per second if a step were nothing but reading.
    fn roofline(&self, row: &Row) -> f64 {
        self.bandwidth.median / row.bytes_per_token
    }
}

impl Row {
    fn new(contestant: Contestant, context: f64, first: &[DecodeTimes], decodes: &[DecodeTimes]) -> Row {
        let pairs = || first.iter().zip(decodes);
        Row {
            parameters: contestant.parameters(),
            weight_bytes: contestant.weight_bytes(),
            cache_bytes: contestant.cache.bytes(),
            bytes_per_token: contestant.bytes_per_token(context),
            peak_memory_bytes: contestant.peak_memory_bytes,
            prefill: Spread::of(decodes.iter().map(|times| times.prefill)),
            step: Spread::of(decodes.iter().map(|times| times.step)),
            prefill_ratio: Spread::of(pairs().map(|(first, own)| first.prefill / own.prefill)),
            step_ratio: Spread::of(pairs().map(|(first, own)| first.step / own.step)),
            name: contestant.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_rounds_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 9.0]), Spread { median: 3.0, low: 1.0, high: 9.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), Spread { median: 3.0, low: 1.0, high: 9.0 });
        assert_eq!(Spread::of([2.0]), Spread { median: 2.0, low: 2.0, high: 2.0 });
        assert!(Spread::of([]).median.is_nan());
    }
}
