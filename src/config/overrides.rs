//! `--set table.key=value`: one override of a configuration, as a person types it in a shell.
//!
//! The value is TOML where it parses as such, else text. A shell has taken the quotes away, so text that happens to be
//! TOML (a folder named `2026` or `true`) is recognised by what its key wants.

use super::{Error, RunConfig};
use toml::{Table, Value};

/// One `--set`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Override<'a> {
    given: &'a str,
    keys: Vec<String>,
    value: Value,
}

impl<'a> Override<'a> {
    /// Reads `table.key=value`. A part of the key that holds a dot is quoted as in TOML.
    pub fn parse(given: &'a str) -> Result<Override<'a>, Error> {
        let problem = |problem: &str| Error::Set { text: given.to_string(), problem: problem.to_string() };
        let (path, value) = split(given).ok_or_else(|| problem("there is no '='"))?;
        let keys = keys(path.trim()).ok_or_else(|| problem("the key is empty or has an empty part"))?;
        let value = value.trim();
        if value.is_empty() {
            return Err(problem("there is no value behind the '='"));
        }
        let set = Override { given, keys, value: parse_value(value) };
        let text = Value::String(value.to_string());
        Ok(if !set.value.is_str() && set.wants_text() { Override { value: text, ..set } } else { set })
    }

    /// Whether its key takes text and nothing else. Asked of the parser itself, with nothing but this override.
    fn wants_text(&self) -> bool {
        let mut table = Table::new();
        let refusal = self.apply(&mut table).ok().and_then(|()| table.try_into::<RunConfig>().err());
        refusal.is_some_and(|error| {
            ["expected path string", "expected a string"].iter().any(|wants| error.message().ends_with(wants))
        })
    }

    /// What was typed.
    pub fn given(&self) -> &'a str {
        self.given
    }

    /// Puts the value into `table`; tables on the way are made.
    pub fn apply(&self, table: &mut Table) -> Result<(), Error> {
        let Some((last, parents)) = self.keys.split_last() else { return Ok(()) };
        let mut place = table;
        for key in parents {
            let entry = place.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            place = entry.as_table_mut().ok_or_else(|| Error::Set {
                text: self.given.to_string(),
                problem: format!("{key} is a value, not a table"),
            })?;
        }
        place.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

/// Key and value, at the first `=` outside quotes.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((&text[..at], &text[at + 1..])),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => (),
        }
    }
    // A quote that nobody closed belongs to the key or the value.
    text.split_once('=')
}

/// The parts of a dotted key; none when one is empty.
fn keys(path: &str) -> Option<Vec<String>> {
    if path.contains(['"', '\'']) {
        // Quotes mean what they mean in TOML.
        let mut table = toml::from_str::<Table>(&format!("{path} = 0")).ok()?;
        let mut keys = Vec::new();
        loop {
            let (key, value) = table.into_iter().next()?;
            keys.push(key);
            match value {
                Value::Table(inner) => table = inner,
                _ => return Some(keys),
            }
        }
    }
    let keys: Vec<String> = path.split('.').map(|key| key.trim().to_string()).collect();
    keys.iter().all(|key| !key.is_empty()).then_some(keys)
}

fn parse_value(text: &str) -> Value {
    let delimited = text.starts_with(['"', '\'', '[', '{']);
    // To TOML the rest would be a comment or another key; to who typed it, it is part of the value.
    let whole = delimited || !text.contains('#');
    let parsed = if whole { toml::from_str::<Table>(&format!("value = {text}")).ok() } else { None };
    let parsed = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<String>, Value) {
        let set = Override::parse(text).unwrap();
        (set.keys, set.value)
    }

    #[test]
    fn values_are_toml_where_they_are_and_text_elsewhere() {
        let value = |text: &str| parsed(&format!("a.b={text}")).1;
        assert_eq!(value("1e-4"), Value::Float(1e-4));
        assert_eq!(value(" 1_000 "), Value::Integer(1000));
        assert_eq!(value("cuda:0"), Value::String("cuda:0".to_string()));
        assert_eq!(value("\"4\""), Value::String("4".to_string()));
        assert_eq!(value("runs/a=b"), Value::String("runs/a=b".to_string()));
        assert_eq!(value("5#b"), Value::String("5#b".to_string()), "not a comment");
        assert_eq!(value("1\nc = 2"), Value::String("1\nc = 2".to_string()), "nothing is dropped");
        assert!(value("{ x = 0.5 }").is_table());
    }

    #[test]
    fn a_part_of_a_key_may_be_quoted() {
        let (keys, _) = parsed("mixer.proportions.\"en.wiki=2024\" = 0.5");
        assert_eq!(keys, ["mixer", "proportions", "en.wiki=2024"]);
        assert_eq!(parsed("mixer.proportions.stack exchange=0.5").0[2], "stack exchange");
    }

    #[test]
    fn what_looks_like_a_number_is_text_where_the_key_wants_text() {
        assert_eq!(parsed("run.directory=2026").1, Value::String("2026".to_string()));
        assert_eq!(parsed("model.source=1.5").1, Value::String("1.5".to_string()));
        assert_eq!(parsed("run.device=0").1, Value::String("0".to_string()));
        assert_eq!(parsed("train.steps=2026").1, Value::Integer(2026));
        assert_eq!(parsed("run.dtype=16").1, Value::Integer(16), "a word of a list");
    }

    #[test]
    fn a_bad_override_says_what_is_wrong_and_how_to_write_it() {
        for (text, problem) in [
            ("train.steps", "there is no '='"),
            ("=3", "the key is empty"),
            (".x=1", "an empty part"),
            ("a..b=1", "an empty part"),
            ("train.steps=", "there is no value"),
            ("train.steps= ", "there is no value"),
        ] {
            let message = Override::parse(text).unwrap_err().to_string();
            assert!(message.contains(problem) && message.contains("--set table.key=value"), "{message}");
        }
    }
}
