//! The lines of a `metrics.jsonl`, one at a time and whatever state the file is in: a line cut by a crash or a full
//! disk, a binary file of that name, a line without end. Memory is bounded by the longest line that is accepted.
//! What the lines mean is for `columns`, `evaluations` and `events`.

use crate::files::{BoundedLine, BoundedLines};
use crate::run_dir::record::{LONGEST_LINE_BYTES, Record};
use serde_json::Value;
use std::fs::File;
use std::io::{BufReader, Result};
use std::path::Path;

/// Most domains or modules of a run that are told apart, and that are taken from one record; a run has a handful.
pub(super) const MOST_GROUPS: usize = 1000;

/// What stands in a line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// A JSON object.
    Record(Box<Record>),
    /// Anything else.
    Damaged,
    /// The beginning of an object, at the end of the file: the run is writing it, or was stopped while it did.
    CutAtEnd,
    /// More than a line of a run can have.
    TooLong,
}

/// Calls `take` with every line that is not blank, and its number from 1.
pub(super) fn read_lines(path: &Path, take: &mut dyn FnMut(u64, Line)) -> Result<()> {
    let mut lines = BoundedLines::new(BufReader::new(File::open(path)?), LONGEST_LINE_BYTES);
    let mut number = 0;
    while let Some(line) = lines.next_line()? {
        number += 1;
        match line {
            BoundedLine::TooLong => take(number, Line::TooLong),
            BoundedLine::Whole(line) | BoundedLine::Unended(line) if line.trim_ascii().is_empty() => (),
            BoundedLine::Whole(line) => take(number, parse(line, true)),
            BoundedLine::Unended(line) => take(number, parse(line, false)),
        }
    }
    Ok(())
}

fn parse(line: &[u8], ended: bool) -> Line {
    match serde_json::from_slice::<Value>(line) {
        Ok(record) if record.is_object() => Line::Record(Box::new(Record::from(&record))),
        Err(_) if !ended => Line::CutAtEnd,
        _ => Line::Damaged,
    }
}

/// A foreign text, fit to be shown: no control characters, no more than a thousand characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(1000).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether a domain or a module may be called so: what cannot be shown as it is belongs to no data that was prepared here.
pub(super) fn is_name(text: &str) -> bool {
    shown(text) == text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(content: &[u8]) -> Vec<(u64, Line)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut lines = Vec::new();
        read_lines(file.path(), &mut |number, line| lines.push((number, line))).unwrap();
        lines
    }

    #[test]
    fn whole_cut_and_foreign_lines_are_told_apart() {
        let lines = lines_of(b"{\"a\":1}\n\n{\"a\":{\"a\":2}\n[1]\n\xff\xfe\n{\"b\":2}\r\n{\"c\":");
        let kinds: Vec<(u64, &str)> = lines
            .iter()
            .map(|(number, line)| match line {
                Line::Record(_) => (*number, "record"),
                Line::Damaged => (*number, "damaged"),
                Line::CutAtEnd => (*number, "cut"),
                Line::TooLong => (*number, "long"),
            })
            .collect();
        assert_eq!(kinds, [(1, "record"), (3, "damaged"), (4, "damaged"), (5, "damaged"), (6, "record"), (7, "cut")]);
        assert!(lines_of(b"").is_empty());
        assert!(matches!(lines_of(b"{\"a\":1}")[0].1, Line::Record(_)), "a whole last line needs no end");
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let mut content = vec![b'x'; LONGEST_LINE_BYTES as usize + 10];
        content.extend(b"\n{\"a\":1}\n");
        let lines = lines_of(&content);
        assert_eq!(lines[0], (1, Line::TooLong));
        assert!(matches!(lines[1], (2, Line::Record(_))));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(shown(&"x".repeat(5000)).len(), 1000);
    }
}
