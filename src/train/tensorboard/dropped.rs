//! The records of a `metrics.jsonl` one after the other, and which of its lines are none: these are named when a run is
//! converted, since nobody else would say that the curves have gaps.

use crate::files::{BoundedLine, BoundedLines};
use crate::run_dir::record::{LONGEST_LINE_BYTES, Record};
use crate::train::Error;
use serde_json::Value;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// A line that gives no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedLine {
    /// From 1.
    pub number: u64,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Hands every record to `take`; what is no record goes to `dropped`.
///
/// # Errors
/// The file cannot be read, or what `take` says.
pub(super) fn read(
    path: &Path,
    take: &mut dyn FnMut(&Record) -> Result<(), Error>,
    dropped: &mut Vec<DroppedLine>,
) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "read", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let mut lines = BoundedLines::new(BufReader::new(file), LONGEST_LINE_BYTES);
    let mut number = 0;
    while let Some(line) = lines.next_line().map_err(failed)? {
        number += 1;
        match record(&line) {
            Ok(Some(record)) => take(&record)?,
            Ok(None) => (),
            Err(problem) => dropped.push(DroppedLine { number, problem }),
        }
    }
    Ok(())
}

/// The record in a line, nothing in a blank one.
fn record(line: &BoundedLine) -> Result<Option<Record>, &'static str> {
    let (text, ended) = match line {
        BoundedLine::TooLong => return Err("too long"),
        BoundedLine::Whole(text) => (text, true),
        BoundedLine::Unended(text) => (text, false),
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let line = serde_json::from_slice::<Value>(text);
    let record = Record::from(line.map_err(|_| if ended { "not JSON" } else { "cut at the end of the file" })?);
    match record.step.is_some() && !record.kind().is_empty() {
        true => Ok(Some(record)),
        false => Err("without `type` and `step`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_a_record_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "{\"type\":\"save\",\"step\":1}\n\n{\"type\":\"st\n[1]\n{\"type\":\"save\",\"step\":2}\n{\"ty",
        )
        .unwrap();
        let (mut steps, mut dropped) = (Vec::new(), Vec::new());
        let mut take = |record: &Record| {
            steps.push(record.step.unwrap());
            Ok(())
        };
        read(file.path(), &mut take, &mut dropped).unwrap();
        let named: Vec<(u64, &str)> = dropped.iter().map(|line| (line.number, line.problem)).collect();
        assert_eq!(steps, [1, 2]);
        assert_eq!(named, [(3, "not JSON"), (4, "without `type` and `step`"), (6, "cut at the end of the file")]);
    }
}
