//! Lines of a file that may be anything: what holds for every file of questions.

use crate::eval::{Error, Result};
use crate::files::{BoundedLine, BoundedLines};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Longer than any question.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Larger than any file of questions.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A file, line by line.
pub(super) struct Lines {
    lines: BoundedLines<BufReader<File>>,
    path: PathBuf,
    number: u64,
}

impl Lines {
    pub(super) fn open(path: &Path) -> Result<Lines> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::file(path, "it is a folder; name the file of questions in it"));
        }
        let lines = BoundedLines::new(BufReader::new(file), MAX_LINE_BYTES);
        Ok(Lines { lines, path: path.to_owned(), number: 0 })
    }

    /// The next line that is not blank, with its number from 1; `None` at the end.
    pub(super) fn next_line(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        while let Some(line) = self.lines.next_line().map_err(Error::io("read", &self.path))? {
            self.number += 1;
            let (BoundedLine::Whole(line) | BoundedLine::Unended(line)) = line else {
                let problem =
                    format!("line {} has more than {MAX_LINE_BYTES} bytes: no file of questions", self.number);
                return Err(Error::file(&self.path, problem));
            };
            let line = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.number == 1).unwrap_or(line);
            let line = line.trim_ascii().to_vec();
            self.check_size()?;
            if !line.is_empty() {
                return Ok(Some((self.number, line)));
            }
        }
        Ok(None)
    }

    fn check_size(&self) -> Result<()> {
        if self.lines.position_bytes() > MAX_FILE_BYTES {
            let problem = format!("it has more than {MAX_FILE_BYTES} bytes; use --limit or split it");
            return Err(Error::file(&self.path, problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, bytes).unwrap();
        let mut lines = Lines::open(&path)?;
        std::iter::from_fn(|| lines.next_line().transpose()).collect()
    }

    #[test]
    fn blank_lines_are_counted_and_left_out() {
        let found = all(b"\xef\xbb\xbfone\r\n\n  \ntwo").unwrap();
        assert_eq!(found, [(1, b"one".to_vec()), (4, b"two".to_vec())]);
        assert_eq!(all(b"").unwrap(), []);
    }

    #[test]
    fn a_file_that_never_ends_its_line_is_refused() {
        let problem = all(&vec![b'x'; MAX_LINE_BYTES as usize + 2]).unwrap_err().to_string();
        assert!(problem.contains("line 1 has more than"), "{problem}");
        let folder = tempfile::tempdir().unwrap();
        assert!(Lines::open(folder.path()).err().unwrap().to_string().contains("folder"));
        assert!(Lines::open(&folder.path().join("none")).err().unwrap().to_string().contains("cannot open"));
    }
}
