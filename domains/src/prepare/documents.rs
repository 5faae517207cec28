//! Streams the documents of a domain in chunks of about 1 MiB.
//!
//! A chunk is cut in the reading thread, which only decompresses and finds line ends, and is taken apart into documents
//! by the threads that work on it. Chunks are cut by content alone, so they are the same for any number of threads, and
//! in both passes over the text.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::sources::{Compression, Format, Source};
use crate::{Error, Result};

const CHUNK_BYTES: usize = 1 << 20;
/// Longest line or text file accepted: a document must fit into memory.
const MAX_DOCUMENT_BYTES: u64 = 1 << 28;
const PARQUET_ROWS: usize = 256;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Some consecutive documents of one file.
#[derive(Debug)]
pub(super) struct Chunk {
    path: Arc<Path>,
    content: Content,
    /// Bytes of input files read up to the end of this chunk.
    pub(super) bytes_read: u64,
}

#[derive(Debug)]
enum Content {
    /// Lines of JSON, the first of which has this number.
    Lines(u64, Vec<u8>),
    /// One whole text file.
    Whole(Vec<u8>),
    /// Rows of a Parquet file, the first of which has this number; the one column is the text.
    Rows(u64, RecordBatch),
}

impl Chunk {
    /// Hands the text of every document to `each`, in order.
    pub(super) fn documents(&self, field: &str, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
        match &self.content {
            Content::Lines(first, bytes) => {
                for (number, line) in (*first..).zip(bytes.split(|&byte| byte == b'\n')) {
                    if !line.trim_ascii().is_empty() {
                        let text = text_of(line, field).map_err(|problem| self.problem("line", number, problem))?;
                        each(&text)?;
                    }
                }
                Ok(())
            }
            Content::Whole(bytes) => each(std::str::from_utf8(bytes).map_err(|error| {
                let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
                self.problem("line", line as u64 + 1, "the text is not valid UTF-8".to_string())
            })?),
            Content::Rows(first, batch) => self.rows(*first, batch, field, each),
        }
    }

    fn rows(
        &self,
        first: u64,
        batch: &RecordBatch,
        field: &str,
        mut each: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let column = batch.column(0);
        for row in 0..batch.num_rows() {
            let number = first + row as u64;
            if column.is_null(row) {
                return Err(self.problem("row", number, format!("`{field}` is null; expected text")));
            }
            match column.data_type() {
                DataType::Utf8 => each(column.as_string::<i32>().value(row))?,
                DataType::LargeUtf8 => each(column.as_string::<i64>().value(row))?,
                DataType::Utf8View => each(column.as_string_view().value(row))?,
                other => return Err(self.problem("row", number, format!("`{field}` is {other}; expected text"))),
            }
        }
        Ok(())
    }

    fn problem(&self, unit: &'static str, number: u64, problem: String) -> Error {
        Error::Document { path: self.path.to_path_buf(), unit, number, problem }
    }
}

/// The chunks of `sources`, one file after the other. An error ends the stream.
pub(super) fn chunks<'a>(sources: &'a [Source], field: &'a str) -> impl Iterator<Item = Result<Chunk>> + Send + 'a {
    let bytes_before = sources.iter().scan(0, |sum, source| {
        let before = *sum;
        *sum += source.bytes;
        Some(before)
    });
    sources.iter().zip(bytes_before).flat_map(move |(source, before)| file_chunks(source, field, before))
}

type Chunks = Box<dyn Iterator<Item = Result<Chunk>> + Send>;

fn file_chunks(source: &Source, field: &str, bytes_before: u64) -> Chunks {
    let opened = match source.format {
        Format::Jsonl => LineChunks::open(source, bytes_before).map(|chunks| Box::new(chunks) as Chunks),
        Format::Text => Ok(Box::new(std::iter::once_with({
            let source = source.clone();
            move || whole_file(&source, bytes_before)
        })) as Chunks),
        Format::Parquet => RowChunks::open(source, field, bytes_before).map(|chunks| Box::new(chunks) as Chunks),
    };
    opened.unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
}

/// Counts the bytes taken from a file, below any decompression.
struct Counting {
    file: File,
    bytes: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

type Reader = BufReader<Box<dyn Read + Send>>;

fn open(source: &Source) -> Result<(Reader, Arc<AtomicU64>)> {
    let file = File::open(&source.path).map_err(Error::io("open", &source.path))?;
    let bytes = Arc::new(AtomicU64::new(0));
    let counting = Counting { file, bytes: Arc::clone(&bytes) };
    let plain: Box<dyn Read + Send> = match source.compression {
        Compression::None => Box::new(counting),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(counting)),
        Compression::Zstd => {
            Box::new(zstd::stream::read::Decoder::new(counting).map_err(Error::io("decompress", &source.path))?)
        }
    };
    Ok((BufReader::with_capacity(1 << 16, plain), bytes))
}

fn whole_file(source: &Source, bytes_before: u64) -> Result<Chunk> {
    let (reader, _) = open(source)?;
    let mut bytes = Vec::new();
    reader.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", &source.path))?;
    let path: Arc<Path> = Arc::from(source.path.as_path());
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(too_long(&path, 1));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(Chunk { path, content: Content::Whole(bytes), bytes_read: bytes_before + source.bytes })
}

fn too_long(path: &Path, number: u64) -> Error {
    let problem = format!("a document may have at most {MAX_DOCUMENT_BYTES} bytes; split it");
    Error::Document { path: path.to_path_buf(), unit: "line", number, problem }
}

struct LineChunks {
    path: Arc<Path>,
    reader: Reader,
    counter: Arc<AtomicU64>,
    bytes_before: u64,
    next_line: u64,
    done: bool,
}

impl LineChunks {
    fn open(source: &Source, bytes_before: u64) -> Result<Self> {
        let (mut reader, counter) = open(source)?;
        let path: Arc<Path> = Arc::from(source.path.as_path());
        if reader.fill_buf().map_err(Error::io("read", &path))?.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
        }
        Ok(Self { path, reader, counter, bytes_before, next_line: 1, done: false })
    }

    fn read(&mut self) -> Result<Option<Chunk>> {
        let (first, mut bytes) = (self.next_line, Vec::new());
        while bytes.len() < CHUNK_BYTES {
            let limit = MAX_DOCUMENT_BYTES + 1;
            let line = self.reader.by_ref().take(limit).read_until(b'\n', &mut bytes);
            match line.map_err(Error::io("read", &self.path))? {
                0 => break,
                length if length as u64 == limit => return Err(too_long(&self.path, self.next_line)),
                _ => self.next_line += 1,
            }
        }
        let bytes_read = self.bytes_before + self.counter.load(Ordering::Relaxed);
        let content = Content::Lines(first, bytes);
        Ok((self.next_line > first).then(|| Chunk { path: Arc::clone(&self.path), content, bytes_read }))
    }
}

impl Iterator for LineChunks {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

struct RowChunks {
    path: Arc<Path>,
    reader: ParquetRecordBatchReader,
    next_row: u64,
    total_rows: u64,
    bytes_before: u64,
    bytes: u64,
}

impl RowChunks {
    fn open(source: &Source, field: &str, bytes_before: u64) -> Result<Self> {
        let path: Arc<Path> = Arc::from(source.path.as_path());
        let problem = |problem: String| Error::Parquet { path: path.to_path_buf(), problem };
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| problem(error.to_string()))?;
        let names: Vec<&str> = builder.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let Some(at) = names.iter().position(|name| *name == field) else {
            return Err(problem(format!("it has no column `{field}`; its columns are {}", names.join(", "))));
        };
        let total_rows = builder.metadata().file_metadata().num_rows().max(0) as u64;
        let mask = ProjectionMask::roots(builder.parquet_schema(), [at]);
        let reader = builder.with_projection(mask).with_batch_size(PARQUET_ROWS).build();
        let reader = reader.map_err(|error| problem(error.to_string()))?;
        Ok(Self { reader, next_row: 1, total_rows, bytes_before, bytes: source.bytes, path })
    }
}

impl Iterator for RowChunks {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.reader.next()? {
            Ok(batch) => batch,
            Err(error) => {
                let problem = format!("after row {}: {error}", self.next_row - 1);
                return Some(Err(Error::Parquet { path: self.path.to_path_buf(), problem }));
            }
        };
        let first = self.next_row;
        self.next_row += batch.num_rows() as u64;
        // Rows are of about equal size; progress needs no more.
        let share = (self.next_row - 1) as f64 / self.total_rows.max(1) as f64;
        let bytes_read = self.bytes_before + (self.bytes as f64 * share) as u64;
        Some(Ok(Chunk { path: Arc::clone(&self.path), content: Content::Rows(first, batch), bytes_read }))
    }
}

/// The string in field `field` of the JSON object in `line`, or what is wrong with it.
fn text_of<'a>(line: &'a [u8], field: &str) -> std::result::Result<Cow<'a, str>, String> {
    let invalid = |error: serde_json::Error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("{message}, at column {}; expected one JSON object with `{field}` per line", error.column())
    };
    let mut json = serde_json::Deserializer::from_slice(line);
    let text = FieldOf { field }.deserialize(&mut json).map_err(invalid)?;
    json.end().map_err(invalid)?;
    text.ok_or_else(|| format!("the object has no field `{field}`"))
}

/// Takes one string field out of an object and skips the rest without building it.
struct FieldOf<'f> {
    field: &'f str,
}

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(key) = map.next_key_seed(TextSeed)? {
            if key == self.field {
                text = Some(map.next_value_seed(TextSeed)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(text)
    }
}

/// A string, borrowed from the line where it has no escapes.
struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_field_and_skips_the_rest() {
        for (line, expected) in [
            (r#"{"text":"plain"}"#, "plain"),
            (r#" {"meta":{"text":"no"},"text":"a\nb \u00e9 \ud83d\ude00","n":[1,2]} "#, "a\nb é 😀"),
            ("{\"te\\u0078t\":\"escaped key\"}\r", "escaped key"),
        ] {
            assert_eq!(text_of(line.as_bytes(), "text").unwrap(), expected);
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_line() {
        let cases: [(&[u8], &str); 7] = [
            (br#"{"body":"x"}"#, "no field `text`"),
            (br#"{"text":3}"#, "expected a string"),
            (br#"{"text":null}"#, "expected a string"),
            (br#"["text"]"#, "expected an object"),
            (br#"{"text":"x"#, "EOF"),
            (br#"{"text":"x"} {"text":"y"}"#, "trailing"),
            (b"{\"text\":\"\xff\"}", "unicode"),
        ];
        for (line, word) in cases {
            let problem = text_of(line, "text").unwrap_err();
            assert!(problem.contains(word) && !problem.contains("line 1"), "{problem}");
        }
    }
}
