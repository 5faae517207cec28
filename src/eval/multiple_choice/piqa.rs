//! PIQA as the harness asks it: a goal, and two ways to reach it.
//!
//! ```text
//! context   "Question: " goal "\nAnswer:"
//! choices   sol1, sol2
//! ```
//!
//! The Hugging Face dataset has a `label` in every line. The original files keep the labels in a file of their own, a
//! number per line: `valid.jsonl` and `valid-labels.lst`, which is found beside it.

use super::fields::{Fields, check_choices};
use super::lines::Lines;
use super::prompt::Prompt;
use crate::eval::{Error, Result};
use std::path::{Path, PathBuf};

pub(super) fn prompt(line: &Fields) -> Result<Prompt, String> {
    let choices = vec![line.text("sol1")?.to_string(), line.text("sol2")?.to_string()];
    check_choices("sol1, sol2", &choices)?;
    let label = line.label("label", choices.len())?;
    Ok(Prompt { context: format!("Question: {}\nAnswer:", line.text("goal")?), choices, label })
}

/// The file of labels of a file of questions.
pub(super) fn label_file(questions: &Path) -> PathBuf {
    let stem = questions.file_stem().unwrap_or_default().to_string_lossy();
    questions.with_file_name(format!("{stem}-labels.lst"))
}

/// Labels of a file, in the order of the questions.
pub(super) fn read_labels(path: &Path) -> Result<Vec<String>> {
    let mut lines = Lines::open(path)?;
    let mut labels = Vec::new();
    while let Some((number, line)) = lines.next_line()? {
        let label = std::str::from_utf8(&line).ok().map(str::trim).filter(|label| label.parse::<i64>().is_ok());
        let label = label.ok_or_else(|| Error::file(path, format!("line {number} is not a number")))?;
        labels.push(label.to_string());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn goal_and_ways_become_a_prompt() {
        let line = json!({ "goal": "Wash wool.", "sol1": "Warm water.", "sol2": "Boiling oil.", "label": 0 });
        let found = prompt(&Fields::new(line.as_object().unwrap())).unwrap();
        assert_eq!(found.context, "Question: Wash wool.\nAnswer:");
        assert_eq!(found.choices, ["Warm water.", "Boiling oil."]);
        assert_eq!(found.label, 0);
    }

    #[test]
    fn labels_lie_beside_the_questions() {
        assert_eq!(label_file(Path::new("a/valid.jsonl")), Path::new("a/valid-labels.lst"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("valid-labels.lst");
        std::fs::write(&path, "0\n1\r\n\n1\n").unwrap();
        assert_eq!(read_labels(&path).unwrap(), ["0", "1", "1"]);
        std::fs::write(&path, "0\nyes\n").unwrap();
        assert!(read_labels(&path).unwrap_err().to_string().contains("line 2 is not a number"));
    }
}
