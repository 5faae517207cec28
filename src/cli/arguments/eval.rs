//! Arguments of `eval`.

use super::{DtypeArgument, ThreadsArgument};
use crate::eval::multiple_choice::TaskKind;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// `eval`
#[derive(Debug, Args)]
pub struct Eval {
    /// Hugging Face folders to compare, from any tool, or run folders, whose model/ or pruned/ is then used. Ratios and
    /// differences are to the first one.
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Folder written by `shearling data prepare`; its held-out rows are used.
    #[arg(long, value_name = "DIR", required_unless_present = "tasks")]
    pub data: Option<PathBuf>,
    /// Held-out rows per domain: the first ones, the same for every model.
    #[arg(long, default_value = "256")]
    pub rows: NonZeroUsize,
    /// Multiple-choice questions, one JSON object per line; may be repeated. KIND is hellaswag, arc or piqa, found out from
    /// the fields if it is left out; NAME is the file's name if it is left out.
    #[arg(long = "task", value_name = "[NAME=][KIND:]FILE")]
    pub tasks: Vec<TaskArgument>,
    /// Use only the first N questions of each task.
    #[arg(long, value_name = "N", requires = "tasks")]
    pub limit: Option<NonZeroUsize>,
    /// Rows, or answer choices, per forward pass.
    #[arg(long, default_value = "8")]
    pub micro_batch: NonZeroUsize,
    /// Write the losses of the model (just one) as reference losses, for mixer.reference_file. Missing folders are
    /// created.
    #[arg(long, value_name = "FILE", requires = "data")]
    pub write_reference: Option<PathBuf>,
    /// Write all numbers as CSV, one per line: model, group (domain or task), name, measure, value, standard_error. Missing
    /// folders are created.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write every answer as a line of JSON: task, model, line, label, the log-likelihoods, acc, acc_norm. Missing folders
    /// are created.
    #[arg(long, value_name = "FILE", requires = "tasks")]
    pub answers: Option<PathBuf>,
    /// Also write the JSON object to this file; `shearling report --eval` shows it. Missing folders are created.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// dtype of the computation.
    #[arg(long, default_value = "fp32")]
    pub dtype: DtypeArgument,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `[NAME=][KIND:]FILE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskArgument {
    /// What the task is called.
    pub name: String,
    /// Kind of its questions, if given.
    pub kind: Option<TaskKind>,
    /// The file.
    pub path: PathBuf,
}

impl FromStr for TaskArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<TaskArgument, String> {
        // A path may contain `=` and `:`; a name has no `/`, and a kind is one of three words.
        let named = text.split_once('=').filter(|(name, _)| !name.contains('/'));
        let (name, rest) = named.map_or((None, text), |(name, rest)| (Some(name), rest));
        let kind = rest.split_once(':').and_then(|(kind, path)| Some((TaskKind::named(kind)?, path)));
        let (kind, path) = kind.map_or((None, rest), |(kind, path)| (Some(kind), path));
        let path = PathBuf::from(path);
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let stem = stem.ok_or_else(|| "names no file; expected [NAME=][hellaswag:|arc:|piqa:]FILE".to_string())?;
        match name {
            Some("") => Err("the name before `=` is empty".to_string()),
            _ => Ok(TaskArgument { name: name.map_or(stem, String::from), kind, path }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_files_with_an_optional_name_and_kind() {
        let parsed = |text: &str| {
            let task: TaskArgument = text.parse().unwrap();
            (task.name, task.kind, task.path.display().to_string())
        };
        let expected = |name: &str, kind, path: &str| (name.to_string(), kind, path.to_string());
        assert_eq!(parsed("a/b.jsonl"), expected("b", None, "a/b.jsonl"));
        assert_eq!(parsed("easy=a/b.jsonl"), expected("easy", None, "a/b.jsonl"));
        assert_eq!(parsed("arc:b.jsonl"), expected("b", Some(TaskKind::Arc), "b.jsonl"));
        assert_eq!(parsed("x=piqa:/b.jsonl"), expected("x", Some(TaskKind::Piqa), "/b.jsonl"));
        assert_eq!(parsed("./a=1/c:d.jsonl"), expected("c:d", None, "./a=1/c:d.jsonl"));
        for wrong in ["", "=b.jsonl", "x=", "arc:", ".."] {
            assert!(wrong.parse::<TaskArgument>().is_err(), "{wrong:?}");
        }
    }
}
