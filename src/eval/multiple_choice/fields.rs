//! Fields of one JSON line, with messages that say which field is wrong and what was expected.

use serde_json::{Map, Value};

/// The fields of a line, or of an object in it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>) -> Fields<'a> {
        Fields(object)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn get(&self, key: &str) -> Result<&'a Value, String> {
        self.0.get(key).ok_or_else(|| format!("it has no field {key:?}"))
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, String> {
        self.get(key)?.as_str().ok_or_else(|| format!("field {key:?} is not a text"))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        let texts = self.get(key)?.as_array().and_then(|all| all.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let texts = texts.ok_or_else(|| format!("field {key:?} is not a list of texts"))?;
        Ok(texts.into_iter().map(String::from).collect())
    }

    pub(super) fn objects(&self, key: &str) -> Result<Vec<Fields<'a>>, String> {
        let objects = self.get(key)?.as_array();
        let objects = objects.and_then(|all| all.iter().map(|object| Some(Fields(object.as_object()?))).collect());
        objects.ok_or_else(|| format!("field {key:?} is not a list of objects"))
    }

    /// The index of the right one of `choices`, given as a number or as its digits.
    pub(super) fn label(&self, key: &str, choices: usize) -> Result<usize, String> {
        let value = self.get(key).map_err(|problem| format!("{problem}; is this a test split without answers?"))?;
        let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
        let number = number.ok_or_else(|| {
            format!("field {key:?} is {value} and not the number of a choice; is this a test split without answers?")
        })?;
        usize::try_from(number)
            .ok()
            .filter(|label| *label < choices)
            .ok_or_else(|| format!("field {key:?} is {number}, but there are {choices} choices, counted from 0"))
    }
}

/// Refuses fewer than two choices, and empty ones.
pub(super) fn check_choices(key: &str, choices: &[String]) -> Result<(), String> {
    match choices.iter().position(|choice| choice.is_empty()) {
        _ if choices.len() < 2 => Err(format!("field {key:?} has {} choices, at least two are needed", choices.len())),
        Some(empty) => Err(format!("field {key:?}: choice {empty} is empty")),
        None => Ok(()),
    }
}
