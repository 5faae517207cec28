//! The records of a `metrics.jsonl` one after the other, and which of its lines are none: these are named when a run is
//! converted, since nobody else would say that the curves have gaps.

use crate::files::{BoundedLine, BoundedLines};
use crate::train::Error;
use crate::train::metrics::LONGEST_LINE_BYTES;
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
    take: &mut dyn FnMut(&Value) -> Result<(), Error>,
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
fn record(line: &BoundedLine) -> Result<Option<Value>, &'static str> {
    let (text, ended) = match line {
        BoundedLine::TooLong => return Err("too long"),
        BoundedLine::Whole(text) => (text, true),
        BoundedLine::Unended(text) => (text, false),
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let record = serde_json::from_slice::<Value>(text);
    let record = record.map_err(|_| if ended { "not JSON" } else { "cut at the end of the file" })?;
    match (record["type"].is_string(), record["step"].is_u64()) {
        (true, true) => Ok(Some(record)),
        _ => Err("without `type` and `step`"),
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
        let mut take = |record: &Value| {
            steps.push(record["step"].as_u64().unwrap());
            Ok(())
        };
        read(file.path(), &mut take, &mut dropped).unwrap();
        let named: Vec<(u64, &str)> = dropped.iter().map(|line| (line.number, line.problem)).collect();
        assert_eq!(steps, [1, 2]);
        assert_eq!(named, [(3, "not JSON"), (4, "without `type` and `step`"), (6, "cut at the end of the file")]);
    }
}
