//! Rows of a Parquet file with a column of text, in whatever types and codecs other tools write them.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;

use super::encoding;
use crate::error::panic_message;
use crate::{Error, Result};

/// Rows read at once: they may hold long documents.
const BATCH_ROWS: usize = 256;

/// The batches of one file, each with the number of its first row, from 1, and only the column of text.
pub(super) struct ParquetRows {
    path: Arc<Path>,
    reader: ParquetRecordBatchReader,
    next_row: u64,
    total_rows: u64,
}

impl ParquetRows {
    /// Opens the file and checks that its column `field` can be read as text.
    ///
    /// # Errors
    /// [`Error::Parquet`] says what is in the way and what to do about it.
    pub(super) fn open(path: &Arc<Path>, field: &str) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let opened = catch_unwind(AssertUnwindSafe(|| open(file, field)));
        let (reader, total_rows) = opened
            .unwrap_or_else(|payload| Err(panic_message(payload)))
            .map_err(|problem| Error::Parquet { path: path.to_path_buf(), problem })?;
        Ok(Self { path: Arc::clone(path), reader, next_row: 1, total_rows })
    }

    /// The share of the rows that was read.
    pub(super) fn share_read(&self) -> f64 {
        (self.next_row - 1) as f64 / self.total_rows.max(1) as f64
    }
}

impl Iterator for ParquetRows {
    type Item = Result<(u64, RecordBatch)>;

    fn next(&mut self) -> Option<Self::Item> {
        // The decoder may panic on damaged bytes.
        let next = catch_unwind(AssertUnwindSafe(|| self.reader.next()));
        let next =
            next.unwrap_or_else(|payload| Some(Err(arrow::error::ArrowError::ParquetError(panic_message(payload)))))?;
        let first = self.next_row;
        Some(match next {
            Ok(batch) => {
                self.next_row += batch.num_rows() as u64;
                Ok((first, batch))
            }
            Err(error) => {
                let problem = format!("after row {}: {error}", first - 1);
                Err(Error::Parquet { path: self.path.to_path_buf(), problem })
            }
        })
    }
}

fn open(file: File, field: &str) -> std::result::Result<(ParquetRecordBatchReader, u64), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
    let fields = builder.schema().fields();
    let names = || fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    let Some(at) = fields.iter().position(|found| found.name() == field) else {
        return Err(format!("it has no column `{field}`; its columns are {} (--text-field names another)", names()));
    };
    if !is_text(fields[at].data_type()) {
        let found = fields[at].data_type();
        return Err(format!("its column `{field}` is {found}, not text; its columns are {} (--text-field)", names()));
    }
    check_codecs(builder.metadata(), at, field)?;
    let total_rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [at]);
    let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
    Ok((reader.map_err(|error| error.to_string())?, total_rows))
}

/// Refuses what cannot be decompressed before anything is read.
fn check_codecs(
    metadata: &parquet::file::metadata::ParquetMetaData,
    column: usize,
    field: &str,
) -> std::result::Result<(), String> {
    let schema = metadata.file_metadata().schema_descr();
    let leaves = (0..schema.num_columns()).filter(|&leaf| schema.get_column_root_idx(leaf) == column);
    for leaf in leaves {
        let codecs = metadata.row_groups().iter().filter_map(|group| group.columns().get(leaf));
        if codecs.into_iter().any(|chunk| chunk.compression() == Compression::LZO) {
            return Err(format!(
                "its column `{field}` is compressed with LZO, which is not read; write it again with zstd, for example \
                 with pyarrow: pq.write_table(pq.read_table(FILE), NEW, compression=\"zstd\")"
            ));
        }
    }
    Ok(())
}

fn is_text(found: &DataType) -> bool {
    use DataType::{Binary, BinaryView, Dictionary, LargeBinary, LargeUtf8, Utf8, Utf8View};
    match found {
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => true,
        Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The text of every row of `column`, in order, or what is wrong with it.
pub(super) fn texts(
    column: &ArrayRef,
    field: &str,
    mut each: impl FnMut(usize, std::result::Result<&str, String>) -> Result<()>,
) -> Result<()> {
    let unpacked = match column.data_type() {
        DataType::Dictionary(_, values) => cast(column, values).ok(),
        _ => None,
    };
    let column = unpacked.as_ref().unwrap_or(column);
    for row in 0..column.len() {
        each(row, text(column, row, field))?;
    }
    Ok(())
}

fn text<'a>(column: &'a ArrayRef, row: usize, field: &str) -> std::result::Result<&'a str, String> {
    if column.is_null(row) {
        return Err(format!("`{field}` is null; expected text"));
    }
    match column.data_type() {
        DataType::Utf8 => Ok(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Ok(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Ok(column.as_string_view().value(row)),
        DataType::Binary => encoding::utf8(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => encoding::utf8(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => encoding::utf8(column.as_binary_view().value(row)),
        other => Err(format!("`{field}` is {other}; expected text")),
    }
}
