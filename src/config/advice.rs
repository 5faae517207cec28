//! What the parser of a configuration says, with what was probably meant: the key of ours for an unknown one, by
//! spelling or by meaning; our name of a kind.

use super::RunConfig;
use super::common_names::{meant_key, meant_kind};
use toml::{Table, Value};

/// What `run.dtype` may be.
pub(super) const COMPUTE_DTYPES: [&str; 3] = ["auto", "fp32", "bf16"];

/// The parser's message about `table`, the configuration with all overrides, with a suggestion where there is one.
pub(super) fn advice(error: &toml::de::Error, table: &Table) -> String {
    let message = error.to_string().trim_end().to_string();
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let Some((found, expected)) = quoted.split_first() else { return message };
    if error.message().starts_with("unknown field") {
        match key_advice(found, expected, table) {
            Some(advice) => format!("{message}\n{advice}"),
            None => message,
        }
    } else if error.message().starts_with("unknown variant") {
        value_advice(message, found, expected, table)
    } else {
        message
    }
}

/// What was meant by the unknown key `found`, where `siblings` are known.
fn key_advice(found: &str, siblings: &[&str], table: &Table) -> Option<String> {
    let place = place_of(found, siblings, table);
    let meant = || meant_key(&place, found).map(|key| format!("`{key}`"));
    // A misspelt key of this very table, if hardly misspelt; else by meaning; else anything like it.
    let near = |threshold: f64| nearest(found, siblings, threshold).map(|key| format!("`{key}`"));
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
fn place_of(found: &str, siblings: &[&str], table: &Table) -> String {
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
fn value_advice(message: String, found: &str, expected: &[&str], table: &Table) -> String {
    let compute = table.get("run").and_then(|run| run.get("dtype")).and_then(Value::as_str) == Some(found);
    let list = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let (message, expected) = match compute {
        // Of a run itself; the parser knows the kinds of written files too.
        true => (message.replace(&list(expected), &list(&COMPUTE_DTYPES)), &COMPUTE_DTYPES[..]),
        false => (message, expected),
    };
    match meant_kind(found) {
        Some(kind) if expected.contains(&kind) => format!("{message}\ndid you mean `{kind}`?"),
        Some(kind) if compute => {
            format!("{message}\n{kind} is only for written checkpoints (prune.dtype, checkpoint.export_dtype)")
        }
        _ => match nearest(found, expected, 0.75) {
            Some(known) => format!("{message}\ndid you mean `{known}`?"),
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

/// All keys of a configuration with their tables (`train.steps`), in the order of the tree. Asked of the parser itself,
/// by a key that no table has.
pub fn known_keys() -> Vec<String> {
    fn add(prefix: &str, known: &mut Vec<String>) {
        for key in known_in(prefix) {
            let path = joined(prefix, &key);
            if known_in(&path).is_empty() { known.push(path) } else { add(&path, known) }
        }
    }
    let mut known = Vec::new();
    add("", &mut known);
    known
}

/// The keys that the table at `prefix` may have; none if it is a value.
fn known_in(prefix: &str) -> Vec<String> {
    const NOBODYS: &str = "no-table-has-this-key";
    let header = if prefix.is_empty() { String::new() } else { format!("[{prefix}]\n") };
    let Err(error) = toml::from_str::<RunConfig>(&format!("{header}{NOBODYS} = 1\n")) else { return Vec::new() };
    let quoted = error.message().split('`').skip(1).step_by(2);
    if !error.message().starts_with("unknown field") {
        Vec::new()
    } else {
        quoted.skip(1).map(str::to_string).collect()
    }
}

fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_tells_all_keys() {
        let known = known_keys();
        for key in
            ["run.directory", "model.source", "model.random.hidden_size", "mixer.proportions", "checkpoint.every_steps"]
        {
            assert!(known.iter().any(|known| known == key), "{key} in {known:?}");
        }
        assert!(!known.iter().any(|key| key == "train" || key == "model.random"), "{known:?}");
    }
}
