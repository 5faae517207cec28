//! Streams the documents of a domain in chunks of about 1 MiB.
//!
//! A chunk is cut in the reading thread, which only decompresses and finds line ends, and is taken apart into documents
//! by the threads that work on it. Chunks are cut by content alone, so they are the same for any number of threads, and
//! in both passes over the text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;

use super::encoding::{BYTE_ORDER_MARK, utf8};
use super::json_line::text_of;
use super::parquet_rows::{ParquetRows, texts};
use super::sources::{Compression, Format, Source};
use crate::{Error, Result};

const CHUNK_BYTES: usize = 1 << 20;
/// Longest line or text file accepted: a document must fit into memory.
const MAX_DOCUMENT_BYTES: u64 = 1 << 28;
/// Largest window of a zstd frame, as a power of two: what `zstd --long=31` writes, and the most there is.
const MOST_WINDOW_BITS: u32 = 31;

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
    /// Hands the text of every document to `each`, in order, and what is wrong with those that cannot be read to
    /// `broken`.
    pub(super) fn documents(
        &self,
        field: &str,
        mut each: impl FnMut(&str) -> Result<()>,
        mut broken: impl FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        match &self.content {
            Content::Lines(first, bytes) => {
                for (number, line) in (*first..).zip(bytes.split(|&byte| byte == b'\n')) {
                    // At the start of the file, or of each that was joined to it.
                    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    match text_of(line, field) {
                        Ok(text) => each(&text)?,
                        Err(problem) => broken(self.problem("line", number, problem))?,
                    }
                }
                Ok(())
            }
            Content::Whole(bytes) => match utf8(bytes) {
                Ok(text) => each(text),
                Err(problem) => {
                    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
                    let line = bytes[..valid].iter().filter(|&&byte| byte == b'\n').count();
                    broken(self.problem("line", line as u64 + 1, problem))
                }
            },
            Content::Rows(first, batch) => texts(batch.column(0), field, |row, text| match text {
                Ok(text) => each(text),
                Err(problem) => broken(self.problem("row", first + row as u64, problem)),
            }),
        }
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

pub(super) type Reader = BufReader<Box<dyn Read + Send>>;

/// The text of a file, decompressed, and a count of the bytes taken from the file itself.
pub(super) fn open(source: &Source) -> Result<(Reader, Arc<AtomicU64>)> {
    let file = File::open(&source.path).map_err(Error::io("open", &source.path))?;
    let bytes = Arc::new(AtomicU64::new(0));
    let counting = Counting { file, bytes: Arc::clone(&bytes) };
    let plain: Box<dyn Read + Send> = match source.compression {
        Compression::None => Box::new(counting),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(counting)),
        Compression::Zstd => {
            let failed = || Error::io("decompress", &source.path);
            let mut decoder = zstd::stream::read::Decoder::new(counting).map_err(failed())?;
            decoder.window_log_max(MOST_WINDOW_BITS).map_err(failed())?;
            Box::new(decoder)
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
        let (reader, counter) = open(source)?;
        let path: Arc<Path> = Arc::from(source.path.as_path());
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
    rows: ParquetRows,
    bytes_before: u64,
    bytes: u64,
}

impl RowChunks {
    fn open(source: &Source, field: &str, bytes_before: u64) -> Result<Self> {
        let path: Arc<Path> = Arc::from(source.path.as_path());
        Ok(Self { rows: ParquetRows::open(&path, field)?, path, bytes_before, bytes: source.bytes })
    }
}

impl Iterator for RowChunks {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.rows.next()?;
        // Rows are of about equal size; progress needs no more.
        let bytes_read = self.bytes_before + (self.bytes as f64 * self.rows.share_read()) as u64;
        let path = Arc::clone(&self.path);
        Some(batch.map(|(first, batch)| Chunk { path, content: Content::Rows(first, batch), bytes_read }))
    }
}
