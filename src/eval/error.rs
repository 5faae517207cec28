//! Why an evaluation cannot be done.

use std::path::{Path, PathBuf};

/// What functions of this module return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An evaluation that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of questions as a whole is not what it should be.
    #[error("`{}`: {problem}", path.display())]
    TaskFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Some lines of a file of questions cannot be used.
    #[error("`{}`: {}", path.display(), listed(problems, *more))]
    Questions {
        /// The file.
        path: PathBuf,
        /// Line number and what is wrong with it, for the first bad lines.
        problems: Vec<(u64, String)>,
        /// How many more there are.
        more: u64,
    },
    /// A question does not go with a model or its tokenizer.
    #[error("`{}`, line {line}: {problem}", path.display())]
    Question {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// The tokenizer of a model.
    #[error(transparent)]
    Checkpoint(#[from] crate::files::Error),
    /// Data.
    #[error(transparent)]
    Domains(#[from] shearling_domains::Error),
    /// libtorch.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
}

impl Error {
    /// Wraps an [`std::io::Error`]; meant for `map_err`.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { operation, path: path.to_owned(), source }
    }

    /// A problem of a whole file.
    pub(super) fn file(path: &Path, problem: impl Into<String>) -> Error {
        Error::TaskFile { path: path.to_owned(), problem: problem.into() }
    }
}

fn listed(problems: &[(u64, String)], more: u64) -> String {
    let mut lines: Vec<String> = problems.iter().map(|(line, problem)| format!("line {line}: {problem}")).collect();
    if more > 0 {
        lines.push(format!("and {more} more such lines"));
    }
    lines.join("; ")
}
