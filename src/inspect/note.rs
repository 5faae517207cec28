//! A sentence about a run, and how much it matters.

use super::lines::shown;
use serde::Serialize;

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is wrong, missing, or not as it should be at the end.
    Warning,
    /// Worth knowing.
    Info,
}

/// A sentence about a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How much it matters.
    pub severity: Severity,
    /// The sentence.
    pub text: String,
}

impl Note {
    /// Messages may quote what stands in a file, so they are made fit to be shown.
    pub(super) fn warning(text: impl AsRef<str>) -> Note {
        Note { severity: Severity::Warning, text: shown(text.as_ref()) }
    }

    pub(super) fn info(text: impl AsRef<str>) -> Note {
        Note { severity: Severity::Info, text: shown(text.as_ref()) }
    }
}
