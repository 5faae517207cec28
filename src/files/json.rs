//! Reading JSON that others wrote: bounded size, and access by key that says which file and which key is wrong.

use super::{Error, Result, impostor};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

/// Configurations, indices and manifests stay far below this; more is a wrong or hostile file.
const LIMIT_BYTES: u64 = 64 << 20;

/// The byte order marks that editors and shells of Windows put before a text.
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const UTF16_MARK: [u8; 2] = [0xff, 0xfe];

/// Reads a whole file of at most 64 MiB, as UTF-8 without a byte order mark: JSON has none, and a mark changes nothing.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    // One byte past the limit tells "too large" even if the size that the system reports is not the truth.
    file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    match bytes.len() as u64 {
        n if n > LIMIT_BYTES => Err(Error::TooLarge { path: path.to_owned(), bytes: n, limit_bytes: LIMIT_BYTES }),
        _ => Ok(without_mark(bytes)),
    }
}

/// The text without its mark; of UTF-16, which PowerShell's `>` writes, in UTF-8.
fn without_mark(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(&UTF8_MARK) {
        bytes.drain(..UTF8_MARK.len());
    } else if let Some(rest) = bytes.strip_prefix(&UTF16_MARK) {
        let (units, odd) = rest.as_chunks::<2>();
        let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        if let (Ok(text), []) = (String::from_utf16(&units), odd) {
            return text.into_bytes();
        }
    }
    bytes
}

/// Parses bytes as one JSON object; `path` is for messages, and for a look at what the file is where it is no JSON.
pub(crate) fn parse_object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|source| match impostor::recognise(path) {
        Some(what) => Error::Impostor { path: path.to_owned(), what },
        None => Error::Json { path: path.to_owned(), source },
    })
}

/// The value of a key: the difference between absent and `null` decides about defaults in transformers.
pub(crate) enum Given<T> {
    /// The key is not there.
    Absent,
    /// The key is there and says `null`.
    Null,
    /// The key has a value.
    Value(T),
}

impl<T> Given<T> {
    /// The value, if there is one.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Given::Value(value) => Some(value),
            Given::Absent | Given::Null => None,
        }
    }

    /// Keeps `null` as "none", replaces an absent key by a default.
    pub(crate) fn absent_is(self, default: Option<T>) -> Option<T> {
        match self {
            Given::Absent => default,
            Given::Null => None,
            Given::Value(value) => Some(value),
        }
    }
}

/// One JSON object of a file, with typed access.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    /// The file, for messages.
    pub(crate) path: &'a Path,
    /// The key of this object in the file, empty at the top.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, prefix: "", map }
    }

    /// The raw value; `None` when absent or `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn full_key(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    /// An error about a key of this object.
    pub(crate) fn problem(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Key { path: self.path.to_owned(), key: self.full_key(key), problem: problem.into() }
    }

    /// A refusal of a value of this object.
    pub(crate) fn unsupported(&self, key: &str, found: impl Into<String>, supported: impl Into<String>) -> Error {
        Error::Unsupported {
            path: self.path.to_owned(),
            key: self.full_key(key),
            found: found.into(),
            supported: supported.into(),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.problem(key, format!("expected {expected}, found {}", excerpt(found)))
    }

    fn given<T>(&self, key: &str, read: impl FnOnce(&'a Value) -> Result<T>) -> Result<Given<T>> {
        match self.map.get(key) {
            None => Ok(Given::Absent),
            Some(Value::Null) => Ok(Given::Null),
            Some(value) => read(value).map(Given::Value),
        }
    }

    /// An integer within a range, told apart from absent and `null`.
    pub(crate) fn integer_given(&self, key: &str, range: RangeInclusive<i64>) -> Result<Given<i64>> {
        self.given(key, |value| self.as_integer(key, value, &range))
    }

    fn as_integer(&self, key: &str, value: &Value, range: &RangeInclusive<i64>) -> Result<i64> {
        value
            .as_i64()
            .filter(|n| range.contains(n))
            .ok_or_else(|| self.wrong(key, &format!("a whole number from {} to {}", range.start(), range.end()), value))
    }

    /// An integer that must be there.
    pub(crate) fn integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<i64> {
        self.integer_given(key, range)?.value().ok_or_else(|| self.problem(key, "missing; a whole number is expected"))
    }

    /// An integer with a default for the absent key; `null` is refused.
    pub(crate) fn integer_or(&self, key: &str, default: i64, range: RangeInclusive<i64>) -> Result<i64> {
        let given = self.integer_given(key, range)?;
        given.absent_is(Some(default)).ok_or_else(|| self.wrong(key, "a whole number", &Value::Null))
    }

    /// A finite number, told apart from absent and `null`.
    pub(crate) fn number_given(&self, key: &str) -> Result<Given<f64>> {
        self.given(key, |value| {
            value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, "a number", value))
        })
    }

    /// A finite number above zero that must be there.
    pub(crate) fn positive(&self, key: &str) -> Result<f64> {
        let number =
            self.number_given(key)?.value().ok_or_else(|| self.problem(key, "missing; a number is expected"))?;
        self.check_positive(key, number)
    }

    /// A finite number above zero with a default for the absent key.
    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64> {
        let given = self.number_given(key)?.absent_is(Some(default));
        self.check_positive(key, given.ok_or_else(|| self.wrong(key, "a number", &Value::Null))?)
    }

    fn check_positive(&self, key: &str, number: f64) -> Result<f64> {
        if number > 0.0 { Ok(number) } else { Err(self.problem(key, format!("expected more than 0, found {number}"))) }
    }

    /// A truth value; absent and `null` are `default`.
    pub(crate) fn boolean_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value)),
        }
    }

    /// A string; `None` when absent or `null`.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "a string", v))).transpose()
    }

    /// A list of strings; `None` when absent or `null`.
    pub(crate) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, "a list of strings", value);
        let list = value.as_array().ok_or_else(wrong)?;
        list.iter().map(|item| item.as_str().ok_or_else(wrong)).collect::<Result<Vec<_>>>().map(Some)
    }

    /// One integer or a list of them, within a range.
    pub(crate) fn integers_given(&self, key: &str, range: RangeInclusive<i64>) -> Result<Given<Vec<i64>>> {
        self.given(key, |value| match value.as_array() {
            None => self.as_integer(key, value, &range).map(|n| vec![n]),
            Some(list) => list.iter().map(|item| self.as_integer(key, item, &range)).collect(),
        })
    }

    /// An object within this one (at the top level only, so one level of prefix is enough); `None` when absent or `null`.
    pub(crate) fn object(&self, key: &'a str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object", value))?;
        Ok(Some(Fields { path: self.path, prefix: key, map }))
    }

    /// The values of this object.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }
}

/// A value as JSON, cut short for messages.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let text = r#"{"a": "ä🐑"}"#;
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for file in [[&UTF8_MARK, text.as_bytes()].concat(), [&UTF16_MARK, &utf16[..]].concat(), text.into()] {
            std::fs::write(&path, &file).unwrap();
            assert_eq!(read_bounded(&path).unwrap(), text.as_bytes());
        }
        for damaged in [&b"\xff\xfea"[..], b"\xff\xfe\x00\xd8", b"\xef\xbb", b"\xff"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(read_bounded(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn what_is_no_json_is_told_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let told = |file: &str| {
            std::fs::write(&path, file).unwrap();
            parse_object(&read_bounded(&path).unwrap(), &path).unwrap_err().to_string()
        };
        assert!(told("version https://git-lfs.github.com/spec/v1\n").contains("lfs pull"));
        assert!(told("{\"a\": 1").contains("truncated or damaged"));
        assert!(told("").contains("is empty"));
    }
}
