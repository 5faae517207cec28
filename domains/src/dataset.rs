//! A prepared dataset, opened for reading.
//!
//! Rows are addressed by domain, split and index. A row group is decoded when one of its rows is first asked for and
//! kept in a cache of bounded size that forgets the group used longest ago; the loader's order (`order.rs`) is made so
//! that each group is decoded about once per epoch.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::manifest::{FileEntry, MANIFEST_FILE, Manifest, Split, hex};
use crate::order::{group_of, group_starts};
use crate::shard::{Expected, TokenBlock, read_group};
use crate::token_bytes::TokenBytes;
use crate::{Error, Result, largest_id};

/// Decoded row groups kept in memory, in bytes, unless [`Dataset::set_cache_bytes`] says otherwise.
const DEFAULT_CACHE_BYTES: usize = 1 << 30;
/// Name of the tokenizer in a dataset folder.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";

/// A dataset written by [`prepare`](crate::prepare()). Shared between threads by `Arc`.
#[derive(Debug)]
pub struct Dataset {
    root: PathBuf,
    manifest: Manifest,
    fingerprint: String,
    names: Vec<String>,
    /// Per domain, then train and validation.
    layouts: Vec<[Layout; 2]>,
    cache: Mutex<Cache>,
}

/// Where the rows of one split of a domain are.
#[derive(Debug)]
struct Layout {
    /// First row of every row group over all files, and the number of rows.
    starts: Vec<u64>,
    /// Per row group: file, and position in that file.
    groups: Vec<(usize, usize)>,
}

impl Layout {
    fn new(files: &[FileEntry]) -> Self {
        let all = || {
            files
                .iter()
                .enumerate()
                .flat_map(|(at, file)| file.row_groups.iter().enumerate().zip([at].repeat(file.row_groups.len())))
        };
        Self {
            starts: group_starts(all().map(|((_, group), _)| group.rows)),
            groups: all().map(|((group, _), file)| (file, group)).collect(),
        }
    }
}

/// Key of a decoded row group: domain, split, group.
type GroupKey = (usize, Split, usize);

#[derive(Debug)]
struct Cache {
    blocks: HashMap<GroupKey, (u64, Arc<TokenBlock>)>,
    bytes: usize,
    limit_bytes: usize,
    clock: u64,
    decoded: u64,
}

impl Cache {
    fn get(&mut self, key: GroupKey) -> Option<Arc<TokenBlock>> {
        self.clock += 1;
        let (used, block) = self.blocks.get_mut(&key)?;
        *used = self.clock;
        Some(Arc::clone(block))
    }

    fn insert(&mut self, key: GroupKey, block: Arc<TokenBlock>) {
        self.clock += 1;
        self.decoded += 1;
        self.bytes += block.bytes();
        if let Some((_, old)) = self.blocks.insert(key, (self.clock, block)) {
            self.bytes -= old.bytes();
        }
        self.shrink();
    }

    /// Forgets groups until the limit is kept; the one used last always stays.
    fn shrink(&mut self) {
        while self.bytes > self.limit_bytes && self.blocks.len() > 1 {
            let Some(oldest) = self.blocks.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key) else {
                break;
            };
            if let Some((_, old)) = self.blocks.remove(&oldest) {
                self.bytes -= old.bytes();
            }
        }
    }
}

impl Dataset {
    /// Opens the dataset in `folder`: reads the manifest and checks that its files are there with the sizes it records.
    ///
    /// # Errors
    /// [`Error::NotPrepared`] for another folder or none, those of [`Manifest::read`], and [`Error::Corrupt`] or [`Error::Io`] for a file that is missing or of another
    /// size.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let root = folder.into();
        if !root.join(MANIFEST_FILE).exists() {
            let found = match root.is_dir() {
                true => format!("it has no {MANIFEST_FILE}"),
                false => "there is no such folder".to_string(),
            };
            return Err(Error::NotPrepared { path: root, found });
        }
        let manifest = Manifest::read(&root)?;
        for file in files(&manifest) {
            check_size(&root.join(&file.name), file)?;
        }
        let layouts =
            manifest.domains.iter().map(|domain| Split::ALL.map(|split| Layout::new(&domain.split(split).files)));
        Ok(Self {
            fingerprint: manifest.fingerprint(),
            names: manifest.domains.iter().map(|domain| domain.name.clone()).collect(),
            layouts: layouts.collect(),
            cache: Mutex::new(Cache {
                blocks: HashMap::new(),
                bytes: 0,
                limit_bytes: DEFAULT_CACHE_BYTES,
                clock: 0,
                decoded: 0,
            }),
            root,
            manifest,
        })
    }

    /// Reads every file in full and compares it with its recorded hash, the tokenizer too.
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the first file that differs.
    pub fn verify(&self) -> Result<()> {
        let tokenizer = (self.tokenizer_path(), &self.manifest.tokenizer_sha256);
        let rows = files(&self.manifest).map(|file| (self.root.join(&file.name), &file.sha256));
        for (path, expected) in std::iter::once(tokenizer).chain(rows) {
            let found = file_sha256(&path)?;
            if found != *expected {
                return Err(Error::corrupt(&path, format!("its SHA-256 is {found}, expected {expected}")));
            }
        }
        Ok(())
    }

    /// Identity of the dataset: [`Manifest::fingerprint`].
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What the dataset says about itself: counts of documents, bytes of text, files, BOS and EOS.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The dataset's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names of the domains; everything per domain follows their order.
    pub fn domain_names(&self) -> &[String] {
        &self.names
    }

    /// Index of the domain called `name`.
    pub fn domain_index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// Tokens per row.
    pub fn sequence_length(&self) -> usize {
        self.manifest.sequence_length
    }

    /// Number of tokens in the vocabulary.
    pub fn vocab_size(&self) -> u64 {
        self.manifest.vocab_size
    }

    /// The largest token id that occurs, of all domains and both sides. The manifest says it, or else the footers of the
    /// files; tokens are only read where another program wrote them.
    ///
    /// # Errors
    /// A file cannot be read, or is damaged.
    pub fn largest_token_id(&self) -> Result<u32> {
        if let Some(recorded) = self.manifest.max_token_id {
            return Ok(recorded);
        }
        let mut largest = 0;
        for domain in 0..self.names.len() {
            for split in Split::ALL {
                let files = &self.manifest.domains[domain].split(split).files;
                let recorded = files.iter().map(|file| largest_id::recorded(&self.root.join(&file.name)));
                let recorded: Vec<Vec<Option<u32>>> = recorded.collect::<Result<_>>()?;
                for (group, (file, within)) in self.layout(domain, split)?.groups.iter().enumerate() {
                    let known = recorded.get(*file).and_then(|groups| groups.get(*within).copied().flatten());
                    let id = match known {
                        Some(id) => id,
                        None => self.block(domain, split, group)?.largest(),
                    };
                    largest = largest.max(id);
                }
            }
        }
        Ok(largest)
    }

    /// Rows of one side of a domain; 0 for a domain that is not there.
    pub fn rows(&self, domain: usize, split: Split) -> u64 {
        self.manifest.domains.get(domain).map_or(0, |entry| entry.split(split).rows)
    }

    /// Tokens of one side of a domain; 0 for a domain that is not there.
    pub fn tokens(&self, domain: usize, split: Split) -> u64 {
        self.manifest.domains.get(domain).map_or(0, |entry| entry.split(split).tokens)
    }

    /// The tokenizer's file.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.root.join(TOKENIZER_FILE)
    }

    /// Limits the decoded row groups kept in memory. Less than a window of the loader's order per domain (16 groups of
    /// about 1 Mi tokens, two or four bytes each) means decoding groups more than once.
    pub fn set_cache_bytes(&self, bytes: usize) {
        let mut cache = self.cache();
        cache.limit_bytes = bytes;
        cache.shrink();
    }

    /// Row groups decoded so far; a measure of how well the cache serves.
    pub fn groups_decoded(&self) -> u64 {
        self.cache().decoded
    }

    /// Appends row `row` of a domain, `[sequence_length]` tokens, to `out`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such domain or row, [`Error::Corrupt`] or [`Error::TokenOutOfRange`] when
    /// the file is not what the manifest says.
    pub fn read_row(&self, domain: usize, split: Split, row: u64, out: &mut Vec<u32>) -> Result<()> {
        let layout = self.layout(domain, split)?;
        let count = self.rows(domain, split);
        if row >= count {
            let what = format!("{} row of domain `{}`", split.name(), self.names[domain]);
            return Err(Error::OutOfRange { what, index: row, count });
        }
        let group = group_of(&layout.starts, row);
        let block = self.block(domain, split, group)?;
        block.copy_row((row - layout.starts[group]) as usize, self.sequence_length(), out);
        Ok(())
    }

    /// The first rows of a domain's validation side, at most `max_rows`, one after the other: `[rows * sequence_length]`.
    ///
    /// # Errors
    /// Those of [`Self::read_row`].
    pub fn validation_rows(&self, domain: usize, max_rows: u64) -> Result<Vec<u32>> {
        self.layout(domain, Split::Validation)?;
        let rows: Vec<u64> = (0..self.rows(domain, Split::Validation).min(max_rows)).collect();
        self.gather(domain, Split::Validation, &rows)
    }

    /// Rows of a domain's train side by index, one after the other: `[rows.len() * sequence_length]`.
    ///
    /// # Errors
    /// Those of [`Self::read_row`].
    pub fn train_rows(&self, domain: usize, rows: &[u64]) -> Result<Vec<u32>> {
        self.gather(domain, Split::Train, rows)
    }

    /// The text of the first `count` training rows of a domain, special tokens included.
    ///
    /// # Errors
    /// Those of [`Self::read_row`], and [`Error::Tokenizer`] when the tokenizer cannot be loaded or refuses an id.
    pub fn preview(&self, domain: usize, count: u64) -> Result<Vec<String>> {
        self.layout(domain, Split::Train)?;
        let tokenizer = self.tokenizer()?;
        let rows = 0..self.rows(domain, Split::Train).min(count);
        rows.map(|row| {
            let ids = self.gather(domain, Split::Train, &[row])?;
            tokenizer.decode(&ids, false).map_err(|error| self.tokenizer_error(&error))
        })
        .collect()
    }

    /// Bytes of text behind every token; `None` for a tokenizer whose tokens have no fixed lengths (see
    /// [`TokenBytes::of`]).
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer cannot be loaded.
    pub fn token_bytes(&self) -> Result<Option<TokenBytes>> {
        Ok(TokenBytes::of(&self.tokenizer()?))
    }

    /// Mean bytes of text per token of one side of a domain, BOS and EOS counted as tokens; `None` for a domain that is
    /// not there or has no tokens.
    pub fn mean_token_bytes(&self, domain: usize, split: Split) -> Option<f64> {
        let side = self.manifest.domains.get(domain)?.split(split);
        let tokens = side.tokens.saturating_add(side.dropped_tokens);
        (tokens > 0).then(|| side.text_bytes as f64 / tokens as f64)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_file(self.tokenizer_path()).map_err(|error| self.tokenizer_error(&error))
    }

    fn tokenizer_error(&self, error: &tokenizers::Error) -> Error {
        Error::Tokenizer { path: self.tokenizer_path(), problem: error.to_string() }
    }

    /// First train row of every row group of a domain, and the number of rows.
    pub(crate) fn train_group_starts(&self, domain: usize) -> &[u64] {
        &self.layouts[domain][0].starts
    }

    fn gather(&self, domain: usize, split: Split, rows: &[u64]) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        for &row in rows {
            self.read_row(domain, split, row, &mut out)?;
        }
        Ok(out)
    }

    fn layout(&self, domain: usize, split: Split) -> Result<&Layout> {
        let count = self.layouts.len() as u64;
        let missing = || Error::OutOfRange { what: "domain".to_string(), index: domain as u64, count };
        let [train, validation] = self.layouts.get(domain).ok_or_else(missing)?;
        Ok(if split == Split::Train { train } else { validation })
    }

    fn block(&self, domain: usize, split: Split, group: usize) -> Result<Arc<TokenBlock>> {
        let key = (domain, split, group);
        if let Some(block) = self.cache().get(key) {
            return Ok(block);
        }
        // Decoded outside of the lock: two threads may do it twice, but neither waits for the other's file.
        let layout = self.layout(domain, split)?;
        let (file, within) = layout.groups[group];
        let file = &self.manifest.domains[domain].split(split).files[file];
        let expected = Expected {
            entry: &file.row_groups[within],
            groups: file.row_groups.len(),
            sequence_length: self.sequence_length(),
            vocab_size: self.vocab_size(),
            max_token_id: self.manifest.max_token_id,
            first_row: file.row_groups[..within].iter().map(|group| group.rows).sum(),
        };
        let block = Arc::new(read_group(&self.root.join(&file.name), within, &expected)?);
        self.cache().insert(key, Arc::clone(&block));
        Ok(block)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // The cache is whole between any two statements, so a panic elsewhere does not spoil it.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn files(manifest: &Manifest) -> impl Iterator<Item = &FileEntry> {
    manifest.domains.iter().flat_map(|domain| Split::ALL.into_iter().flat_map(|split| &domain.split(split).files))
}

fn check_size(path: &Path, file: &FileEntry) -> Result<()> {
    let metadata = path.metadata().map_err(Error::io("open", path))?;
    if !metadata.is_file() || metadata.len() != file.bytes {
        let problem = format!("it has {} bytes, {MANIFEST_FILE} says {}", metadata.len(), file.bytes);
        return Err(Error::corrupt(path, problem));
    }
    Ok(())
}

/// SHA-256 of a file, in hex.
pub(crate) fn file_sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut digest = Sha256::new();
    io::copy(&mut file, &mut digest).map_err(Error::io("read", path))?;
    Ok(hex(&digest.finalize()))
}
