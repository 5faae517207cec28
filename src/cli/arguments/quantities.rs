//! Numbers with a unit, as people write them: counts, bytes, bytes per second, seconds.

/// `1.3B`, `350M`, `20k` or a plain number.
pub(super) fn count(text: &str) -> Result<u64, String> {
    let units = [("", 1.0), ("k", 1e3), ("m", 1e6), ("b", 1e9), ("g", 1e9), ("t", 1e12)];
    let count = with_unit(text, &units).map(f64::round).filter(|count| (1.0..1e18).contains(count));
    count.map(|count| count as u64).ok_or_else(|| "give a number such as 350M, 1.3B or 1300000000".to_string())
}

/// A count, with the text that it was given as, for messages that repeat the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedCount {
    /// The number.
    pub number: u64,
    /// What was typed.
    pub typed: String,
}

/// As [`count`], keeping the text.
pub(super) fn typed_count(text: &str) -> Result<TypedCount, String> {
    Ok(TypedCount { number: count(text)?, typed: text.trim().to_string() })
}

/// `4GiB`, `512MiB`, `3.5GB`: bytes.
pub(super) fn size(text: &str) -> Result<f64, String> {
    let bytes = with_unit(text, &BYTES).filter(|bytes| (1.0..1e18).contains(bytes));
    bytes.ok_or_else(|| "give a size such as 4GiB, 512MiB or 3.5GB".to_string())
}

/// `3.35TB/s`, `45GB/s`: bytes per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let per_second = text.trim().strip_suffix("/s");
    let rate = per_second.and_then(|bytes| with_unit(bytes, &BYTES)).filter(|bytes| (1.0..1e18).contains(bytes));
    rate.ok_or_else(|| "give a rate such as 3.35TB/s or 45GB/s".to_string())
}

/// `20ms`, `0.5s`, `800us`: seconds.
pub(super) fn time(text: &str) -> Result<f64, String> {
    let units = [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6)];
    let seconds = with_unit(text, &units).filter(|seconds| *seconds > 0.0 && seconds.is_finite());
    seconds.ok_or_else(|| "give a time such as 20ms or 0.5s".to_string())
}

const BYTES: [(&str, f64); 8] = [
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
];

/// The number before one of the units, in either case, times the unit.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let plain = text.trim().to_lowercase().replace(['_', ','], "");
    let end = plain.rfind(|c: char| c.is_ascii_digit() || c == '.').map_or(0, |last| last + 1);
    let (number, unit) = plain.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_people_write_them() {
        let read = ["1.3B", "350M", "20k", "1_300_000", "1,000", "0.42b", "7"].map(|text| count(text).unwrap());
        assert_eq!(read, [1_300_000_000, 350_000_000, 20_000, 1_300_000, 1_000, 420_000_000, 7]);
        let given = typed_count("51M").unwrap();
        assert_eq!((given.number, given.typed.as_str()), (51_000_000, "51M"));
        for wrong in ["", "B", "-1B", "many", "0", "nan", "1e30", "4GiB"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_rates_and_times_need_a_unit() {
        assert_eq!(
            ["4GiB", "512 MiB", "3.5GB", "1kb"].map(|text| size(text).unwrap()),
            [4.0 * 1_073_741_824.0, 512.0 * 1_048_576.0, 3.5e9, 1000.0]
        );
        assert_eq!(["3.35TB/s", "45 GB/s"].map(|text| rate(text).unwrap()), [3.35e12, 45e9]);
        assert_eq!(["20ms", "0.5s", "250 us"].map(|text| time(text).unwrap()), [0.02, 0.5, 0.00025]);
        for wrong in ["", "4", "4G", "0GiB", "-1GiB", "GiB", "1e99GiB", "nanGiB", "4GB/s"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "3.35TB", "0GB/s", "-1GB/s", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "20", "0ms", "-1ms", "infs", "20min"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
