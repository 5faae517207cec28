//! Which files make up a domain, and what is in them, told from their names.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{DomainSource, Progress};
use crate::{Error, Result};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One JSON object per line.
    Jsonl,
    /// One document.
    Text,
    /// Rows with a text column.
    Parquet,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) compression: Compression,
    pub(super) bytes: u64,
}

/// Format and compression that the name of `path` tells.
fn recognise(path: &Path) -> Option<(Format, Compression)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (name, compression) = match name.rsplit_once('.') {
        Some((rest, "gz")) => (rest.to_string(), Compression::Gzip),
        Some((rest, "zst")) => (rest.to_string(), Compression::Zstd),
        _ => (name, Compression::None),
    };
    let format = match name.rsplit_once('.')?.1 {
        "jsonl" | "json" => Format::Jsonl,
        "txt" => Format::Text,
        // Parquet is read from its end and compressed inside.
        "parquet" if compression == Compression::None => Format::Parquet,
        _ => return None,
    };
    Some((format, compression))
}

/// The files of `domain`: those named, in that order, and those in the folders named, sorted by path. Files of other
/// kinds in folders are left out with a note; hidden ones are not looked at.
pub(super) fn find(domain: &DomainSource, progress: &dyn Progress) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = HashSet::new();
    for path in &domain.paths {
        let metadata = fs::metadata(path).map_err(Error::io("open", path))?;
        if metadata.is_dir() {
            search(path, progress, &mut folders, &mut found)?;
        } else {
            let (format, compression) = recognise(path).ok_or_else(|| Error::UnknownFormat { path: path.clone() })?;
            found.push(Source { path: path.clone(), format, compression, bytes: metadata.len() });
        }
    }
    let mut seen = HashSet::new();
    found.retain(|source| seen.insert(source.path.clone()));
    if found.is_empty() {
        let problem = "no .jsonl, .json, .txt or .parquet file was found in its folders".to_string();
        return Err(Error::EmptyDomain { domain: domain.name.clone(), problem });
    }
    Ok(found)
}

fn search(
    folder: &Path,
    progress: &dyn Progress,
    folders: &mut HashSet<PathBuf>,
    found: &mut Vec<Source>,
) -> Result<()> {
    // Links may lead back up; a folder is searched once.
    if !folders.insert(fs::canonicalize(folder).map_err(Error::io("open", folder))?) {
        return Ok(());
    }
    let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    let entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut entries = entries.map_err(Error::io("list", folder))?;
    entries.sort();
    for path in entries {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(Error::io("open", &path))?;
        if metadata.is_dir() {
            search(&path, progress, folders, found)?;
        } else if let Some((format, compression)) = recognise(&path) {
            found.push(Source { path, format, compression, bytes: metadata.len() });
        } else {
            progress.note(&format!("{} is left out: its name tells no known format", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_format_and_compression() {
        for (name, expected) in [
            ("a.jsonl", Some((Format::Jsonl, Compression::None))),
            ("a.b.JSON.GZ", Some((Format::Jsonl, Compression::Gzip))),
            ("a.txt.zst", Some((Format::Text, Compression::Zstd))),
            ("a.parquet", Some((Format::Parquet, Compression::None))),
            ("a.parquet.gz", None),
            ("a.gz", None),
            ("README.md", None),
            ("txt", None),
        ] {
            assert_eq!(recognise(Path::new(name)), expected, "{name}");
        }
    }
}
