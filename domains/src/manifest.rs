//! The manifest of a prepared dataset: what it holds, and the hashes by which damage is noticed.
//!
//! Written last by [`prepare`](crate::prepare()), so a folder with a manifest is a whole dataset. Read with distrust: a
//! manifest may be truncated, of another version, or name files outside of its folder, and every number in it is
//! checked against the others before anything is opened. Keys that are not known are passed over: a newer program may
//! write more of them within one format version.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Name of the manifest in a dataset folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The format version this crate writes and reads.
pub const FORMAT_VERSION: u64 = 1;
/// A vocabulary of at most this many tokens is stored in 16 bits per token.
pub const U16_VOCAB: u64 = 1 << 16;
/// Longest row accepted, in tokens.
pub const MAX_SEQUENCE_LENGTH: usize = 1 << 22;
/// Most rows a row group may claim to hold tokens for: far above what is written, far below what fills the memory.
const MAX_GROUP_TOKENS: u64 = 1 << 26;
const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// The side of the held-out split a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Rows to train on.
    Train,
    /// Rows held out, from other documents.
    Validation,
}

impl Split {
    /// Both sides.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// The name used in file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// Contents of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u64,
    /// Program and version that wrote the dataset.
    pub created_by: String,
    /// Tokens per row.
    pub sequence_length: usize,
    /// Every token id is below this.
    pub vocab_size: u64,
    /// The largest token id that occurs in a row. A model takes the data if its embedding has a row for it, whatever the
    /// size of the tokenizer. `None` in folders that were written before this was recorded, so that their fingerprint
    /// stays as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_token_id: Option<u32>,
    /// Id put before each document, where one is.
    pub bos_token_id: Option<u32>,
    /// Id put after each document, where one is.
    pub eos_token_id: Option<u32>,
    /// SHA-256 of `tokenizer.json`, in hex.
    pub tokenizer_sha256: String,
    /// Seed of the split into train and validation.
    pub seed: u64,
    /// Share of each domain's text asked for as validation.
    pub validation_fraction: f64,
    /// The domains, in the order they were given; proportions follow this order.
    pub domains: Vec<DomainEntry>,
}

/// One domain of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainEntry {
    /// Name, also of its folder.
    pub name: String,
    /// Documents without any text, which were left out.
    pub empty_documents: u64,
    /// Documents that could not be read and were left out, as was asked for. Not written where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub broken_documents: u64,
    /// What to train on.
    pub train: SplitEntry,
    /// What was held out.
    pub validation: SplitEntry,
}

impl DomainEntry {
    /// The entry of one side.
    pub fn split(&self, split: Split) -> &SplitEntry {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

/// One side of a domain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitEntry {
    /// Documents packed.
    pub documents: u64,
    /// UTF-8 bytes of their text.
    pub text_bytes: u64,
    /// Rows written.
    pub rows: u64,
    /// Tokens in these rows, BOS and EOS included.
    pub tokens: u64,
    /// Tokens at the end that did not fill a row.
    pub dropped_tokens: u64,
    /// The files, in order of their rows.
    pub files: Vec<FileEntry>,
}

/// One Parquet file of token rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path inside the dataset folder, with forward slashes.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Its row groups, in order.
    pub row_groups: Vec<RowGroupEntry>,
}

/// One row group of a token file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RowGroupEntry {
    /// Rows in it.
    pub rows: u64,
    /// SHA-256 of its token ids as little-endian 32-bit numbers, in hex: checked whenever the group is read.
    pub tokens_sha256: String,
}

impl Manifest {
    /// Reads and checks the manifest of the dataset in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Version`] for another format, [`Error::Manifest`] when it is not
    /// valid or contradicts itself.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let bytes = read_bounded(&path)?;
        let problem = |error: serde_json::Error| Error::Manifest { path: path.clone(), problem: error.to_string() };
        let version: VersionOnly = serde_json::from_slice(&bytes).map_err(problem)?;
        if version.format_version != FORMAT_VERSION {
            return Err(Error::Version { path, expected: FORMAT_VERSION, found: version.format_version });
        }
        let manifest: Self = serde_json::from_slice(&bytes).map_err(problem)?;
        manifest.check().map_err(|problem| Error::Manifest { path, problem })?;
        Ok(manifest)
    }

    /// SHA-256 over everything the manifest says, file hashes included: two datasets with one fingerprint hold the
    /// same rows in the same order.
    pub fn fingerprint(&self) -> String {
        // Plain data with string keys: serialising it cannot fail.
        hex(&Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    fn check(&self) -> std::result::Result<(), String> {
        if !(2..=MAX_SEQUENCE_LENGTH).contains(&self.sequence_length) {
            return Err(format!("sequence_length {} is not in 2..={MAX_SEQUENCE_LENGTH}", self.sequence_length));
        }
        if self.vocab_size == 0 || self.vocab_size > u64::from(u32::MAX) {
            return Err(format!("vocab_size {} is not in 1..={}", self.vocab_size, u32::MAX));
        }
        if let Some(id) = self.max_token_id.filter(|&id| u64::from(id) >= self.vocab_size) {
            return Err(format!("max_token_id {id} is not below vocab_size {}", self.vocab_size));
        }
        if self.domains.is_empty() {
            return Err("it lists no domains".to_string());
        }
        let (mut names, mut files) = (HashSet::new(), HashSet::new());
        for domain in &self.domains {
            check_domain_name(&domain.name)?;
            if !names.insert(domain.name.to_ascii_lowercase()) {
                return Err(format!("domain `{}` is listed twice", domain.name));
            }
            for split in Split::ALL {
                let place = format!("domain `{}`, {}", domain.name, split.name());
                self.check_split(domain.split(split)).map_err(|problem| format!("{place}: {problem}"))?;
                for file in &domain.split(split).files {
                    check_file_name(&file.name)?;
                    if !files.insert(file.name.as_str()) {
                        return Err(format!("file `{}` is listed twice", file.name));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_split(&self, entry: &SplitEntry) -> std::result::Result<(), String> {
        if entry.rows == 0 {
            return Err("it has no rows".to_string());
        }
        let length = self.sequence_length as u64;
        for file in &entry.files {
            if let Some(group) = file.row_groups.iter().find(|group| {
                group.rows == 0 || group.rows.checked_mul(length).is_none_or(|tokens| tokens > MAX_GROUP_TOKENS)
            }) {
                return Err(format!("`{}` has a row group of {} rows", file.name, group.rows));
            }
            let rows = checked_sum(file.row_groups.iter().map(|group| group.rows));
            if rows != Some(file.rows) {
                return Err(format!("the row groups of `{}` do not add up to its {} rows", file.name, file.rows));
            }
        }
        if checked_sum(entry.files.iter().map(|file| file.rows)) != Some(entry.rows) {
            return Err(format!("its files do not add up to {} rows", entry.rows));
        }
        if entry.rows.checked_mul(length) != Some(entry.tokens) {
            return Err(format!("{} rows of {length} are not {} tokens", entry.rows, entry.tokens));
        }
        Ok(())
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Deserialize)]
struct VersionOnly {
    format_version: u64,
}

fn checked_sum(mut values: impl Iterator<Item = u64>) -> Option<u64> {
    values.try_fold(0u64, u64::checked_add)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        let problem = format!("it is larger than {MAX_MANIFEST_BYTES} bytes");
        return Err(Error::Manifest { path: path.to_path_buf(), problem });
    }
    Ok(bytes)
}

/// A domain's name is also a folder and a data-set configuration of Hugging Face, so it is kept plain.
pub(crate) fn check_domain_name(name: &str) -> std::result::Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let rule = "letters, digits, `-`, `_` and `.`, at most 100 and not starting with `.`";
        return Err(format!("`{name}` cannot be the name of a domain; use {rule}"));
    }
    Ok(())
}

fn check_file_name(name: &str) -> std::result::Result<(), String> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || name.is_empty() || name.contains('\\') {
        return Err(format!("file `{name}` is not a path inside of the dataset"));
    }
    Ok(())
}

/// Lower-case hex digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(rows: u64) -> SplitEntry {
        let group = |rows| RowGroupEntry { rows, tokens_sha256: String::new() };
        let file = FileEntry {
            name: format!("a/{rows}.parquet"),
            bytes: 1,
            rows,
            sha256: String::new(),
            row_groups: vec![group(rows - 1), group(1)],
        };
        SplitEntry { rows, tokens: rows * 8, files: vec![file], ..SplitEntry::default() }
    }

    fn manifest() -> Manifest {
        let domain = DomainEntry {
            name: "a".to_string(),
            empty_documents: 0,
            broken_documents: 0,
            train: split(5),
            validation: split(2),
        };
        Manifest {
            format_version: FORMAT_VERSION,
            created_by: "test".to_string(),
            sequence_length: 8,
            vocab_size: 10,
            max_token_id: Some(9),
            bos_token_id: None,
            eos_token_id: None,
            tokenizer_sha256: String::new(),
            seed: 0,
            validation_fraction: 0.1,
            domains: vec![domain],
        }
    }

    #[test]
    fn numbers_that_lie_are_found() {
        assert_eq!(manifest().check(), Ok(()));
        type Lie = (fn(&mut Manifest), &'static str);
        let lies: [Lie; 10] = [
            (|m| m.max_token_id = Some(10), "max_token_id 10"),
            (|m| m.domains[0].train.rows = 6, "6 rows"),
            (|m| m.domains[0].train.tokens = 41, "41 tokens"),
            (|m| m.domains[0].validation.files[0].row_groups[0].rows = u64::MAX, "row group"),
            (|m| m.domains[0].train.files[0].rows = 4, "add up"),
            (|m| m.domains[0].train.files[0].name = "../../etc/passwd".to_string(), "inside"),
            (|m| m.domains[0].train.files[0].name = "/etc/passwd".to_string(), "inside"),
            (|m| m.domains[0].name = "..".to_string(), "name of a domain"),
            (|m| m.domains.push(m.domains[0].clone()), "twice"),
            (|m| m.sequence_length = usize::MAX, "sequence_length"),
        ];
        for (lie, word) in lies {
            let mut manifest = manifest();
            lie(&mut manifest);
            let problem = manifest.check().unwrap_err();
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn fingerprint_covers_hashes() {
        let mut other = manifest();
        other.domains[0].train.files[0].sha256 = "0".to_string();
        assert_ne!(manifest().fingerprint(), other.fingerprint());
    }

    #[test]
    fn what_an_older_program_wrote_keeps_its_fingerprint() {
        let mut older = manifest();
        older.max_token_id = None;
        let text = serde_json::to_string(&older).unwrap();
        assert!(!text.contains("max_token_id") && !text.contains("broken"), "{text}");
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), older);
    }
}
