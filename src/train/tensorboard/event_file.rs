//! An event file: TFRecords, each an event between the checksums of its length and of itself.
//!
//! ```text
//! length u64 · masked CRC32C of the length u32 · event · masked CRC32C of the event u32      (little-endian)
//! ```
//!
//! A record goes to the system at once and whole: a reader that follows the file sees events as they happen, and where
//! a write fails (a full disk) the file is cut back to its last whole record, so that later ones can still be read.

use super::proto::{Event, FILE_VERSION, What};
use crc::{CRC_32_ISCSI, Crc, Table};
use prost::Message;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// TensorBoard takes every file with this in its name for an event file, and reads those of a folder in the order of
/// their names: the seconds that follow give them theirs.
const PREFIX: &str = "events.out.tfevents.";

/// CRC32C, Castagnoli's polynomial.
const CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// An event file that is being written.
#[derive(Debug)]
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length_bytes: u64,
}

impl EventFile {
    /// A new file in `folder` (made if need be) that sorts after all event files there.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub(super) fn create(folder: &Path, wall_time: f64) -> io::Result<EventFile> {
        std::fs::create_dir_all(folder)?;
        let now = wall_time.max(0.0) as u64;
        let seconds = newest(folder)?.map_or(now, |newest| now.max(newest.saturating_add(1)));
        let path = folder.join(format!("{PREFIX}{seconds:010}.shearling"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let mut events = EventFile { path, file, length_bytes: 0 };
        let version = What::FileVersion(FILE_VERSION.to_string());
        events.append(&Event { wall_time, step: 0, what: Some(version) })?;
        Ok(events)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an event, whole or not at all.
    ///
    /// # Errors
    /// Whatever the file system refuses; the next event may be tried all the same.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        let record = framed(&event.encode_to_vec());
        if let Err(error) = self.file.write_all_at(&record, self.length_bytes) {
            // The next record is written at the same place; this only keeps readers from the half one meanwhile.
            let _ = self.file.set_len(self.length_bytes);
            return Err(error);
        }
        self.length_bytes += record.len() as u64;
        Ok(())
    }
}

/// Seconds in the name of the last event file of a folder, ours or another writer's.
pub(super) fn newest(folder: &Path) -> io::Result<Option<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let seconds = |name: &str| {
        let digits: String = name.strip_prefix(PREFIX)?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    Ok(entries.flatten().filter_map(|entry| seconds(entry.file_name().to_str()?)).max())
}

fn framed(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let checksum = masked(event).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), event, &checksum].concat()
}

/// The checksum as TFRecords store it: a CRC of data that holds CRCs would be weak.
fn masked(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
impl EventFile {
    /// A file on a disk that is full.
    pub(super) fn on_full_disk() -> EventFile {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        EventFile { path, file, length_bytes: 0 }
    }
}

/// All events of a file, with every checksum checked.
#[cfg(test)]
pub(super) fn read(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        let (check, after) = after.split_at(4);
        assert_eq!(check, masked(length).to_le_bytes());
        let (event, after) = after.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (check, after) = after.split_at(4);
        assert_eq!(check, masked(event).to_le_bytes());
        events.push(Event::decode(event).unwrap());
        rest = after;
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    #[test]
    fn the_checksum_is_crc32c() {
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        for (bytes, expected) in [
            (&[0u8; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (&descending, 0x113f_db5c),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(CRC32C.checksum(bytes), expected);
        }
    }

    /// The first 24 bytes of any event file that TensorBoard's own writer makes, up to the wall time: the length of a
    /// version event is 24, its checksum is known.
    #[test]
    fn a_file_begins_as_tensorboards_own() {
        let folder = tempfile::tempdir().unwrap();
        let events = EventFile::create(folder.path(), 1.0).unwrap();
        let bytes = std::fs::read(events.path()).unwrap();
        assert_eq!(bytes[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
        // wall_time = 1.0, then (step 0 being left out) the version.
        assert_eq!(bytes[12..21], [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(&bytes[21..36], b"\x1a\x0dbrain.Event:2");
        assert_eq!(bytes.len(), 8 + 4 + 24 + 4);
    }

    #[test]
    fn after_a_failed_write_the_file_ends_with_its_last_whole_event() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 1.0).unwrap();
        let event = |step| Event { wall_time: 2.0, step, what: None };
        events.append(&event(1)).unwrap();
        let good = std::mem::replace(&mut events.file, EventFile::on_full_disk().file);
        let error = events.append(&event(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        events.file = good;
        events.append(&event(3)).unwrap();
        assert_eq!(read(events.path()).iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 3]);
    }

    #[test]
    fn files_of_a_folder_sort_in_the_order_of_their_making() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("events.out.tfevents.1700000009.host.1.0"), "").unwrap();
        let names = [1_700_000_005.0, 1_700_000_005.0, 1_700_000_020.0].map(|wall_time| {
            let events = EventFile::create(folder.path(), wall_time).unwrap();
            events.path().file_name().unwrap().to_str().unwrap().to_string()
        });
        assert_eq!(
            names,
            ["1700000010", "1700000011", "1700000020"].map(|seconds| format!("{PREFIX}{seconds}.shearling"))
        );
    }
}
