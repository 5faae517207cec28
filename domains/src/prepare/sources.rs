//! Which files make up a domain, and what is in them, told from their names.
//!
//! A folder may hold more than text: files of other kinds are left out with a note, hidden ones are not looked at. What
//! was surely meant and cannot be had (a link that leads nowhere, a codec that is not read) is an error, before any
//! work is done.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
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

/// What a name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Known(Format, Compression),
    /// Text that was compressed in a way that is not read, by this program.
    Packed(&'static str),
    /// Many files in one, made by this program.
    Archive(&'static str),
    Unknown,
}

/// Compressions that are not read, and who undoes them.
const PACKED: [(&str, &str); 6] = [
    ("bz2", "bzip2 -dk"),
    ("xz", "xz -dk"),
    ("lzma", "xz -dk"),
    ("lz4", "lz4 -d"),
    ("br", "brotli -dk"),
    ("z", "uncompress"),
];
/// Archives, and who unpacks them.
const ARCHIVES: [(&str, &str); 6] =
    [("zip", "unzip"), ("7z", "7z x"), ("rar", "unrar x"), ("tar", "tar -xf"), ("tgz", "tar -xf"), ("tbz2", "tar -xf")];

fn recognise(path: &Path) -> Named {
    // A name need not be Unicode; its ending is.
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let Some((rest, end)) = name.rsplit_once('.') else { return Named::Unknown };
    if let Some((_, unpack)) = ARCHIVES.iter().find(|(archive, _)| *archive == end) {
        return Named::Archive(unpack);
    }
    let packed = PACKED.iter().find(|(packed, _)| *packed == end).map(|(_, program)| *program);
    let compression = match end {
        "gz" => Compression::Gzip,
        "zst" => Compression::Zstd,
        _ => Compression::None,
    };
    let inner = if packed.is_some() || compression != Compression::None { rest } else { &name };
    let format = match inner.rsplit_once('.').map(|(_, end)| end) {
        Some("jsonl" | "json" | "ndjson") => Format::Jsonl,
        Some("txt") => Format::Text,
        // Parquet is read from its end and compressed inside.
        Some("parquet") if inner == name => Format::Parquet,
        Some("parquet") => return Named::Packed(packed.unwrap_or(if end == "gz" { "gzip -dk" } else { "zstd -dk" })),
        Some("tar") if inner != name => return Named::Archive("tar -xf"),
        _ => return Named::Unknown,
    };
    packed.map_or(Named::Known(format, compression), Named::Packed)
}

/// A file, however it is reached: device and inode.
type Identity = (u64, u64);

/// Looks for the files of one domain after the other.
struct Finder<'a> {
    progress: &'a dyn Progress,
    /// Files and folders, and the domain and path by which they were first found.
    seen: HashMap<Identity, (String, PathBuf)>,
}

/// The files of every domain: those named, in that order, and those in the folders named, sorted by path.
///
/// # Errors
/// One that cannot be opened or whose format is not read, one that belongs to two domains, or a domain without any.
pub(super) fn find_all(domains: &[DomainSource], progress: &dyn Progress) -> Result<Vec<Vec<Source>>> {
    let mut finder = Finder { progress, seen: HashMap::new() };
    domains.iter().map(|domain| finder.find(domain)).collect()
}

impl Finder<'_> {
    fn find(&mut self, domain: &DomainSource) -> Result<Vec<Source>> {
        let mut found = Vec::new();
        for path in &domain.paths {
            let metadata = fs::metadata(path).map_err(|error| self.unreachable(path, error))?;
            if metadata.is_dir() {
                self.search(path, &metadata, &domain.name, &mut found)?;
            } else {
                self.file(path, &metadata, &domain.name, true, &mut found)?;
            }
        }
        if found.is_empty() {
            let places = domain.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            let problem = format!("no .jsonl, .json, .txt or .parquet file was found in {places}");
            return Err(Error::EmptyDomain { domain: domain.name.clone(), problem });
        }
        Ok(found)
    }

    fn search(&mut self, folder: &Path, about: &Metadata, domain: &str, found: &mut Vec<Source>) -> Result<()> {
        // Links may lead back up; a folder is searched once.
        if !self.is_new(folder, about, domain)? {
            return Ok(());
        }
        let entries = fs::read_dir(folder).map_err(Error::io("list", folder))?;
        let entries = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
        let mut entries = entries.map_err(Error::io("list", folder))?;
        entries.sort();
        for path in entries {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.search(&path, &metadata, domain, found)?,
                Ok(metadata) => self.file(&path, &metadata, domain, false, found)?,
                // It may have been a folder, or nothing that concerns us.
                Err(error) if recognise(&path) == Named::Unknown => {
                    self.progress.note(&format!("left out: {}", self.unreachable(&path, error)));
                }
                Err(error) => return Err(self.unreachable(&path, error)),
            }
        }
        Ok(())
    }

    /// Takes one file; with `named` it was asked for by its name, and is not left out.
    fn file(
        &mut self,
        path: &Path,
        about: &Metadata,
        domain: &str,
        named: bool,
        found: &mut Vec<Source>,
    ) -> Result<()> {
        let refused = |problem: String| Error::Input { path: path.to_path_buf(), problem };
        match recognise(path) {
            Named::Known(format, compression) => {
                if !about.is_file() {
                    return Err(refused(
                        "it is not an ordinary file; text is read twice, so write it to one".to_string(),
                    ));
                }
                if self.is_new(path, about, domain)? {
                    found.push(Source { path: path.to_path_buf(), format, compression, bytes: about.len() });
                }
                Ok(())
            }
            Named::Packed(program) => Err(refused(format!(
                "its compression is not read; decompress it ({program}), or compress its text with gzip or zstd instead"
            ))),
            Named::Archive(program) if named => {
                Err(refused(format!("archives are not read; unpack it ({program}) and name the folder")))
            }
            Named::Unknown if named => Err(Error::UnknownFormat { path: path.to_path_buf() }),
            Named::Archive(program) => {
                let path = path.display();
                self.progress
                    .note(&format!("{path} is left out: archives are not read; unpack it ({program}) if it is meant"));
                Ok(())
            }
            Named::Unknown => {
                self.progress.note(&format!("{} is left out: its name tells no known format", path.display()));
                Ok(())
            }
        }
    }

    /// Whether a file or folder is met for the first time. Within a domain a second time is a note.
    fn is_new(&mut self, path: &Path, about: &Metadata, domain: &str) -> Result<bool> {
        let Some((first_domain, first)) = self.seen.get(&(about.dev(), about.ino())) else {
            self.seen.insert((about.dev(), about.ino()), (domain.to_string(), path.to_path_buf()));
            return Ok(true);
        };
        if first_domain != domain {
            let problem = format!(
                "it belongs to domain `{domain}` and, as {}, to domain `{first_domain}`; a text belongs to one domain",
                first.display()
            );
            return Err(Error::Input { path: path.to_path_buf(), problem });
        }
        let same = if first == path { "given twice".to_string() } else { format!("the same as {}", first.display()) };
        self.progress.note(&format!("{} is {same} and read once", path.display()));
        Ok(false)
    }

    fn unreachable(&self, path: &Path, error: std::io::Error) -> Error {
        match fs::read_link(path) {
            Ok(target) if error.kind() == std::io::ErrorKind::NotFound => {
                let target = target.display();
                let problem = format!("it is a link to {target}, which does not exist; mend the link or remove it");
                Error::Input { path: path.to_path_buf(), problem }
            }
            _ => Error::io("open", path)(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn names_tell_format_and_compression() {
        for (name, expected) in [
            ("a.jsonl", Named::Known(Format::Jsonl, Compression::None)),
            ("a.ndjson", Named::Known(Format::Jsonl, Compression::None)),
            ("a.b.JSON.GZ", Named::Known(Format::Jsonl, Compression::Gzip)),
            ("a.txt.zst", Named::Known(Format::Text, Compression::Zstd)),
            ("a.parquet", Named::Known(Format::Parquet, Compression::None)),
            ("a.parquet.gz", Named::Packed("gzip -dk")),
            ("a.jsonl.xz", Named::Packed("xz -dk")),
            ("a.txt.bz2", Named::Packed("bzip2 -dk")),
            ("a.zip", Named::Archive("unzip")),
            ("a.jsonl.zip", Named::Archive("unzip")),
            ("a.tar.gz", Named::Archive("tar -xf")),
            ("a.gz", Named::Unknown),
            ("README.md", Named::Unknown),
            ("txt", Named::Unknown),
        ] {
            assert_eq!(recognise(Path::new(name)), expected, "{name}");
        }
        let latin = Path::new(OsStr::from_bytes(b"caf\xe9 \n.jsonl"));
        assert_eq!(recognise(latin), Named::Known(Format::Jsonl, Compression::None));
    }
}
