//! A task: the questions of one JSONL file, all checked before any model is asked.

use super::fields::Fields;
use super::kind::TaskKind;
use super::lines::Lines;
use super::piqa;
use super::prompt::Prompt;
use crate::eval::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Bad lines that an error spells out; more are counted.
const PROBLEMS_SHOWN: usize = 5;

/// Questions of one file.
#[derive(Clone, Debug)]
pub struct Task {
    /// What it is called in the result.
    pub name: String,
    /// Kind of its questions.
    pub kind: TaskKind,
    /// The file.
    pub path: PathBuf,
    /// The questions, in the order of the file.
    pub questions: Vec<Question>,
}

/// One question with its choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Line of the file, from 1.
    pub line: u64,
    /// What the model reads first.
    pub context: String,
    /// What may follow, after a space.
    pub choices: Vec<String>,
    /// Index of the right choice.
    pub label: usize,
}

impl Task {
    /// Reads the first `limit` questions of a file; without a `kind`, the fields of its first line tell.
    ///
    /// # Errors
    /// A file that cannot be read, is empty, or has lines that are no questions of that kind, all of them named.
    pub fn read(name: &str, path: &Path, kind: Option<TaskKind>, limit: Option<usize>) -> Result<Task> {
        let mut reading = Reading { path, kind, labels: None, questions: Vec::new(), problems: Vec::new(), bad: 0 };
        let mut lines = Lines::open(path)?;
        let limit = limit.unwrap_or(usize::MAX);
        while reading.seen() < limit
            && let Some((number, line)) = lines.next_line()?
        {
            reading.line(number, &line)?;
        }
        reading.finish(name)
    }
}

/// What is wrong with a line, without the number that it has when it is all there is.
fn in_line(error: &serde_json::Error) -> String {
    let (text, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    match text.strip_suffix(&place) {
        Some(problem) => format!("{problem}, column {}", error.column()),
        None => text,
    }
}

/// A file as far as it is read.
struct Reading<'a> {
    path: &'a Path,
    kind: Option<TaskKind>,
    /// Labels from a file of their own, once it is known that they are needed.
    labels: Option<Vec<String>>,
    questions: Vec<Question>,
    problems: Vec<(u64, String)>,
    bad: u64,
}

impl Reading<'_> {
    fn seen(&self) -> usize {
        self.questions.len() + self.bad as usize
    }

    fn line(&mut self, number: u64, line: &[u8]) -> Result<()> {
        let object: Result<Map<String, Value>, _> = serde_json::from_slice(line);
        let mut object = match object {
            Ok(object) => object,
            Err(error) => {
                self.bad(number, format!("it is not a JSON object ({})", in_line(&error)));
                return Ok(());
            }
        };
        let kind = match self.kind.map_or_else(|| TaskKind::recognise(&Fields::new(&object)), Ok) {
            Ok(kind) => kind,
            // Without a kind every line is as bad as the first.
            Err(problem) => {
                return Err(Error::Questions {
                    path: self.path.to_owned(),
                    problems: vec![(number, problem)],
                    more: 0,
                });
            }
        };
        self.kind = Some(kind);
        self.add_label(kind, &mut object)?;
        match kind.prompt(&Fields::new(&object)) {
            Ok(Prompt { context, choices, label }) => {
                self.questions.push(Question { line: number, context, choices, label });
            }
            Err(problem) => self.bad(number, problem),
        }
        Ok(())
    }

    /// PIQA's original files have their labels elsewhere.
    fn add_label(&mut self, kind: TaskKind, object: &mut Map<String, Value>) -> Result<()> {
        if kind != TaskKind::Piqa || object.contains_key("label") {
            return Ok(());
        }
        if self.labels.is_none() {
            let path = piqa::label_file(self.path);
            self.labels = Some(if path.is_file() { piqa::read_labels(&path)? } else { Vec::new() });
        }
        let label = self.labels.as_ref().and_then(|labels| labels.get(self.seen()));
        if let Some(label) = label {
            object.insert("label".to_string(), Value::from(label.as_str()));
        }
        Ok(())
    }

    fn bad(&mut self, number: u64, problem: String) {
        self.bad += 1;
        if self.problems.len() < PROBLEMS_SHOWN {
            self.problems.push((number, problem));
        }
    }

    fn finish(self, name: &str) -> Result<Task> {
        if self.bad > 0 {
            let more = self.bad - self.problems.len() as u64;
            return Err(Error::Questions { path: self.path.to_owned(), problems: self.problems, more });
        }
        match self.kind.filter(|_| !self.questions.is_empty()) {
            Some(kind) => {
                Ok(Task { name: name.to_string(), kind, path: self.path.to_owned(), questions: self.questions })
            }
            None => Err(Error::file(self.path, "it has no questions; expected a JSON object per line")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIQA: &str = r#"{"goal":"g","sol1":"a","sol2":"b","label":1}"#;

    fn read(text: &str, kind: Option<TaskKind>, limit: Option<usize>) -> Result<Task, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.jsonl");
        std::fs::write(&path, text).unwrap();
        Task::read("t", &path, kind, limit).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_are_told_by_their_fields() {
        let hellaswag = r#"{"activity_label":"x","ctx_a":"a","ctx_b":"b","endings":["c","d"],"label":"0"}"#;
        let arc = r#"{"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"B"}"#;
        for (line, kind) in [(hellaswag, TaskKind::HellaSwag), (arc, TaskKind::Arc), (PIQA, TaskKind::Piqa)] {
            let task = read(&format!("\n{line}\n{line}\n\n"), None, None).unwrap();
            assert_eq!((task.kind, task.questions.len(), task.questions[1].line), (kind, 2, 3));
            assert_eq!(read(line, Some(kind), None).unwrap().questions[0], {
                let first = &task.questions[0];
                Question { line: 1, ..first.clone() }
            });
        }
        let problem = read(PIQA, Some(TaskKind::Arc), None).unwrap_err();
        assert!(problem.contains("line 1") && problem.contains("\"question\""), "{problem}");
    }

    #[test]
    fn a_limit_takes_the_first_and_does_not_look_further() {
        let text = format!("{PIQA}\n{PIQA}\nnot json\n");
        assert_eq!(read(&text, None, Some(2)).unwrap().questions.len(), 2);
        let problem = read(&text, None, None).unwrap_err();
        assert!(problem.contains("q.jsonl") && problem.contains("line 3: it is not a JSON object"), "{problem}");
    }

    #[test]
    fn all_bad_lines_are_named_up_to_a_point() {
        let bad = r#"{"goal":"g","sol1":"a","sol2":"b","label":2}"#;
        let text = format!("{PIQA}\n{}", format!("{bad}\n").repeat(8));
        let problem = read(&text, None, None).unwrap_err();
        assert!(
            problem.contains("line 2: ") && problem.contains("line 6: ") && !problem.contains("line 7"),
            "{problem}"
        );
        assert!(problem.contains("and 3 more"), "{problem}");
    }

    #[test]
    fn files_that_are_no_questions_say_so() {
        assert!(read("", None, None).unwrap_err().contains("no questions"));
        assert!(read("\n\n", None, None).unwrap_err().contains("no questions"));
        assert!(read(PIQA, None, Some(0)).unwrap_err().contains("no questions"));
        assert!(read("[1]", None, None).unwrap_err().contains("line 1: it is not a JSON object"));
        let problem = read(r#"{"text":"x"}"#, None, None).unwrap_err();
        assert!(problem.contains("no known kind") && problem.contains("goal, sol1, sol2"), "{problem}");
        assert!(read("\u{0}\u{1}", None, None).unwrap_err().contains("line 1"));
    }

    #[test]
    fn piqa_finds_its_labels_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("valid.jsonl");
        let line = r#"{"goal":"g","sol1":"a","sol2":"b"}"#;
        std::fs::write(&path, format!("{line}\n{line}\n")).unwrap();
        let problem = Task::read("t", &path, None, None).unwrap_err().to_string();
        assert!(problem.contains("no field \"label\""), "{problem}");
        std::fs::write(folder.path().join("valid-labels.lst"), "1\n0\n").unwrap();
        let labels = |task: Task| task.questions.iter().map(|question| question.label).collect::<Vec<_>>();
        assert_eq!(labels(Task::read("t", &path, None, None).unwrap()), [1, 0]);
        std::fs::write(folder.path().join("valid-labels.lst"), "1\n").unwrap();
        let problem = Task::read("t", &path, None, None).unwrap_err().to_string();
        assert!(problem.contains("line 2") && problem.contains("label"), "{problem}");
    }
}
