//! What the parser of a configuration says, with what was probably meant: the key of ours for an unknown one, by
//! spelling or by meaning; our name of a kind.

use super::common_names::{meant_key, meant_kind};
use super::known_keys::{COMPUTE_DTYPES, COMPUTE_KEYS, joined, known_in};
use super::plain_words::{missing_key, unknown_key, unknown_word, wrong_value};
use super::refusal::{Refusal, place_in};
use toml::{Table, Value};

/// What the parser's `message` about the key or table `place` of `table` means, with a suggestion where there is one.
/// `table` is the configuration with all overrides.
pub(super) fn advice(message: &str, place: &str, table: &Table) -> String {
    match Refusal::of(message) {
        Refusal::UnknownKey { found, known } => {
            let place = if place.is_empty() { place_of(found, &known, table) } else { place.to_string() };
            let said = unknown_key(&place, found, &known);
            key_advice(&place, found, &known, table).map_or(said.clone(), |advice| format!("{said}\n{advice}"))
        }
        Refusal::UnknownWord { found, known } => value_advice(place, found, &known),
        Refusal::MissingKey(key) => missing_key(place, key),
        Refusal::WrongValue { expected } => wrong_value(place, expected, table),
        Refusal::Other => message.to_string(),
    }
}

/// The same of an error of the text of a file, with the line it is about. `of_table` is what the parser says of the same
/// configuration as a table: it knows the key, and the error of the text the line.
pub(super) fn advice_in(text: &str, error: &toml::de::Error, of_table: &toml::de::Error, table: &Table) -> String {
    let place = place_in(&of_table.to_string());
    let said = advice(of_table.message(), &place, table);
    let same = error.message() == of_table.message() && !place.is_empty();
    let begin = error.span().filter(|_| same).and_then(|span| text.get(..span.start));
    let Some(begin) = begin else { return said };
    let line = begin.matches('\n').count();
    let shown = text.lines().nth(line).unwrap_or_default().trim();
    let (first, others) = said.split_once('\n').map_or((said.as_str(), None), |(first, others)| (first, Some(others)));
    let others = others.map_or(String::new(), |others| format!("\n{others}"));
    format!("line {}: {first}\n  {shown}{others}", line + 1)
}

/// Of text that is no TOML: the parser shows the place itself.
pub(super) fn not_toml(error: &toml::de::Error) -> String {
    let said = error.to_string();
    let said = said.trim_end();
    format!("this is not TOML: {}", said.strip_prefix("TOML parse error at ").unwrap_or(said))
}

/// What other tools call the length of a row, which is no key of ours.
const ROW_LENGTHS: [&str; 8] = [
    "sequence_length",
    "seq_length",
    "seq_len",
    "max_seq_len",
    "max_seq_length",
    "block_size",
    "context_length",
    "max_length",
];

/// What was meant by the unknown key `found` of the table `place`, where `siblings` are known.
fn key_advice(place: &str, found: &str, siblings: &[&str], table: &Table) -> Option<String> {
    if ROW_LENGTHS.contains(&found) {
        return Some(
            "rows have the length that they were made with: shearling data prepare --sequence-length N".to_string(),
        );
    }
    let meant = || meant_key(place, found).map(|key| format!("`{key}`"));
    // A misspelt key of this very table, if hardly misspelt; else by meaning; else anything like it.
    let near = |threshold: f64| nearest(found, siblings, threshold).map(|key| format!("`{}`", joined(place, key)));
    let inside = || inner_keys(found, table);
    near(0.92).or_else(inside).or_else(meant).or_else(|| near(0.75)).map(|key| format!("did you mean {key}?"))
}

/// Of an unknown table, what its keys mean.
fn inner_keys(found: &str, table: &Table) -> Option<String> {
    let inner = table.get(found)?.as_table()?;
    let keys: Vec<String> =
        inner.keys().filter_map(|key| meant_key(found, key)).map(|key| format!("`{key}`")).collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

/// The table whose unknown key is `found`: the parser says only which keys it has.
pub(super) fn place_of(found: &str, siblings: &[&str], table: &Table) -> String {
    fn search(prefix: &str, table: &Table, found: &str, siblings: &[&str]) -> Option<String> {
        if table.contains_key(found) && known_in(prefix) == siblings {
            return Some(prefix.to_string());
        }
        table.iter().find_map(|(key, value)| match value {
            Value::Table(inner) => search(&joined(prefix, key), inner, found, siblings),
            _ => None,
        })
    }
    search("", table, found, siblings).unwrap_or_default()
}

/// The message about an unknown word among `expected` ones, with the word that other tools' name stands for.
fn value_advice(place: &str, found: &str, expected: &[&str]) -> String {
    let compute = COMPUTE_KEYS.contains(&place);
    // The parser knows the kinds of written files too.
    let expected = if compute { &COMPUTE_DTYPES[..] } else { expected };
    let message = unknown_word(place, found, expected);
    match meant_kind(found) {
        Some(kind) if expected.contains(&kind) => format!("{message}\ndid you mean \"{kind}\"?"),
        Some(kind) if compute => {
            format!("{message}\n{kind} is only for written checkpoints (prune.dtype, checkpoint.export_dtype)")
        }
        _ => match nearest(found, expected, 0.75) {
            Some(known) => format!("{message}\ndid you mean \"{known}\"?"),
            None => message,
        },
    }
}

/// The candidate most like `word`, if more like it than `threshold`.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str], threshold: f64) -> Option<&'a str> {
    let word = word.to_lowercase();
    let scored = candidates.iter().map(|candidate| (strsim::jaro_winkler(&word, candidate), *candidate));
    scored.filter(|(score, _)| *score > threshold).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
