//! The kinds of questions that are known: which fields a line has, and how it becomes a prompt.

use super::fields::Fields;
use super::prompt::Prompt;
use super::{arc, hellaswag, piqa};

/// A kind of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// HellaSwag: how does a described scene go on?
    HellaSwag,
    /// ARC: science questions of an exam.
    Arc,
    /// PIQA: which of two ways reaches a goal?
    Piqa,
}

impl TaskKind {
    /// All of them.
    pub const ALL: [TaskKind; 3] = [TaskKind::HellaSwag, TaskKind::Arc, TaskKind::Piqa];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::HellaSwag => "hellaswag",
            TaskKind::Arc => "arc",
            TaskKind::Piqa => "piqa",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<TaskKind> {
        TaskKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Fields by which a line of this kind is told from the others.
    pub(super) fn marks(self) -> &'static [&'static str] {
        match self {
            TaskKind::HellaSwag => &["activity_label", "endings"],
            TaskKind::Arc => &["question", "answerKey"],
            TaskKind::Piqa => &["goal", "sol1", "sol2"],
        }
    }

    /// The kind whose fields a line has.
    pub(super) fn recognise(line: &Fields) -> Result<TaskKind, String> {
        let found = TaskKind::ALL.into_iter().find(|kind| kind.marks().iter().all(|mark| line.has(mark)));
        found.ok_or_else(|| {
            let kinds = TaskKind::ALL.map(|kind| format!("{} ({})", kind.name(), kind.marks().join(", ")));
            format!("its fields are those of no known kind of questions: {}", kinds.join(", "))
        })
    }

    /// A line of this kind as a prompt.
    pub(super) fn prompt(self, line: &Fields) -> Result<Prompt, String> {
        match self {
            TaskKind::HellaSwag => hellaswag::prompt(line),
            TaskKind::Arc => arc::prompt(line),
            TaskKind::Piqa => piqa::prompt(line),
        }
    }
}
