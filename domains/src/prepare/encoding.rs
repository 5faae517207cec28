//! Text that is not UTF-8: found, named, and how to convert it.

/// What some programs put before text in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// `bytes` as text, or where they are not UTF-8, by the column of one line.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let column = String::from_utf8_lossy(&bytes[line..at]).chars().count() + 1;
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!(
            "the text is not valid UTF-8, at column {column} (byte 0x{byte:02X}); \
             if it is Latin-1, convert the file: iconv -f ISO-8859-1 -t UTF-8"
        )
    })
}

/// The encoding that the first bytes of a text give away, where it is one of two or four bytes per character.
pub(super) fn wide_encoding(head: &[u8]) -> Option<&'static str> {
    // In this order: the mark of UTF-32 begins like that of UTF-16.
    const MARKS: [(&[u8], &str); 4] = [
        (b"\xff\xfe\0\0", "UTF-32LE"),
        (b"\0\0\xfe\xff", "UTF-32BE"),
        (b"\xff\xfe", "UTF-16LE"),
        (b"\xfe\xff", "UTF-16BE"),
    ];
    if let Some((_, name)) = MARKS.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Some(name);
    }
    // Without a mark: a first character of ASCII has a zero byte on one side, which text in UTF-8 does not begin with.
    match head {
        [0, low, 0, ..] if low.is_ascii_graphic() || low.is_ascii_whitespace() => Some("UTF-16BE"),
        [low, 0, _, 0, ..] if low.is_ascii_graphic() || low.is_ascii_whitespace() => Some("UTF-16LE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_counts_characters_of_its_line() {
        let text = ["one\nzwé ".as_bytes(), b"\xe9"].concat();
        assert!(utf8(&text).unwrap_err().contains("column 5 (byte 0xE9)"));
        assert_eq!(utf8("é".as_bytes()), Ok("é"));
    }

    #[test]
    fn wide_encodings_are_known_with_and_without_their_mark() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        assert_eq!(wide_encoding(&wide("{\"a")), Some("UTF-16LE"));
        assert_eq!(wide_encoding(&[b"\xff\xfe".to_vec(), wide("中")].concat()), Some("UTF-16LE"));
        assert_eq!(wide_encoding(b"\0{\0\""), Some("UTF-16BE"));
        assert_eq!(wide_encoding(b"\xff\xfe\0\0a\0\0\0"), Some("UTF-32LE"));
        for text in ["", "a", "ab\0c", "\u{feff}{}", "中文"] {
            assert_eq!(wide_encoding(text.as_bytes()), None, "{text:?}");
        }
    }
}
