//! Token rows in Parquet: one column `input_ids` of `list<uint16>` or `list<uint32>`, which Hugging Face `datasets`
//! reads as it is.
//!
//! Writing and reading stand side by side because they must agree on the layout and on the hash of a row group. Reading
//! distrusts the file: layout, row lengths, token ids and the hash are checked, and a decoder that panics on damaged
//! bytes becomes an error that names the file.

use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt16Array, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt16Type, UInt32Type};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

use crate::error::panic_message;
use crate::manifest::{RowGroupEntry, U16_VOCAB, hex};
use crate::{Error, Result};

/// Name of the token column, as Hugging Face trainers expect it.
pub(crate) const TOKEN_COLUMN: &str = "input_ids";

/// Token ids of a row group, in the width they are stored in.
#[derive(Debug)]
pub(crate) enum TokenBlock {
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl TokenBlock {
    fn new(vocab_size: u64) -> Self {
        if vocab_size <= U16_VOCAB { Self::U16(Vec::new()) } else { Self::U32(Vec::new()) }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::U16(ids) => size_of_val(ids.as_slice()),
            Self::U32(ids) => size_of_val(ids.as_slice()),
        }
    }

    /// Appends row `row` of `length` tokens to `out`.
    pub(crate) fn copy_row(&self, row: usize, length: usize, out: &mut Vec<u32>) {
        let range = row * length..(row + 1) * length;
        match self {
            Self::U16(ids) => out.extend(ids[range].iter().map(|&id| u32::from(id))),
            Self::U32(ids) => out.extend_from_slice(&ids[range]),
        }
    }

    /// The largest id; 0 of none.
    pub(crate) fn largest(&self) -> u32 {
        self.iter().max().unwrap_or(0)
    }

    fn iter(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::U16(ids) => Box::new(ids.iter().map(|&id| u32::from(id))),
            Self::U32(ids) => Box::new(ids.iter().copied()),
        }
    }
}

/// Hash of token ids, the same whatever width they are stored in.
fn tokens_sha256(ids: impl Iterator<Item = u32>) -> String {
    let mut digest = Sha256::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    for id in ids {
        buffer.extend_from_slice(&id.to_le_bytes());
        if buffer.len() == 1 << 16 {
            digest.update(&buffer);
            buffer.clear();
        }
    }
    digest.update(&buffer);
    hex(&digest.finalize())
}

/// Passes bytes on to a file while counting and hashing them.
#[derive(Debug)]
struct HashingFile {
    file: File,
    bytes: u64,
    digest: Sha256,
}

impl Write for HashingFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer)?;
        self.digest.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes one Parquet file, a row group at a time.
pub(crate) struct ShardWriter {
    path: PathBuf,
    schema: SchemaRef,
    writer: ArrowWriter<HashingFile>,
    sequence_length: usize,
    row_groups: Vec<RowGroupEntry>,
}

/// What a finished file is, for the manifest.
pub(crate) struct WrittenShard {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) row_groups: Vec<RowGroupEntry>,
}

impl ShardWriter {
    pub(crate) fn create(path: PathBuf, vocab_size: u64, sequence_length: usize) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        let width = if vocab_size <= U16_VOCAB { DataType::UInt16 } else { DataType::UInt32 };
        let item = Arc::new(Field::new_list_field(width, false));
        let schema = Arc::new(Schema::new(vec![Field::new(TOKEN_COLUMN, DataType::List(item), false)]));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(None)
            .set_created_by(concat!("shearling-domains ", env!("CARGO_PKG_VERSION")).to_string())
            .build();
        let sink = HashingFile { file, bytes: 0, digest: Sha256::new() };
        let writer = ArrowWriter::try_new(sink, Arc::clone(&schema), Some(properties)).map_err(write_error(&path))?;
        Ok(Self { path, schema, writer, sequence_length, row_groups: Vec::new() })
    }

    /// Writes whole rows as one row group; every id is below the vocabulary size given to [`Self::create`].
    pub(crate) fn write_group(&mut self, ids: &[u32]) -> Result<()> {
        let rows = ids.len() / self.sequence_length;
        let batch = self.batch(ids, rows).map_err(|error| self.invalid(&error))?;
        self.writer.write(&batch).map_err(write_error(&self.path))?;
        self.writer.flush().map_err(write_error(&self.path))?;
        let tokens_sha256 = tokens_sha256(ids.iter().copied());
        self.row_groups.push(RowGroupEntry { rows: rows as u64, tokens_sha256 });
        Ok(())
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.bytes_written() as u64
    }

    /// Writes the footer and makes the file durable.
    pub(crate) fn finish(mut self) -> Result<WrittenShard> {
        self.writer.finish().map_err(write_error(&self.path))?;
        let sink = self.writer.inner();
        sink.file.sync_all().map_err(Error::io("write", &self.path))?;
        let sha256 = hex(&sink.digest.clone().finalize());
        Ok(WrittenShard { bytes: sink.bytes, sha256, row_groups: self.row_groups })
    }

    fn batch(&self, ids: &[u32], rows: usize) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
        let DataType::List(item) = self.schema.field(0).data_type() else {
            return Err(arrow::error::ArrowError::SchemaError("not a list".to_string()));
        };
        let values: ArrayRef = match item.data_type() {
            DataType::UInt16 => Arc::new(UInt16Array::from_iter_values(ids.iter().map(|&id| id as u16))),
            _ => Arc::new(UInt32Array::from_iter_values(ids.iter().copied())),
        };
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(self.sequence_length, rows));
        let list = ListArray::try_new(Arc::clone(item), offsets, values, None)?;
        RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::new(list)])
    }

    fn invalid(&self, error: &arrow::error::ArrowError) -> Error {
        let source = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        Error::Io { operation: "write", path: self.path.clone(), source }
    }
}

fn write_error(path: &Path) -> impl FnOnce(parquet::errors::ParquetError) -> Error {
    let path = path.to_path_buf();
    move |error| Error::Io { operation: "write", path, source: io::Error::other(error.to_string()) }
}

/// What a row group must be, according to the manifest.
pub(crate) struct Expected<'a> {
    pub(crate) entry: &'a RowGroupEntry,
    /// Row groups in the file.
    pub(crate) groups: usize,
    pub(crate) sequence_length: usize,
    pub(crate) vocab_size: u64,
    /// The largest id of the dataset, where it is recorded.
    pub(crate) max_token_id: Option<u32>,
    /// Row of the file that the group starts at, for messages.
    pub(crate) first_row: u64,
}

/// Reads row group `group` of `path` and checks it.
///
/// # Errors
/// [`Error::Corrupt`] when the file is not what `expected` says, [`Error::TokenOutOfRange`] for an id outside of the
/// vocabulary, [`Error::Io`] when it cannot be opened.
pub(crate) fn read_group(path: &Path, group: usize, expected: &Expected) -> Result<TokenBlock> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let block = catch_unwind(AssertUnwindSafe(|| decode(file, path, group, expected)))
        .unwrap_or_else(|payload| Err(Error::corrupt(path, panic_message(payload))))?;
    check_ids(&block, path, expected)?;
    let found = tokens_sha256(block.iter());
    if found != expected.entry.tokens_sha256 {
        let wanted = &expected.entry.tokens_sha256;
        return Err(Error::corrupt(path, format!("the tokens of row group {group} hash to {found}, not to {wanted}")));
    }
    Ok(block)
}

fn decode(file: File, path: &Path, group: usize, expected: &Expected) -> Result<TokenBlock> {
    let corrupt = |problem: String| Error::corrupt(path, problem);
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| corrupt(error.to_string()))?;
    check_layout(builder.metadata(), group, expected).map_err(corrupt)?;
    let rows = expected.entry.rows as usize;
    let reader = builder
        .with_row_groups(vec![group])
        .with_batch_size(rows)
        .build()
        .map_err(|error| corrupt(error.to_string()))?;
    let mut block = TokenBlock::new(expected.vocab_size);
    let mut found = 0;
    for batch in reader {
        let batch = batch.map_err(|error| corrupt(format!("row group {group}: {error}")))?;
        append(&batch, expected, &mut block).map_err(|problem| corrupt(format!("row group {group}: {problem}")))?;
        found += batch.num_rows();
    }
    if found != rows {
        return Err(corrupt(format!("row group {group} has {found} rows, expected {rows}")));
    }
    Ok(block)
}

fn check_layout(
    metadata: &parquet::file::metadata::ParquetMetaData,
    group: usize,
    expected: &Expected,
) -> std::result::Result<(), String> {
    if metadata.num_row_groups() != expected.groups {
        return Err(format!("it has {} row groups, expected {}", metadata.num_row_groups(), expected.groups));
    }
    let found = metadata.row_group(group);
    let rows = expected.entry.rows;
    if found.num_rows() as u64 != rows {
        return Err(format!("row group {group} says it has {} rows, expected {rows}", found.num_rows()));
    }
    // Plain 32-bit values and two levels, with room to spare: more would only fill the memory.
    let most = rows.saturating_mul(expected.sequence_length as u64).saturating_mul(16).saturating_add(1 << 20);
    if found.total_byte_size() < 0 || found.total_byte_size() as u64 > most {
        return Err(format!("row group {group} says it unpacks to {} bytes", found.total_byte_size()));
    }
    Ok(())
}

fn append(batch: &RecordBatch, expected: &Expected, block: &mut TokenBlock) -> std::result::Result<(), String> {
    let column = batch.column_by_name(TOKEN_COLUMN).ok_or_else(|| format!("no column `{TOKEN_COLUMN}`"))?;
    let list = column.as_list_opt::<i32>().ok_or_else(|| format!("its column is {}", column.data_type()))?;
    let length = expected.sequence_length;
    let odd = (0..list.len()).find(|&row| list.is_null(row) || list.value_length(row) as usize != length);
    if let Some(row) = odd {
        return Err(format!("row {row} is not {length} tokens long"));
    }
    if list.is_empty() {
        return Ok(());
    }
    let offsets = list.value_offsets();
    let values = list.values().slice(offsets[0] as usize, list.len() * length);
    if values.null_count() > 0 {
        return Err("it has null tokens".to_string());
    }
    match block {
        TokenBlock::U16(ids) => {
            let found = values.as_primitive_opt::<UInt16Type>();
            ids.extend_from_slice(found.ok_or_else(|| format!("tokens are {}", values.data_type()))?.values());
        }
        TokenBlock::U32(ids) => {
            let found = values.as_primitive_opt::<UInt32Type>();
            ids.extend_from_slice(found.ok_or_else(|| format!("tokens are {}", values.data_type()))?.values());
        }
    }
    Ok(())
}

/// Ids that the manifest does not announce would reach an embedding that has no row for them.
fn check_ids(block: &TokenBlock, path: &Path, expected: &Expected) -> Result<()> {
    let largest = expected.max_token_id.map_or(u64::MAX, u64::from);
    let found =
        block.iter().enumerate().find(|(_, id)| u64::from(*id) >= expected.vocab_size || u64::from(*id) > largest);
    let Some((at, id)) = found else { return Ok(()) };
    let row = expected.first_row + (at / expected.sequence_length) as u64;
    if u64::from(id) < expected.vocab_size {
        return Err(Error::corrupt(path, format!("row {row}: token id {id} is above max_token_id {largest}")));
    }
    let place = format!("{}, row {row}", path.display());
    Err(Error::TokenOutOfRange { place, id: u64::from(id), vocab_size: expected.vocab_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, vocab_size: u64, groups: &[Vec<u32>]) -> WrittenShard {
        let mut writer = ShardWriter::create(path.to_path_buf(), vocab_size, 4).unwrap();
        groups.iter().for_each(|ids| writer.write_group(ids).unwrap());
        writer.finish().unwrap()
    }

    fn read(path: &Path, group: usize, shard: &WrittenShard, vocab_size: u64) -> Result<Vec<u32>> {
        let entry = &shard.row_groups[group];
        let groups = shard.row_groups.len();
        let expected = Expected { entry, groups, sequence_length: 4, vocab_size, max_token_id: None, first_row: 0 };
        read_group(path, group, &expected).map(|block| block.iter().collect())
    }

    #[test]
    fn both_widths_come_back() {
        let folder = tempfile::tempdir().unwrap();
        for vocab_size in [U16_VOCAB, U16_VOCAB + 1] {
            let path = folder.path().join("x.parquet");
            let groups = vec![vec![0, 1, 2, 65_535, 5, 6, 7, 8], vec![(vocab_size - 1) as u32; 4]];
            let shard = written(&path, vocab_size, &groups);
            assert_eq!(shard.bytes, path.metadata().unwrap().len());
            assert_eq!(shard.sha256, hex(&Sha256::digest(std::fs::read(&path).unwrap())));
            let largest = groups.iter().map(|ids| ids.iter().max().copied()).collect::<Vec<_>>();
            assert_eq!(crate::largest_id::recorded(&path).unwrap(), largest);
            for (group, ids) in groups.iter().enumerate() {
                assert_eq!(&read(&path, group, &shard, vocab_size).unwrap(), ids);
            }
            let schema = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            let width = if vocab_size <= U16_VOCAB { DataType::UInt16 } else { DataType::UInt32 };
            let DataType::List(item) = schema.schema().field(0).data_type().clone() else { panic!() };
            assert_eq!(*item.data_type(), width);
        }
    }

    #[test]
    fn ids_outside_of_the_vocabulary_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let shard = written(&path, 1000, &[vec![1, 2, 3, 4, 5, 6, 700, 8]]);
        let message = read(&path, 0, &shard, 700).unwrap_err().to_string();
        assert!(message.contains("row 1: token id 700 is not below the vocabulary size 700"), "{message}");
    }

    #[test]
    fn every_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let ids: Vec<u32> = (0..4000).map(|at| at * 7919 % 1000).collect();
        let shard = written(&path, 1000, std::slice::from_ref(&ids));
        let whole = std::fs::read(&path).unwrap();
        for step in 0..20 {
            std::fs::write(&path, &whole[..whole.len() * step / 20]).unwrap();
            assert!(read(&path, 0, &shard, 1000).is_err(), "truncated to {step}/20");
        }
        let mut noticed = 0;
        for step in 0..100 {
            let mut damaged = whole.clone();
            let at = whole.len() * step / 100;
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            match read(&path, 0, &shard, 1000) {
                // A bit that decoding does not need, such as in a statistic: the tokens are still the right ones.
                Ok(found) => assert_eq!(found, ids),
                Err(_) => noticed += 1,
            }
        }
        assert!(noticed > 50, "only {noticed} of 100 flipped bits were noticed");
    }
}
