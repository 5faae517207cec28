//! Runs in a folder that is none itself, such as that of `shearling demo`: for the message that refuses it.

use crate::run_dir::layout::{METRICS, RESOLVED_CONFIG};
use std::path::Path;

/// Runs that a message names; more are counted.
const NAMED: usize = 8;

/// `; it holds the runs a, b: name one of them`, or nothing where there are none.
pub fn runs_hint(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_run = |path: &Path| path.join(RESOLVED_CONFIG).is_file() || path.join(METRICS).is_file();
    let mut runs: Vec<String> = entries.filter(|path| is_run(path)).map(|path| path.display().to_string()).collect();
    runs.sort();
    let more = runs.len().saturating_sub(NAMED);
    runs.truncate(NAMED);
    let names = super::lines::shown(&runs.join(", "));
    match (runs.len(), more) {
        (0, _) => String::new(),
        (1, _) => format!("; it holds the run {names}: name that"),
        (_, 0) => format!("; it holds the runs {names}: name one of them"),
        _ => format!("; it holds the runs {names} and {more} more: name one of them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_named_in_order_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: String, file: &str| {
            std::fs::create_dir(root.path().join(&name)).unwrap();
            std::fs::write(root.path().join(&name).join(file), "").unwrap();
        };
        put("data".to_string(), "manifest.json");
        assert_eq!(runs_hint(root.path()), "");
        assert_eq!(runs_hint(&root.path().join("none")), "");
        put("source".to_string(), RESOLVED_CONFIG);
        let shown = |name: &str| root.path().join(name).display().to_string();
        assert_eq!(runs_hint(root.path()), format!("; it holds the run {}: name that", shown("source")));
        put("prune".to_string(), METRICS);
        let both = format!("; it holds the runs {}, {}: name one of them", shown("prune"), shown("source"));
        assert_eq!(runs_hint(root.path()), both);
        (0..8).for_each(|index| put(format!("z{index}"), RESOLVED_CONFIG));
        assert!(runs_hint(root.path()).contains("z5 and 2 more"), "{}", runs_hint(root.path()));
    }
}
