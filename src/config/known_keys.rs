//! Which keys a configuration has, and which words a key may be. Asked of the parser itself, so that no list has to be kept.

use super::RunConfig;
use super::refusal::Refusal;

/// What `run.dtype` may be.
pub(super) const COMPUTE_DTYPES: [&str; 3] = ["auto", "fp32", "bf16"];

/// Keys of a dtype to compute in, which cannot be fp16.
pub(super) const COMPUTE_KEYS: [&str; 2] = ["run.dtype", "distill.dtype"];

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
pub(super) fn known_in(prefix: &str) -> Vec<String> {
    const NOBODYS: &str = "no-table-has-this-key";
    let header = if prefix.is_empty() { String::new() } else { format!("[{prefix}]\n") };
    let Err(error) = toml::from_str::<RunConfig>(&format!("{header}{NOBODYS} = 1\n")) else { return Vec::new() };
    match Refusal::of(error.message()) {
        Refusal::UnknownKey { known, .. } => known.into_iter().map(str::to_string).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") }
}

/// The words that a key may be, if it is one of a list.
pub(super) fn words(key: &str) -> Vec<String> {
    const NOBODYS: &str = "no-list-has-this-word";
    if COMPUTE_KEYS.contains(&key) {
        return COMPUTE_DTYPES.map(str::to_string).to_vec();
    }
    let Err(error) = toml::from_str::<RunConfig>(&format!("{key} = \"{NOBODYS}\"\n")) else { return Vec::new() };
    match Refusal::of(error.message()) {
        Refusal::UnknownWord { known, .. } => known.into_iter().map(str::to_string).collect(),
        _ => Vec::new(),
    }
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
