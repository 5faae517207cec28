//! What can be wrong with a configuration. Each message names the key, what was found and what to do.

use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key or a wrong type.
    #[error("{origin}: {message}")]
    Parse {
        /// File name or `--set` text.
        origin: String,
        /// What the parser says, with a suggestion for an unknown key.
        message: String,
    },
    /// `--set` without `=`, or into something that is not a table.
    #[error("--set {text}: {problem}; write it as --set table.key=value, for example --set train.steps=100")]
    Set {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Values that are no good, or do not fit together; all that were found.
    #[error("the configuration has {} problem{}:\n  {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.join("\n  "))]
    Invalid(Vec<String>),
}
