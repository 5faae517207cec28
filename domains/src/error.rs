//! Everything that can go wrong in this crate, as one enum whose messages name the file or key, what was expected, what
//! was found, and how to put it right.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of this crate.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A folder was named that `data prepare` did not write.
    #[error("{} is not prepared data ({found}): expected a folder written by `shearling data prepare`", .path.display())]
    NotPrepared {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// An input file was named whose format its name does not tell.
    #[error("{} has an unknown format; expected .jsonl, .ndjson, .json or .txt (each also with .gz or .zst), or .parquet", .path.display())]
    UnknownFormat {
        /// The file named.
        path: PathBuf,
    },
    /// An input file cannot be used.
    #[error("{}: {problem}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why not, and what to do about it.
        problem: String,
    },
    /// One document of the input cannot be read.
    #[error("{}, {unit} {number}: {problem}", .path.display())]
    Document {
        /// The file that holds it.
        path: PathBuf,
        /// What `number` counts: `line` or `row`, from 1.
        unit: &'static str,
        /// Where it stands.
        number: u64,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// An input Parquet file cannot be read.
    #[error("{} cannot be read as Parquet: {problem}", .path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A tokenizer cannot be loaded, trained or used.
    #[error("tokenizer {}: {problem}", .path.display())]
    Tokenizer {
        /// Where it came from, or where the trained one goes.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A token id lies outside of the vocabulary.
    #[error("{place}: token id {id} is not below the vocabulary size {vocab_size}")]
    TokenOutOfRange {
        /// File and row, or the setting, that holds the id.
        place: String,
        /// The id.
        id: u64,
        /// Number of tokens in the vocabulary.
        vocab_size: u64,
    },
    /// A domain gives nothing to train on.
    #[error("domain `{domain}` is empty: {problem}")]
    EmptyDomain {
        /// The domain.
        domain: String,
        /// Why nothing is left.
        problem: String,
    },
    /// A domain cannot be split by document.
    #[error(
        "domain `{domain}` has {different} different {}: its split into train and held-out text goes by document, holds \
         out at least two and keeps at least one; cut long documents into parts (chapters, articles: one .jsonl line or \
         .txt file each), or join the domain with another",
        if *different == 1 { "document" } else { "documents" }
    )]
    TooFewDocuments {
        /// The domain.
        domain: String,
        /// Documents with different texts.
        different: u64,
    },
    /// A domain is too small to fill one row on each side of the split.
    #[error(
        "domain `{domain}` fills no {split} row: it has {tokens} {split} tokens and a row takes {sequence_length}; add text to it, lower --sequence-length, or join it with another domain"
    )]
    TooFewTokens {
        /// The domain.
        domain: String,
        /// The side that came out empty.
        split: &'static str,
        /// Tokens that fell to that side.
        tokens: u64,
        /// Tokens in a row.
        sequence_length: usize,
    },
    /// The output folder is taken.
    #[error("{} already exists and is not an empty folder; remove it or name another output", .path.display())]
    OutputExists {
        /// The output folder asked for.
        path: PathBuf,
    },
    /// A setting has a value that cannot be used.
    #[error("{key} = {value}: {problem}")]
    Config {
        /// Name of the setting.
        key: &'static str,
        /// The value given.
        value: String,
        /// Why it cannot be used and what can.
        problem: String,
    },
    /// The manifest of a dataset contradicts itself or the files beside it.
    #[error("manifest {}: {problem}; prepare the dataset again", .path.display())]
    Manifest {
        /// The manifest file.
        path: PathBuf,
        /// Which entry is wrong and how.
        problem: String,
    },
    /// The dataset was written in a format that this version does not read.
    #[error("manifest {} has format version {found}, this program reads version {expected}; prepare the dataset again", .path.display())]
    Version {
        /// The manifest file.
        path: PathBuf,
        /// Version that can be read.
        expected: u64,
        /// Version found.
        found: u64,
    },
    /// A token file is not what the manifest says it is.
    #[error("{} is damaged: {problem}; prepare the dataset again or restore the file", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What differs, with the row group or row.
        problem: String,
    },
    /// A row, or a domain, was asked for that the dataset does not have.
    #[error("{what} {index} does not exist; there are {count}")]
    OutOfRange {
        /// What was indexed.
        what: String,
        /// The index asked for, from 0.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// Proportions that are no distribution over the domains.
    #[error("proportions {proportions:?}: {problem}")]
    Proportions {
        /// The proportions given.
        proportions: Vec<f64>,
        /// Why they cannot be used.
        problem: String,
    },
    /// No domain with a proportion above zero has rows left under the cap on epochs.
    #[error(
        "every domain with a proportion above zero is used up after {max_epochs} epochs ({}); add text or raise max_epochs",
        .domains.join(", ")
    )]
    Exhausted {
        /// The domains that ran out.
        domains: Vec<String>,
        /// The cap.
        max_epochs: f64,
    },
    /// A saved state belongs to another run or another dataset.
    #[error("the saved {what} does not fit: {field} is {found} there, and {expected} here")]
    State {
        /// Whose state it is.
        what: &'static str,
        /// The entry that differs.
        field: &'static str,
        /// Value of this run.
        expected: String,
        /// Value in the saved state.
        found: String,
    },
    /// Losses or reference losses that cannot be used.
    #[error("{what}: {problem}")]
    Losses {
        /// Which numbers.
        what: &'static str,
        /// Why they cannot be used.
        problem: String,
    },
    /// A worker thread died.
    #[error("a worker thread of {operation} panicked: {message}; please report this")]
    Panicked {
        /// What it worked on.
        operation: &'static str,
        /// The panic's message.
        message: String,
    },
}

impl Error {
    /// Wraps an I/O error for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { operation, path, source }
    }

    pub(crate) fn config(key: &'static str, value: impl ToString, problem: impl Into<String>) -> Self {
        Self::Config { key, value: value.to_string(), problem: problem.into() }
    }

    pub(crate) fn corrupt(path: &Path, problem: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), problem: problem.into() }
    }

    /// Turns the payload of a panic into an error.
    pub(crate) fn panicked(operation: &'static str, payload: Box<dyn std::any::Any + Send>) -> Self {
        Self::Panicked { operation, message: panic_message(payload) }
    }
}

impl From<shearling_staging::Error> for Error {
    fn from(error: shearling_staging::Error) -> Self {
        match error {
            shearling_staging::Error::Io { operation, path, source } => Self::Io { operation, path, source },
            shearling_staging::Error::Taken { path } => Self::OutputExists { path },
        }
    }
}

/// The text of a panic, where it has one.
pub(crate) fn panic_message(payload: Box<dyn std::any::Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_string())
}
