//! Every way in which reading or writing a checkpoint can fail.
//!
//! A message names the file (and the key or tensor), what was expected and what was found, and how to put it right. The cause
//! below it, if there is one, is the error's `source`, so that the printed chain says nothing twice.

use super::readable::readable_bytes;
use std::path::{Path, PathBuf};

/// What functions of this module return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of checkpoint reading, writing or run-folder handling.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// What was tried, as a verb: "read", "rename".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file does not parse.
    #[error("`{}` is not valid JSON: truncated or damaged; fetch or write it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A file is something else than its name says.
    #[error("`{}` is {what}", path.display())]
    Impostor {
        /// The file.
        path: PathBuf,
        /// What it is, and how to get the file.
        what: String,
    },
    /// A folder that should hold a model has no `config.json`, or is not there.
    #[error("`{}` does not exist: expected a Hugging Face folder with config.json and weights{}", path.display(), clause(hint))]
    NotAModel {
        /// The `config.json` that was looked for.
        path: PathBuf,
        /// What the path is instead, if that can be told.
        hint: Option<String>,
    },
    /// A file that should be small is not.
    #[error("`{}` has {bytes} bytes, more than the {limit_bytes} that such a file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size accepted.
        limit_bytes: u64,
    },
    /// A key of a JSON file is missing, of the wrong type, out of range or at odds with another.
    #[error("`{}`: key `{key}`: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, with its parents: `rope_scaling.factor`.
        key: String,
        /// What is wrong and what is expected.
        problem: String,
    },
    /// A key of a JSON file asks for something that exists but that we do not do.
    #[error("`{}`: `{key}` = {found} is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found.
        found: String,
        /// What would be accepted.
        supported: String,
    },
    /// A safetensors file is truncated, too long or has a broken header.
    #[error("`{}` is not a whole safetensors file ({bytes} bytes): interrupted download or copy? fetch it again", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What the header check found.
        source: safetensors::SafeTensorError,
    },
    /// A tensor of a file has a dtype that is not read.
    #[error("`{}`: tensor `{tensor}` has dtype {found}; supported: {supported}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: String,
        /// The dtypes that are read.
        supported: &'static str,
    },
    /// Something about one tensor of a file is wrong.
    #[error("`{}`: tensor `{tensor}`: {problem}", path.display())]
    Tensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor holds numbers that are not finite.
    #[error(
        "`{}`: tensor `{tensor}` is not finite: {} of {numbers} numbers (the first at index {first}); these weights are \
         damaged as they are stored: {}", path.display(), not_finite(*nan, *infinite), damaged_weights(*float16)
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Numbers that are NaN.
        nan: usize,
        /// Numbers that are infinite.
        infinite: usize,
        /// Numbers of the tensor.
        numbers: usize,
        /// Index of the first that is not finite, in row-major order.
        first: usize,
        /// Whether the tensor is stored as float16, which holds nothing above 65,504.
        float16: bool,
    },
    /// The shard index and the shards do not belong together.
    #[error("`{}`: {problem}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong and how to put it right.
        problem: String,
    },
    /// The folder holds no safetensors weights.
    #[error("`{}`: {problem}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// What is there instead, and how to convert it.
        problem: String,
    },
    /// The tokenizer cannot be read, or cannot do what is asked.
    #[error("tokenizer `{}`: {problem}", path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// What is wrong and how to put it right.
        problem: String,
    },
    /// libtorch refused an operation on a tensor.
    #[error("libtorch cannot {operation} tensor `{tensor}`")]
    Torch {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The tensor.
        tensor: String,
        /// libtorch's reason.
        source: tch::TchError,
    },
    /// The final place is already taken; nothing is overwritten.
    #[error("`{}` already exists and is not empty: choose another folder or move it away", path.display())]
    Exists {
        /// The folder or file.
        path: PathBuf,
    },
    /// The disk would run full.
    #[error(
        "`{}`: {} are needed, {} are free: free some space or choose another disk",
        path.display(), readable_bytes(*needed_bytes as f64), readable_bytes(*available_bytes as f64)
    )]
    NoSpace {
        /// A path on that disk.
        path: PathBuf,
        /// Bytes that are about to be written.
        needed_bytes: u64,
        /// Bytes that an ordinary user may still write.
        available_bytes: u64,
    },
    /// A committed step (or what claims to be one) is not whole.
    #[error("`{}` is not a whole checkpoint: {problem}", path.display())]
    BrokenStep {
        /// The step's folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A step was asked for that the run does not have.
    #[error("`{}` has no checkpoint of step {step}; it has {available}", run.display())]
    NoSuchStep {
        /// The run's folder.
        run: PathBuf,
        /// The step asked for.
        step: u64,
        /// The steps there are, in words.
        available: String,
    },
    /// Another process writes this run.
    #[error("`{}` is in use by {holder}: two processes must not write one run; stop that one or choose another run folder", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, in words: "process 1234".
        holder: String,
    },
    /// Selected layers or a shape that cannot be.
    #[error("impossible shape: {problem}")]
    Shape {
        /// What is wrong.
        problem: String,
    },
}

/// A clause to follow a message.
fn clause(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
}

fn not_finite(nan: usize, infinite: usize) -> String {
    match (nan, infinite) {
        (nan, 0) => format!("{nan} NaN"),
        (0, infinite) => format!("{infinite} infinite"),
        (nan, infinite) => format!("{nan} NaN, {infinite} infinite"),
    }
}

fn damaged_weights(float16: bool) -> &'static str {
    match float16 {
        true => {
            "float16 holds nothing above 65,504, so write them in bfloat16 or float32 where they are made, or take an \
             earlier checkpoint"
        }
        false => {
            "compare the file with its publisher's (SHA-256) and fetch it again, or take an earlier checkpoint of the run \
             that made them"
        }
    }
}

impl Error {
    /// Wraps an [`std::io::Error`]; meant for `map_err`.
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { operation, path: path.to_owned(), source }
    }

    /// Wraps a [`tch::TchError`]; meant for `map_err`.
    pub(crate) fn torch(operation: &'static str, tensor: &str) -> impl FnOnce(tch::TchError) -> Error {
        move |source| Error::Torch { operation, tensor: tensor.to_owned(), source }
    }

    /// A problem of one tensor of a file.
    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Error {
        Error::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.into() }
    }
}

impl From<shearling_staging::Error> for Error {
    fn from(error: shearling_staging::Error) -> Error {
        match error {
            shearling_staging::Error::Io { operation, path, source } => Error::Io { operation, path, source },
            shearling_staging::Error::Taken { path } => Error::Exists { path },
        }
    }
}
