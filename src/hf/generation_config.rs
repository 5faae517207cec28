//! `generation_config.json`: how the makers of a model suggest to sample from it.
//!
//! Only temperature, top-p, top-k and the number of new tokens are taken over. Other settings that would change the text are named,
//! so that nobody believes that they were applied.

use crate::files::Result;
use crate::files::json::{Fields, parse_object, read_bounded};
use std::path::Path;

const NAME: &str = "generation_config.json";
const MAX_TOKENS: i64 = 1 << 40;
/// Keys that change what is generated, with the value that leaves it as it is.
const OTHERS: [(&str, f64); 9] = [
    ("diversity_penalty", 0.0),
    ("encoder_repetition_penalty", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("min_p", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("repetition_penalty", 1.0),
    ("typical_p", 1.0),
];

/// What the file suggests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Whether to draw tokens; if not, the most likely one is taken and the next three are not read.
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Probability mass to draw from.
    pub top_p: Option<f64>,
    /// Number of tokens to draw from; 0: all.
    pub top_k: Option<i64>,
    /// Tokens after the prompt.
    pub max_new_tokens: Option<i64>,
    /// Keys that ask for something that is not done here.
    pub ignored: Vec<&'static str>,
}

impl GenerationConfig {
    /// Reads the file of a folder; `None` if there is none.
    ///
    /// # Errors
    /// It is damaged, or a value is of the wrong type or out of range.
    pub fn read(folder: &Path) -> Result<Option<GenerationConfig>> {
        let path = folder.join(NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let object = parse_object(&read_bounded(&path)?, &path)?;
        GenerationConfig::from_fields(&Fields::new(&path, &object)).map(Some)
    }

    fn from_fields(fields: &Fields) -> Result<GenerationConfig> {
        let mut ignored = Vec::new();
        for (key, neutral) in OTHERS {
            if fields.number_given(key)?.value().is_some_and(|value| value != neutral) {
                ignored.push(key);
            }
        }
        let mut config = GenerationConfig {
            do_sample: fields.boolean_or("do_sample", false)?,
            max_new_tokens: fields.integer_given("max_new_tokens", 1..=MAX_TOKENS)?.value(),
            ignored,
            ..GenerationConfig::default()
        };
        // Greedy models are published with a temperature of 0, which is no temperature.
        if config.do_sample {
            config.temperature = within(fields, "temperature", f64::MIN_POSITIVE, f64::MAX)?;
            config.top_p = within(fields, "top_p", f64::MIN_POSITIVE, 1.0)?;
            config.top_k = fields.integer_given("top_k", 0..=MAX_TOKENS)?.value();
        }
        Ok(config)
    }
}

fn within(fields: &Fields, key: &str, low: f64, high: f64) -> Result<Option<f64>> {
    let Some(value) = fields.number_given(key)?.value() else { return Ok(None) };
    let limit = if high == f64::MAX { String::new() } else { format!(" and at most {high}") };
    let wrong = || fields.problem(key, format!("expected a number above 0{limit}, found {value}"));
    if (low..=high).contains(&value) { Ok(Some(value)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: &Value) -> Result<Option<GenerationConfig>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), value.to_string()).unwrap();
        GenerationConfig::read(dir.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_there_is_read_and_what_is_not_done_is_named() {
        assert_eq!(GenerationConfig::read(tempfile::tempdir().unwrap().path()).unwrap(), None);
        let found = read(&json!({"bos_token_id": 1, "transformers_version": "5"})).unwrap().unwrap();
        assert_eq!(found, GenerationConfig::default());
        let found =
            read(&json!({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "max_new_tokens": 7,
                                 "repetition_penalty": 1.05, "num_beams": 1, "min_p": null}));
        let expected = GenerationConfig {
            do_sample: true,
            temperature: Some(0.6),
            top_p: Some(0.9),
            top_k: Some(40),
            max_new_tokens: Some(7),
            ignored: vec!["repetition_penalty"],
        };
        assert_eq!(found.unwrap().unwrap(), expected);
    }

    #[test]
    fn a_greedy_model_may_have_a_temperature_of_nothing() {
        assert_eq!(read(&json!({ "temperature": 0, "top_p": 0 })), Ok(Some(GenerationConfig::default())));
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (key, value) in [
            ("temperature", json!(0)),
            ("temperature", json!("warm")),
            ("top_p", json!(1.5)),
            ("top_p", json!(-0.1)),
            ("top_k", json!(-1)),
            ("max_new_tokens", json!(0)),
            ("do_sample", json!("yes")),
        ] {
            let mut object = json!({ "do_sample": true });
            object[key] = value;
            let error = read(&object).unwrap_err();
            assert!(error.contains(NAME) && error.contains(key), "{error}");
        }
    }
}
