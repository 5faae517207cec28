//! Lines of a file that may be anything, a binary file or one that never ends its line among them: one at a time, and
//! never more of one in memory than a bound. What the lines mean is for those who read them.

use std::io::{self, BufRead, Read};

/// One line, without its end.
#[derive(Debug, PartialEq)]
pub enum BoundedLine<'a> {
    /// It was ended.
    Whole(&'a [u8]),
    /// The last of a file that does not end with its line.
    Unended(&'a [u8]),
    /// More than the bound; it was passed over.
    TooLong,
}

/// A reader, line by line.
#[derive(Debug)]
pub struct BoundedLines<R> {
    reader: R,
    longest_bytes: u64,
    line: Vec<u8>,
    position_bytes: u64,
}

impl<R: BufRead> BoundedLines<R> {
    /// Lines of at most `longest_bytes`, their end not counted.
    pub fn new(reader: R, longest_bytes: u64) -> BoundedLines<R> {
        BoundedLines { reader, longest_bytes, line: Vec::new(), position_bytes: 0 }
    }

    /// The next line; `None` where the reader ends.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn next_line(&mut self) -> io::Result<Option<BoundedLine<'_>>> {
        self.line.clear();
        let bound = self.longest_bytes.saturating_add(1);
        let read = self.reader.by_ref().take(bound).read_until(b'\n', &mut self.line)? as u64;
        self.position_bytes += read;
        if let Some(line) = self.line.strip_suffix(b"\n") {
            return Ok(Some(BoundedLine::Whole(line)));
        }
        if read > self.longest_bytes {
            self.position_bytes += skip_line(&mut self.reader)?;
            return Ok(Some(BoundedLine::TooLong));
        }
        Ok((read > 0).then_some(BoundedLine::Unended(&self.line)))
    }

    /// Bytes that were read so far, in whole lines and the unended last one.
    pub fn position_bytes(&self) -> u64 {
        self.position_bytes
    }
}

/// Passes over the rest of a line without keeping it, and counts it.
fn skip_line(reader: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(length);
        skipped += length as u64;
        if end.is_some() || length == 0 {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line as text with its kind, and the position after it; buffers of 4 bytes are shorter than the lines.
    fn all(content: &[u8], longest_bytes: u64) -> Vec<(String, u64)> {
        let mut lines = BoundedLines::new(io::BufReader::with_capacity(4, content), longest_bytes);
        let mut found = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            let text = match line {
                BoundedLine::Whole(line) => format!("whole {}", String::from_utf8_lossy(line)),
                BoundedLine::Unended(line) => format!("unended {}", String::from_utf8_lossy(line)),
                BoundedLine::TooLong => "too long".to_string(),
            };
            found.push((text, lines.position_bytes()));
        }
        found
    }

    fn owned(lines: &[(&str, u64)]) -> Vec<(String, u64)> {
        lines.iter().map(|(text, position)| (text.to_string(), *position)).collect()
    }

    #[test]
    fn lines_come_with_their_ends_and_positions() {
        assert_eq!(all(b"", 8), []);
        assert_eq!(all(b"one\n\ntwo", 8), owned(&[("whole one", 4), ("whole ", 5), ("unended two", 8)]));
        assert_eq!(all(b"one\n", 8), owned(&[("whole one", 4)]));
    }

    #[test]
    fn what_is_longer_than_the_bound_is_passed_over() {
        assert_eq!(all(b"12345\n", 5), owned(&[("whole 12345", 6)]), "the bound itself is taken");
        assert_eq!(all(b"123456\nab\n", 5), owned(&[("too long", 7), ("whole ab", 10)]));
        assert_eq!(all(b"ab\n123456789012345\ncd", 5), owned(&[("whole ab", 3), ("too long", 19), ("unended cd", 21)]));
        assert_eq!(all(b"123456789012345", 5), owned(&[("too long", 15)]));
        assert_eq!(all(b"12345", 5), owned(&[("unended 12345", 5)]));
    }
}
