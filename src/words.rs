//! Words around numbers, for messages.

/// A number with what it counts: `1 step`, `2 steps`, `0 entries`, `3 batches`.
pub fn counted(number: impl Into<i128>, noun: &str) -> String {
    match number.into() {
        1 => format!("1 {noun}"),
        number => format!("{number} {}", plural(noun)),
    }
}

fn plural(noun: &str) -> String {
    let vowel_before_y = |stem: &str| stem.ends_with(['a', 'e', 'o', 'u']);
    match noun.strip_suffix('y').filter(|stem| !vowel_before_y(stem)) {
        Some(stem) => format!("{stem}ies"),
        None if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
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
    }
}
