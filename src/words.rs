//! Words of messages: counts with the right form of the noun and separators between thousands, and devices.

/// A number with what it counts: `1 step`, `1,200 steps`, `0 entries`, `3 batches`.
pub fn counted(count: impl Into<i128>, noun: &str) -> String {
    let count = count.into();
    format!("{} {}", grouped(count), form(count, noun))
}

/// The form of the noun alone: `step` or `steps`.
pub fn plural(count: u64, noun: &str) -> String {
    form(count.into(), noun)
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    grouped(number.into())
}

/// A device as people call it and as `--device` takes it; runs record libtorch's name of it.
pub fn device(recorded: &str) -> String {
    match recorded.strip_prefix("Cuda(").and_then(|rest| rest.strip_suffix(')')) {
        Some(index) => format!("cuda:{index}"),
        None if recorded == "Cpu" => "CPU".to_string(),
        None => recorded.to_string(),
    }
}

fn form(count: i128, noun: &str) -> String {
    if count == 1 {
        return noun.to_string();
    }
    let vowel_before_y = |stem: &str| stem.ends_with(['a', 'e', 'o', 'u']);
    match noun.strip_suffix('y').filter(|stem| !vowel_before_y(stem)) {
        Some(stem) => format!("{stem}ies"),
        None if noun == "epoch" => format!("{noun}s"),
        None if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
}

fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{}{}", if number < 0 { "-" } else { "" }, groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_else_plural() {
        let told: Vec<String> = [0u32, 1, 2].iter().map(|number| counted(*number, "step")).collect();
        assert_eq!(told, ["0 steps", "1 step", "2 steps"]);
        assert_eq!(counted(2u32, "entry"), "2 entries");
        assert_eq!(counted(2u32, "batch"), "2 batches");
        assert_eq!(counted(2u32, "key"), "2 keys");
        assert_eq!(
            (plural(1, "mask snapshot"), plural(3, "mask snapshot")),
            ("mask snapshot".into(), "mask snapshots".into())
        );
    }

    #[test]
    fn thousands_have_commas_and_devices_their_names() {
        assert_eq!(counted(12_345u32, "step"), "12,345 steps");
        assert_eq!([999, 1000, 1_234_567].map(thousands), ["999", "1,000", "1,234,567"]);
        assert_eq!(counted(-1234, "row"), "-1,234 rows");
        assert_eq!(["Cpu", "Cuda(1)", "Mps"].map(device), ["CPU", "cuda:1", "Mps"]);
    }
}
