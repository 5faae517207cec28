//! Words of sentences: counts with the right form of the noun and separators between thousands, and devices.

/// `1 step`, `1,200 steps`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{} {}", thousands(count), plural(count, noun))
}

/// `step` or `steps`; the noun takes a plain `s`.
pub fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_string() } else { format!("{noun}s") }
}

/// A device as people call it; runs record libtorch's name of it.
pub fn device(recorded: &str) -> String {
    match recorded.strip_prefix("Cuda(").and_then(|rest| rest.strip_suffix(')')) {
        Some(index) => format!("CUDA {index}"),
        None if recorded == "Cpu" => "CPU".to_string(),
        None => recorded.to_string(),
    }
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_no_s_and_thousands_have_commas() {
        assert_eq!(counted(1, "mask snapshot"), "1 mask snapshot");
        assert_eq!((counted(0, "step"), counted(12_345, "step")), ("0 steps".into(), "12,345 steps".into()));
        assert_eq!(["Cpu", "Cuda(1)", "Mps"].map(device), ["CPU", "CUDA 1", "Mps"]);
        assert_eq!([999, 1000, 1_234_567].map(thousands), ["999", "1,000", "1,234,567"]);
    }
}
