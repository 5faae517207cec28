//! The last thing that a command says which writes a model folder: where it is, or why there is none.

use super::ExitStatus;
use super::refusal::{Origin, refusal};
use crate::cli::Printer;
use crate::export::{Error as ExportError, Written};
use crate::prune::Error as PruneError;
use std::path::Path;

/// The folder of the model, the last thing that is said.
pub(super) fn finish_at(model: &Path, printer: &Printer) -> anyhow::Result<ExitStatus> {
    let path = model.display().to_string();
    printer.data(format!("{path}\n"), || serde_json::json!({ "model": path }));
    Ok(ExitStatus::Done)
}

/// Prints the written folder; a failed equivalence check is an answer (exit code 1), anything else an error.
pub(super) fn finish(
    written: anyhow::Result<Option<Written>>,
    origin: &Origin,
    printer: &Printer,
) -> anyhow::Result<ExitStatus> {
    match written {
        Ok(None) => Ok(ExitStatus::Done),
        Ok(Some(written)) => finish_at(&written.path, printer),
        Err(error) => match error.downcast_ref::<ExportError>() {
            Some(ExportError::Prune(PruneError::NotEqual(equivalence))) => {
                printer.warn(refusal(equivalence, origin));
                Ok(ExitStatus::CheckFailed)
            }
            _ => Err(error),
        },
    }
}
