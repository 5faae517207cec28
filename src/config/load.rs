//! From a TOML file and `--set` overrides to a [`RunConfig`], strictly: an unknown key is an error that names the
//! nearest known one.

use super::{Error, RunConfig};
use std::path::Path;
use toml::{Table, Value};

/// Reads `path` and applies the overrides in order. Relative paths stay relative to the working directory.
pub fn load(path: &Path, overrides: &[String]) -> Result<RunConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    parse(&text, &path.display().to_string(), overrides)
}

/// Parses configuration text; `origin` names it in errors.
pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<RunConfig, Error> {
    // The text is parsed as a whole first: its errors then carry line numbers.
    let mut table: Table =
        toml::from_str(text).map_err(|error| Error::Parse { origin: origin.to_string(), message: advice(&error) })?;
    if overrides.is_empty() {
        return toml::from_str(text)
            .map_err(|error| Error::Parse { origin: origin.to_string(), message: advice(&error) });
    }
    let base = table.clone();
    for text in overrides {
        apply_override(&mut table, text)?;
    }
    table.try_into().map_err(|error| match (culprit(&base, overrides), toml::from_str::<RunConfig>(text)) {
        (Some(text), _) => Error::Parse { origin: format!("--set {text}"), message: advice(&error) },
        // The file's own error points at a line.
        (None, Err(error)) => Error::Parse { origin: origin.to_string(), message: advice(&error) },
        (None, Ok(_)) => Error::Parse { origin: "the --set overrides".to_string(), message: advice(&error) },
    })
}

/// The override without which the configuration would parse.
fn culprit<'a>(base: &Table, overrides: &'a [String]) -> Option<&'a String> {
    overrides.iter().enumerate().find_map(|(index, text)| {
        let mut table = base.clone();
        let others = overrides.iter().enumerate().filter(|(other, _)| *other != index);
        others.for_each(|(_, text)| drop(apply_override(&mut table, text)));
        table.try_into::<RunConfig>().is_ok().then_some(text)
    })
}

/// The configuration as TOML, every default written out.
pub fn resolved_toml(config: &RunConfig) -> Result<String, Error> {
    toml::to_string_pretty(config)
        .map_err(|error| Error::Parse { origin: "resolved configuration".to_string(), message: error.to_string() })
}

/// `a.b.c=value`: the value is TOML if it parses as such, else a string.
fn apply_override(table: &mut Table, text: &str) -> Result<(), Error> {
    let problem = |problem: &str| Error::Set { text: text.to_string(), problem: problem.to_string() };
    let (path, value) = text.split_once('=').ok_or_else(|| problem("there is no '='"))?;
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    if keys.iter().any(|key| key.is_empty()) {
        return Err(problem("a part of the key is empty"));
    }
    let last = keys.pop().ok_or_else(|| problem("the key is empty"))?;
    let mut place = table;
    for key in keys {
        let entry = place.entry(key).or_insert_with(|| Value::Table(Table::new()));
        place = entry.as_table_mut().ok_or_else(|| problem(&format!("{key} is a value, not a table")))?;
    }
    place.insert(last.to_string(), parse_value(value.trim()));
    Ok(())
}

fn parse_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_string()))
}

/// The parser's message, with the nearest known key for an unknown one.
fn advice(error: &toml::de::Error) -> String {
    let message = error.to_string();
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    if !error.message().starts_with("unknown ") || quoted.len() < 2 {
        return message;
    }
    match nearest(quoted[0], &quoted[1..]) {
        Some(known) => format!("{}\ndid you mean `{known}`?", message.trim_end()),
        None => message,
    }
}

/// The candidate most like `word`, if any is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let scored = candidates.iter().map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate));
    scored.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        [run]
        directory = "out"
        [model]
        source = "model"
        [data]
        path = "data"
        [train]
        steps = 10
        batch_rows = 4
        learning_rate = 1e-3
    "#;

    #[test]
    fn defaults_are_filled_in_and_survive_a_round_trip() {
        let config = parse(MINIMAL, "test", &[]).unwrap();
        assert_eq!(config.train.beta2, 0.95);
        assert_eq!(config.masks.target_warmup(100), 20);
        let again = parse(&resolved_toml(&config).unwrap(), "resolved", &[]).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn overrides_reach_any_key_and_create_tables() {
        let sets = ["train.steps=7", "run.device=cpu", "target.hidden_size=64", "mixer.proportions.a=0.5"];
        let config = parse(MINIMAL, "test", &sets.map(String::from)).unwrap();
        assert_eq!(config.train.steps, 7);
        assert_eq!(config.run.device, "cpu");
        assert_eq!(config.target.unwrap().hidden_size, Some(64));
        assert_eq!(config.mixer.proportions.unwrap()["a"], 0.5);
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        let text = MINIMAL.replace("learning_rate", "learning_rat");
        let message = parse(&text, "test", &[]).unwrap_err().to_string();
        assert!(message.contains("learning_rat") && message.contains("did you mean `learning_rate`"), "{message}");
        let message = parse(MINIMAL, "test", &["train.stepz=3".to_string()]).unwrap_err().to_string();
        assert!(message.starts_with("--set train.stepz=3: ") && message.contains("did you mean `steps`"), "{message}");
    }

    #[test]
    fn a_bad_override_says_how_to_write_it() {
        for text in ["train.steps", ".x=1", "train.steps.more=1"] {
            let message = parse(MINIMAL, "test", &[text.to_string()]).unwrap_err().to_string();
            assert!(message.contains("--set table.key=value"), "{message}");
        }
    }
}
