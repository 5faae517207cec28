//! A look into every input file before any work is done: hours of it must not end at a file that was never readable.
//!
//! What the name promises is compared with the first bytes, through the compression. Parquet files are opened, which
//! finds a missing column or a codec that is not read; of JSON lines the first one is read.

use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::PrepareConfig;
use super::documents::open;
use super::encoding::{BYTE_ORDER_MARK, wide_encoding};
use super::json_line::text_of;
use super::parquet_rows::ParquetRows;
use super::sources::{Compression, Format, Source};
use crate::{Error, Result};

const HEAD_BYTES: u64 = 512;

/// First bytes of kinds of files, and what to call them.
const SIGNATURES: [(&[u8], Kind); 13] = [
    (b"\x1f\x8b", Kind::Gzip),
    (b"\x28\xb5\x2f\xfd", Kind::Zstd),
    (b"BZh", Kind::Other("data compressed with bzip2 (bzip2 -dk decompresses it)")),
    (b"\xfd7zXZ\0", Kind::Other("data compressed with xz (xz -dk decompresses it)")),
    (b"\x04\x22\x4d\x18", Kind::Other("data compressed with lz4 (lz4 -d decompresses it)")),
    (b"PK\x03\x04", Kind::Other("a zip archive (unzip unpacks it)")),
    (b"7z\xbc\xaf\x27\x1c", Kind::Other("a 7z archive (7z x unpacks it)")),
    (b"Rar!\x1a\x07", Kind::Other("a rar archive (unrar x unpacks it)")),
    (b"PAR1", Kind::Parquet),
    (b"PARE", Kind::Other("an encrypted Parquet file, which is not read")),
    (b"ARROW1", Kind::Other("an Arrow file, which is not read: write it as Parquet")),
    (b"%PDF-", Kind::Other("a PDF document: write its text to a .txt file")),
    (
        b"version https://git-lfs",
        Kind::Other("a pointer of git-lfs and not the file itself: run `git lfs pull` where it was cloned"),
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gzip,
    Zstd,
    Parquet,
    Other(&'static str),
}

impl Kind {
    fn of(head: &[u8]) -> Option<Self> {
        // A zstd file may begin with a frame to skip, of sixteen kinds.
        if matches!(head, [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50) {
            return Some(Self::Zstd);
        }
        SIGNATURES.iter().find(|(bytes, _)| head.starts_with(bytes)).map(|(_, kind)| *kind)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "data compressed with gzip (name it .gz)",
            Self::Zstd => "data compressed with zstd (name it .zst)",
            Self::Parquet => "a Parquet file (name it .parquet)",
            Self::Other(name) => name,
        }
    }
}

/// Looks into `source`.
///
/// # Errors
/// It cannot be opened, or is not what its name says.
pub(super) fn check(source: &Source, config: &PrepareConfig) -> Result<()> {
    let path = source.path.as_path();
    let refused = |problem: String| Error::Input { path: path.to_path_buf(), problem };
    let mut head = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(Error::io("read", path))?;
    let expected = match (source.format, source.compression) {
        (Format::Parquet, _) => Some((Kind::Parquet, "a Parquet file")),
        (_, Compression::Gzip) => Some((Kind::Gzip, "compressed with gzip")),
        (_, Compression::Zstd) => Some((Kind::Zstd, "compressed with zstd")),
        (_, Compression::None) => None,
    };
    let found = Kind::of(&head);
    if let Some((kind, name)) = expected
        && found != Some(kind)
    {
        let what = match found {
            Some(found) => format!("it holds {}", found.name()),
            None if head.is_empty() => "it is empty".to_string(),
            None => "it holds something else".to_string(),
        };
        return Err(refused(format!("by its name it is {name}, but {what}; was it cut short or renamed?")));
    }
    if source.format == Format::Parquet {
        return ParquetRows::open(&Arc::from(path), &config.text_field).map(drop);
    }
    check_text(source, config)
}

/// Looks at the first bytes of text, decompressed.
fn check_text(source: &Source, config: &PrepareConfig) -> Result<()> {
    let path = source.path.as_path();
    let refused = |problem: String| Error::Input { path: path.to_path_buf(), problem };
    let (mut reader, _) = open(source)?;
    let head = reader.fill_buf().map_err(Error::io("read", path))?;
    if let Some(kind) = Kind::of(head) {
        return Err(refused(format!("it should hold text, but holds {}", kind.name())));
    }
    if let Some(encoding) = wide_encoding(head) {
        let problem = format!("its text is {encoding}, which is not read; convert it: iconv -f {encoding} -t UTF-8");
        return Err(refused(problem));
    }
    if source.format == Format::Jsonl {
        check_first_line(head, path, config)?;
    }
    Ok(())
}

/// The first line, where all of it is in `head`: an array of JSON or another field than the one asked for is so in the
/// whole file.
fn check_first_line(head: &[u8], path: &Path, config: &PrepareConfig) -> Result<()> {
    let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let blank = head.len() - head.trim_ascii_start().len();
    let text = &head[blank..];
    if text.starts_with(b"[") {
        let problem = "it is one JSON array; one object per line is expected: jq -c '.[]' FILE > NEW.jsonl".to_string();
        return Err(Error::Input { path: path.to_path_buf(), problem });
    }
    let Some(end) = text.iter().position(|&byte| byte == b'\n') else { return Ok(()) };
    match text_of(&text[..end], &config.text_field) {
        // It may be one of those that are left out.
        Err(problem) if config.skip_broken == 0 => {
            let number = head[..blank].iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
            Err(config.unreadable(Error::Document { path: path.to_path_buf(), unit: "line", number, problem }))
        }
        _ => Ok(()),
    }
}
