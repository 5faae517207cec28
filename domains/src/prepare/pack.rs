//! Packs token ids into rows of one length and the rows into Parquet files.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::manifest::{FileEntry, Split, SplitEntry};
use crate::shard::ShardWriter;

/// Tokens in a row group, about: what is decoded at once when one of its rows is read.
const GROUP_TOKENS: usize = 1 << 20;
/// Size at which a new file is begun.
const FILE_BYTES: u64 = 512 << 20;

/// Writes one side of a domain.
pub(super) struct Packer<'a> {
    folder: &'a Path,
    domain: &'a str,
    split: Split,
    vocab_size: u64,
    sequence_length: usize,
    group_rows: usize,
    file_bytes: u64,
    /// Tokens that do not fill a row group yet.
    pending: Vec<u32>,
    /// Row groups wait in memory for no file: it is opened when the first is full.
    open: Option<OpenFile>,
    entry: SplitEntry,
    max_token_id: Option<u32>,
}

/// What a [`Packer`] wrote.
pub(super) struct Packed {
    pub(super) entry: SplitEntry,
    /// The largest id in its rows, if there are any.
    pub(super) max_token_id: Option<u32>,
}

struct OpenFile {
    name: String,
    writer: ShardWriter,
}

impl<'a> Packer<'a> {
    /// Writes into `<folder>/<domain>/`, which exists.
    pub(super) fn new(
        folder: &'a Path,
        domain: &'a str,
        split: Split,
        vocab_size: u64,
        sequence_length: usize,
    ) -> Self {
        Self {
            folder,
            domain,
            split,
            vocab_size,
            sequence_length,
            group_rows: (GROUP_TOKENS / sequence_length).max(1),
            file_bytes: FILE_BYTES,
            pending: Vec::new(),
            open: None,
            entry: SplitEntry::default(),
            max_token_id: None,
        }
    }

    /// Appends the ids of `documents` documents that hold `text_bytes` bytes of text.
    pub(super) fn push(&mut self, ids: &[u32], documents: u64, text_bytes: u64) -> Result<()> {
        self.entry.documents += documents;
        self.entry.text_bytes += text_bytes;
        self.pending.extend_from_slice(ids);
        let group = self.group_rows * self.sequence_length;
        let whole = self.pending.len() / group * group;
        if whole == 0 {
            return Ok(());
        }
        let rest = self.pending.split_off(whole);
        let full = std::mem::replace(&mut self.pending, rest);
        full.chunks(group).try_for_each(|ids| self.write_group(ids))
    }

    /// Writes the last rows and says what was written. A side without a row leaves no file.
    pub(super) fn finish(mut self) -> Result<Packed> {
        let mut pending = std::mem::take(&mut self.pending);
        let whole = pending.len() / self.sequence_length * self.sequence_length;
        self.entry.dropped_tokens = (pending.len() - whole) as u64;
        pending.truncate(whole);
        if !pending.is_empty() {
            self.write_group(&pending)?;
        }
        self.close()?;
        Ok(Packed { entry: self.entry, max_token_id: self.max_token_id })
    }

    fn write_group(&mut self, ids: &[u32]) -> Result<()> {
        let mut file = match self.open.take() {
            Some(file) => file,
            None => self.create()?,
        };
        file.writer.write_group(ids)?;
        self.entry.rows += (ids.len() / self.sequence_length) as u64;
        self.entry.tokens += ids.len() as u64;
        self.max_token_id = self.max_token_id.max(ids.iter().copied().max());
        let full = file.writer.bytes() >= self.file_bytes;
        self.open = Some(file);
        if full { self.close() } else { Ok(()) }
    }

    fn create(&self) -> Result<OpenFile> {
        let name = format!("{}/{}-{:05}.parquet", self.domain, self.split.name(), self.entry.files.len());
        let path: PathBuf = self.folder.join(&name);
        Ok(OpenFile { name, writer: ShardWriter::create(path, self.vocab_size, self.sequence_length)? })
    }

    fn close(&mut self) -> Result<()> {
        let Some(OpenFile { name, writer }) = self.open.take() else { return Ok(()) };
        let shard = writer.finish()?;
        self.entry.files.push(FileEntry {
            name,
            bytes: shard.bytes,
            rows: shard.row_groups.iter().map(|group| group.rows).sum(),
            sha256: shard.sha256,
            row_groups: shard.row_groups,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_rows_groups_and_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        let mut packer = Packer::new(folder.path(), "d", Split::Train, 1000, 4);
        (packer.group_rows, packer.file_bytes) = (3, 1);
        for start in 0..10 {
            let ids: Vec<u32> = (start * 5..start * 5 + 5).collect();
            packer.push(&ids, 1, 7).unwrap();
        }
        let Packed { entry, max_token_id } = packer.finish().unwrap();
        assert_eq!(max_token_id, Some(47), "48 and 49 fill no row");
        assert_eq!((entry.documents, entry.text_bytes), (10, 70));
        assert_eq!((entry.rows, entry.tokens, entry.dropped_tokens), (12, 48, 2));
        let names: Vec<&str> = entry.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names[..2], ["d/train-00000.parquet", "d/train-00001.parquet"]);
        assert_eq!(entry.files.iter().map(|file| file.rows).collect::<Vec<_>>(), [3, 3, 3, 3]);
    }

    #[test]
    fn nothing_to_write_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut packer = Packer::new(folder.path(), "d", Split::Validation, 1000, 4);
        packer.push(&[1, 2, 3], 1, 3).unwrap();
        let Packed { entry, max_token_id } = packer.finish().unwrap();
        assert_eq!((entry.rows, entry.dropped_tokens, entry.files.len(), max_token_id), (0, 3, 0, None));
    }
}
