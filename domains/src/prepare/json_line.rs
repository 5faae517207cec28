//! One line of JSON: the text in one field, taken out without building the rest.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::encoding;

/// The string in field `field` of the JSON object in `line`, or what is wrong with it, with the column.
pub(super) fn text_of<'a>(line: &'a [u8], field: &str) -> Result<Cow<'a, str>, String> {
    let invalid = |error: serde_json::Error| {
        if let Err(problem) = encoding::utf8(line) {
            return problem;
        }
        let message = error.to_string();
        let message = match message.split(" at line ").next().unwrap_or_default() {
            "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
                "a \\u escape is half of a surrogate pair, which is no character".to_string()
            }
            "expected value" if is_not_a_number(line, error.column()) => "NaN and Infinity are not JSON".to_string(),
            other => other.replacen("EOF while parsing", "the line ends within", 1),
        };
        format!("{message}, at column {}; expected one JSON object with `{field}` per line", error.column())
    };
    let mut json = serde_json::Deserializer::from_slice(line);
    let mut seen = Vec::new();
    let text = FieldOf { field, seen: &mut seen }.deserialize(&mut json).map_err(invalid)?;
    json.end().map_err(invalid)?;
    text.ok_or_else(|| match seen.is_empty() {
        true => "the object is empty".to_string(),
        false => format!("the object has no field `{field}`; it has {} (--text-field names another)", seen.join(", ")),
    })
}

/// Whether what begins at `column` of `line`, from 1, is a number that other writers of JSON know.
fn is_not_a_number(line: &[u8], column: usize) -> bool {
    let rest = line.get(column.saturating_sub(1)..).unwrap_or_default();
    rest.starts_with(b"NaN") || rest.starts_with(b"Infinity")
}

/// Fields that are named when the one asked for is not there.
const MOST_SEEN: usize = 8;

/// Takes one string field out of an object and skips the rest without building it.
struct FieldOf<'f> {
    field: &'f str,
    seen: &'f mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for FieldOf<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(key) = map.next_key_seed(TextSeed)? {
            if key == self.field {
                text = Some(map.next_value_seed(TextSeed)?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if text.is_none() && self.seen.len() < MOST_SEEN {
                self.seen.push(format!("`{key}`"));
            }
        }
        Ok(text)
    }
}

/// A string, borrowed from the line where it has no escapes.
struct TextSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for TextSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_field_and_skips_the_rest() {
        for (line, expected) in [
            (r#"{"text":"plain"}"#, "plain"),
            (r#" {"meta":{"text":"no"},"text":"a\nb \u00e9 \ud83d\ude00","n":[1,2]} "#, "a\nb é 😀"),
            ("{\"te\\u0078t\":\"escaped key\"}\r", "escaped key"),
        ] {
            assert_eq!(text_of(line.as_bytes(), "text").unwrap(), expected);
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_line_and_where() {
        let cases: [(&[u8], &str); 12] = [
            (br#"{"body":"x","n":1}"#, "no field `text`; it has `body`, `n`"),
            (b"{}", "the object is empty"),
            (br#"{"text":3}"#, "expected a string, at column 9"),
            (br#"{"text":null}"#, "expected a string, at column 12"),
            (br#"["text"]"#, "expected an object"),
            (br#"{"text":"x"#, "the line ends within a string, at column 10"),
            (br#"{"text":"x"} {"text":"y"}"#, "trailing characters, at column 14"),
            (br#"{"text":"a \ud83d b"}"#, "half of a surrogate pair, which is no character, at column 18"),
            (br#"{"text":"\udc00"}"#, "half of a surrogate pair"),
            (br#"{"score":NaN,"text":"x"}"#, "NaN and Infinity are not JSON, at column 10"),
            (b"{\"text\":\"caf\xe9\"}", "not valid UTF-8, at column 13 (byte 0xE9)"),
            (b"{\"text\":\"\xff\"}", "iconv"),
        ];
        for (line, word) in cases {
            let problem = text_of(line, "text").unwrap_err();
            assert!(problem.contains(word) && !problem.contains("line 1"), "{problem}");
        }
    }
}
