//! Follows `metrics.jsonl` while its run writes it: each look gives the lines that were finished since the last one.
//!
//! A resumed run puts a new, shorter file in place of the old one. The old one is kept open here, so that the new one
//! cannot be mistaken for it, and reading starts over.

use crate::files::{BoundedLine, BoundedLines};
use crate::run_dir::record::LONGEST_LINE_BYTES;
use crate::train::Error;
use serde_json::Value;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a look at the file finds.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The file is another one, or shorter: what was read before no longer counts.
    Restarted,
    /// A record.
    Record(Value),
    /// A line that is no JSON, or longer than any of a run.
    Unreadable,
}

/// A metrics file that is being written by somebody else.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Where the first line begins that was not finished yet.
    offset_bytes: u64,
}

impl Follower {
    /// Follows a file that may not be there yet.
    pub fn new(path: &Path) -> Follower {
        Follower { path: path.to_path_buf(), open: None }
    }

    /// Hands over what is new. A file that is gone gives nothing.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn look(&mut self, sink: &mut impl FnMut(Event)) -> Result<(), Error> {
        let failed = |source| Error::Io { action: "read", path: self.path.clone(), source };
        let metadata = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            metadata => metadata.map_err(failed)?,
        };
        if !metadata.is_file() {
            return Err(failed(io::Error::new(ErrorKind::InvalidInput, "it is no file")));
        }
        if self.open.as_ref().is_some_and(|open| !open.is_still(&metadata)) {
            self.open = None;
            sink(Event::Restarted);
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open { file: File::open(&self.path).map_err(failed)?, offset_bytes: 0 }),
        };
        open.read(sink).map_err(failed)
    }
}

impl Open {
    fn is_still(&self, now: &Metadata) -> bool {
        let same = self.file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (now.dev(), now.ino()));
        same && now.len() >= self.offset_bytes
    }

    fn read(&mut self, sink: &mut impl FnMut(Event)) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.offset_bytes))?;
        let start_bytes = self.offset_bytes;
        let mut lines = BoundedLines::new(BufReader::new(&self.file), LONGEST_LINE_BYTES);
        while let Some(line) = lines.next_line()? {
            let event = match line {
                BoundedLine::Whole(line) => serde_json::from_slice(line).map_or(Event::Unreadable, Event::Record),
                BoundedLine::TooLong => Event::Unreadable,
                // Half a line is read again when it is whole.
                BoundedLine::Unended(_) => break,
            };
            self.offset_bytes = start_bytes + lines.position_bytes();
            sink(event);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn look(follower: &mut Follower) -> Vec<Event> {
        let mut events = Vec::new();
        follower.look(&mut |event| events.push(event)).unwrap();
        events
    }

    #[test]
    fn lines_come_once_and_only_when_they_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut follower = Follower::new(&path);
        assert_eq!(look(&mut follower), []);
        append(&path, "{\"step\":1}\n{\"st");
        assert_eq!(look(&mut follower), [Event::Record(json!({ "step": 1 }))]);
        assert_eq!(look(&mut follower), []);
        append(&path, "ep\":2}\n\u{0}broken\n{\"step\":3}\n");
        let expected = [Event::Record(json!({ "step": 2 })), Event::Unreadable, Event::Record(json!({ "step": 3 }))];
        assert_eq!(look(&mut follower), expected);
    }

    #[test]
    fn a_file_put_in_its_place_is_read_from_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        append(&path, "{\"step\":1}\n{\"step\":2}\n");
        let mut follower = Follower::new(&path);
        assert_eq!(look(&mut follower).len(), 2);
        // As a resume does it; and longer than before, so that only the file itself gives it away.
        crate::files::write_atomic(&path, b"{\"step\":1}\n{\"step\":7}\n{\"step\":8}\n").unwrap();
        let events = look(&mut follower);
        assert_eq!((events.len(), &events[0]), (4, &Event::Restarted));
        // As an editor or a full disk may do it.
        File::options().write(true).open(&path).unwrap().set_len(11).unwrap();
        assert_eq!(look(&mut follower), [Event::Restarted, Event::Record(json!({ "step": 1 }))]);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(&mut follower), []);
    }

    #[test]
    fn a_folder_in_its_place_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = Follower::new(folder.path()).look(&mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()) && error.contains("no file"), "{error}");
    }
}
