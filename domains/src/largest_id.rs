//! The largest token id of a token file, without reading its tokens: every row group records it in the file's footer.
//!
//! A tokenizer may know more tokens than a model (padding, marks of a chat that no text is encoded to), so whether data
//! fits a model is asked of the ids that occur.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use crate::error::panic_message;
use crate::{Error, Result};

/// The largest id of each row group of `path`, in order; `None` where the file does not say.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened, [`Error::Corrupt`] when its footer is damaged.
pub(crate) fn recorded(path: &Path) -> Result<Vec<Option<u32>>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let read = || {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| Error::corrupt(path, error.to_string()))?;
        Ok(reader.metadata().row_groups().iter().map(of_group).collect())
    };
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|payload| Err(Error::corrupt(path, panic_message(payload))))
}

fn of_group(group: &RowGroupMetaData) -> Option<u32> {
    match group.columns().first()?.statistics()? {
        // Ids are unsigned numbers of 16 or 32 bits, which Parquet keeps and compares as such in 32 bits.
        Statistics::Int32(found) => found.max_opt().map(|id| *id as u32),
        _ => None,
    }
}
