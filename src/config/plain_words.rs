//! What the parser of a configuration says, in words of its user: the key, what it expects, what was found. The parser
//! knows types of Rust (`u64`, `unit variant`); the value itself is looked up in the table that was parsed.

use super::known_keys::{joined, known_in, words};
use toml::{Table, Value};

/// `` `train.steps` expects a whole number, found the text "ten" ``
pub(super) fn wrong_value(key: &str, expected: &str, table: &Table) -> String {
    let value = at(key, table);
    format!("`{key}` expects {}, found {}", expectation(key, expected, value), value.map_or("nothing".into(), found))
}

/// `` `prune.method` does not know "foo"; it is one of "learned", "taylor" ``
pub(super) fn unknown_word(key: &str, found: &str, known: &[&str]) -> String {
    format!("`{key}` does not know {found:?}, expected {}", list(known))
}

/// `` `run.directory` is missing ``
pub(super) fn missing_key(place: &str, key: &str) -> String {
    let key = joined(place, key);
    match known_in(&key).first() {
        Some(_) => format!("the table [{key}] is missing"),
        None => format!("`{key}` is missing"),
    }
}

/// `` there is no key `train.stepz`; [train] has `steps`, `batch_rows` ``
pub(super) fn unknown_key(place: &str, found: &str, known: &[&str]) -> String {
    let known = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    match place {
        "" => format!("there is no table or key `{found}`; the tables are {known}"),
        _ => format!("there is no key `{}`; [{place}] has {known}", joined(place, found)),
    }
}

/// What a key takes. A list of words is asked of the parser, which does not tell it where another type was found.
fn expectation(key: &str, expected: &str, value: Option<&Value>) -> String {
    let number = value.is_some_and(|value| value.is_integer());
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" if number => "a whole number of at least 0".to_string(),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number".to_string(),
        "f32" | "f64" => "a number".to_string(),
        "a boolean" => "true or false".to_string(),
        "a string" | "path string" => "text in quotes".to_string(),
        "a map" => "a table".to_string(),
        "a sequence" => "a list".to_string(),
        _ if expected.starts_with("a nonzero") => "a whole number of at least 1".to_string(),
        _ if expected.starts_with("struct ") => {
            let known = known_in(key).iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            format!("a table with {known}")
        }
        _ => match words(key) {
            words if words.is_empty() => expected.to_string(),
            words => list(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        },
    }
}

/// What stands there, with its type where that is the matter.
fn found(value: &Value) -> String {
    const SHOWN: usize = 40;
    match value {
        Value::String(text) if text.len() > 18 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{text}, which is too large")
        }
        Value::String(text) if text.chars().count() > SHOWN => {
            format!("the text \"{}…\"", text.chars().take(SHOWN).collect::<String>())
        }
        Value::String(text) => format!("the text {text:?}"),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => value.to_string(),
        Value::Datetime(date) => format!("the date {date}"),
        Value::Array(_) => "a list".to_string(),
        Value::Table(_) => "a table".to_string(),
    }
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`
fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

/// The value at a dotted key. A part of a key may hold dots itself: the longest one that is there is taken.
fn at<'a>(key: &str, table: &'a Table) -> Option<&'a Value> {
    if let Some(value) = table.get(key) {
        return Some(value);
    }
    let mut dots = key.match_indices('.').map(|(at, _)| at).collect::<Vec<_>>();
    dots.reverse();
    dots.into_iter().find_map(|dot| at(&key[dot + 1..], table.get(key[..dot].trim_matches('"'))?.as_table()?))
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    const MINIMAL: &str =
        "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n[train]\nsteps = 4\nbatch_rows = 2\n";

    fn refused(text: &str, set: Option<&str>) -> String {
        let sets: Vec<String> = set.map(str::to_string).into_iter().collect();
        parse(text, "my.toml", &sets).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_value_is_told_with_its_key_what_it_expects_and_what_was_found() {
        for (set, said) in [
            ("train.steps=ten", "`train.steps` expects a whole number, found the text \"ten\""),
            ("train.steps=-3", "`train.steps` expects a whole number of at least 0, found -3"),
            ("train.steps=1.5", "`train.steps` expects a whole number, found 1.5"),
            ("train.steps=[10]", "`train.steps` expects a whole number, found a list"),
            ("train.steps=99999999999999999999", "found 99999999999999999999, which is too large"),
            ("target.hidden_size=big", "`target.hidden_size` expects a whole number, found the text \"big\""),
            ("run.threads=0", "`run.threads` expects a whole number of at least 1, found 0"),
            ("train.learning_rate=fast", "`train.learning_rate` expects a number, found the text \"fast\""),
            ("mixer.proportions.a=x", "`mixer.proportions.a` expects a number, found the text \"x\""),
            ("mixer.proportions.\"a.b\"=x", "expects a number, found the text \"x\""),
            ("mixer.proportions=3", "`mixer.proportions` expects a table, found 3"),
            ("masks.anti_windup=yes", "`masks.anti_windup` expects true or false, found the text \"yes\""),
            ("model=x", "`model` expects a table with `source`, `random`, found the text \"x\""),
            ("run.dtype=16", "`run.dtype` expects \"auto\", \"fp32\" or \"bf16\", found 16"),
            ("prune.method=foo", "`prune.method` does not know \"foo\", expected \"learned\", \"activations\""),
            ("model.random={hidden_size=1}", "`model.random.intermediate_size` is missing"),
            ("train.colour=1", "there is no key `train.colour`; [train] has `steps`, `batch_rows`"),
        ] {
            let message = refused(MINIMAL, Some(set));
            assert!(message.starts_with(&format!("--set {set}: ")) && message.contains(said), "{set}: {message}");
            let words = ["u64", "i64", "f64", "usize", "variant", "struct", "field", "invalid"];
            assert!(words.iter().all(|word| !message.contains(word)), "{set}: {message}");
        }
    }

    #[test]
    fn in_a_file_the_line_is_shown_too() {
        let message = refused(&MINIMAL.replace("steps = 4", "steps = \"ten\""), None);
        let said = "my.toml: line 8: `train.steps` expects a whole number, found the text \"ten\"\n  steps = \"ten\"";
        assert_eq!(message, said);
        assert_eq!(refused("[train]\nsteps = 1\n", None), "my.toml: the table [run] is missing");
        let message = refused(&MINIMAL.replace("directory = 'a'", ""), None);
        assert_eq!(message, "my.toml: line 1: `run.directory` is missing\n  [run]");
        let message = refused("[run\n", None);
        assert!(message.starts_with("my.toml: this is not TOML: line 1, column"), "{message}");
    }
}
