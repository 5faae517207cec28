//! What else is wrong with a configuration: the parser stops at its first error, so each key that it refuses is taken out and the
//! rest is parsed again.

use super::RunConfig;
use super::advice::{advice, place_of};
use super::known_keys::joined;
use super::refusal::{Refusal, place_in};
use toml::{Table, Value};

/// Refusals that are looked for: a file of another program would fill pages.
const MOST: usize = 8;

/// The refusals of `table` after its first one, `error`.
pub(super) fn further(table: &Table, error: &toml::de::Error) -> Vec<String> {
    let mut left = table.clone();
    let mut found = Vec::new();
    let mut refused = refused_key(error, &left);
    while let Some(key) = refused.take().filter(|_| found.len() < MOST) {
        if !remove(&mut left, &key) {
            break;
        }
        let Err(next) = left.clone().try_into::<RunConfig>() else { break };
        // What was taken out is missing now.
        if matches!(Refusal::of(next.message()), Refusal::MissingKey(_)) {
            break;
        }
        found.push(advice(next.message(), &place_in(&next.to_string()), &left));
        refused = refused_key(&next, &left);
    }
    found
}

/// The key that a refusal is about, with its tables.
fn refused_key(error: &toml::de::Error, table: &Table) -> Option<String> {
    let place = place_in(&error.to_string());
    match Refusal::of(error.message()) {
        Refusal::UnknownKey { found, known } => {
            let place = if place.is_empty() { place_of(found, &known, table) } else { place };
            Some(joined(&place, found))
        }
        Refusal::UnknownWord { .. } | Refusal::WrongValue { .. } => Some(place).filter(|place| !place.is_empty()),
        Refusal::MissingKey(_) | Refusal::Other => None,
    }
}

/// Takes a key out of its table; whether it was there.
fn remove(table: &mut Table, key: &str) -> bool {
    match key.split_once('.') {
        None => table.remove(key).is_some(),
        Some((outer, inner)) => match table.get_mut(outer) {
            Some(Value::Table(table)) => remove(table, inner),
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    #[test]
    fn every_refusal_is_told_at_once() {
        let text = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n[target]\nhidden_sise = 8\n\
                    [train]\nsteps = 'many'\nbatch_rows = 2\nlearning_rat = 0.1\n[prune]\nmethod = 'activation'\n";
        let message = parse(text, "test", &[]).unwrap_err().to_string();
        for part in ["hidden_sise", "did you mean `target.hidden_size`?", "train.steps", "learning_rat", "activation"] {
            assert!(message.contains(part), "{part} in {message}");
        }
        assert_eq!(message.matches("hidden_sise").count(), 2, "the line and what is wrong with it: {message}");
        // A key that had to go is not called missing.
        let message =
            parse("[run]\ndirectory = 7\n[data]\npath = 'd'\n[model]\n", "test", &[]).unwrap_err().to_string();
        assert!(!message.contains("missing"), "{message}");
    }
}
