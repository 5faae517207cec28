//! Where advice stands: string literals of Rust sources, and the code spans, fenced lines and prose of Markdown pages.
//! A reader of just as much of both languages as that takes.

/// The string literals of Rust code, without those of comments and unit tests, each with its line. Lines that end in a
/// backslash are joined as the compiler joins them.
pub fn literals(code: &str) -> Vec<(usize, String)> {
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap();
    let (mut found, mut rest, mut line) = (Vec::new(), code, 1);
    while let Some(next) = rest.chars().next() {
        let (length, literal) = match next {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), None),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), None),
            '"' => quoted(rest),
            'r' if raw_guard(rest).is_some() => raw(rest),
            '\'' => (character(rest), None),
            // A whole word, so that the `r` at the end of one starts nothing.
            _ if next.is_alphanumeric() || next == '_' => (word(rest), None),
            _ => (next.len_utf8(), None),
        };
        found.extend(literal.map(|text| (line, text)));
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

fn word(rest: &str) -> usize {
    // `b"…"` and `c"…"` are strings as well: their letter is passed by.
    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

fn quoted(rest: &str) -> (usize, Option<String>) {
    let (mut text, mut characters) = (String::new(), rest.char_indices().skip(1));
    while let Some((at, next)) = characters.next() {
        match next {
            '"' => return (at + 1, Some(text)),
            '\\' => match characters.next() {
                Some((_, '\n')) => {
                    let after = &rest[at + 2..];
                    let blank = after.chars().take_while(|c| c.is_whitespace()).count();
                    characters.by_ref().take(blank).for_each(drop);
                }
                Some((_, 'n' | 't')) => text.push('\n'),
                Some((_, other)) => text.push(other),
                None => {}
            },
            _ => text.push(next),
        }
    }
    (rest.len(), None)
}

/// The `#`s of a raw string that starts here.
fn raw_guard(rest: &str) -> Option<&str> {
    let after = rest.strip_prefix('r')?;
    let guard = &after[..after.len() - after.trim_start_matches('#').len()];
    after[guard.len()..].starts_with('"').then_some(guard)
}

fn raw(rest: &str) -> (usize, Option<String>) {
    let guard = raw_guard(rest).unwrap();
    let start = guard.len() + 2;
    let end = rest[start..].find(&format!("\"{guard}")).map_or(rest.len(), |end| start + end);
    ((end + 1 + guard.len()).min(rest.len()), Some(rest[start..end].to_string()))
}

/// A character literal, or the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |end| end + 4),
        Some((at, c)) if rest[at + c.len_utf8()..].starts_with('\'') => at + c.len_utf8() + 1,
        _ => 1,
    }
}

/// A piece of a page with the line where it starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// What is typed or printed: a line of a fenced block, or a span between backticks in prose.
    Code(usize, String),
    /// Prose, a paragraph's lines between two code spans.
    Prose(usize, String),
}

/// The pieces of a Markdown page, or of any text with backticks. Blocks in a programming language are left out, lines
/// that end in a backslash are joined.
pub fn pieces(page: &str) -> Vec<Piece> {
    let (mut found, mut prose, mut prose_line) = (Vec::new(), String::new(), 1);
    let mut lines = page.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            split_prose(prose_line, &std::mem::take(&mut prose), &mut found);
            let block: Vec<(usize, &str)> =
                lines.by_ref().take_while(|(_, line)| !line.trim_start().starts_with("```")).collect();
            if ["", "sh", "bash", "console", "text", "toml"].contains(&language.trim()) {
                found.extend(joined(&block));
            }
        } else if line.trim().is_empty() {
            split_prose(prose_line, &std::mem::take(&mut prose), &mut found);
        } else {
            if prose.is_empty() {
                prose_line = index + 1;
            }
            prose.push_str(line);
            prose.push('\n');
        }
    }
    split_prose(prose_line, &prose, &mut found);
    found
}

fn joined(block: &[(usize, &str)]) -> Vec<Piece> {
    let (mut found, mut start, mut whole) = (Vec::new(), None, String::new());
    for (index, line) in block {
        start.get_or_insert(index + 1);
        let (text, goes_on) = line.strip_suffix('\\').map_or((*line, false), |line| (line.trim_end(), true));
        whole.push_str(if whole.is_empty() { text } else { text.trim_start() });
        whole.push_str(if goes_on { " " } else { "" });
        if !goes_on {
            found.push(Piece::Code(start.take().unwrap(), std::mem::take(&mut whole)));
        }
    }
    found.extend(start.map(|start| Piece::Code(start, whole)));
    found
}

/// Every second part between backticks is code; a span may go over the end of a line.
fn split_prose(start: usize, text: &str, found: &mut Vec<Piece>) {
    let mut line = start;
    for (index, part) in text.split('`').enumerate() {
        let flat = part.replace('\n', " ");
        if !flat.trim().is_empty() {
            found.push(if index % 2 == 1 { Piece::Code(line, flat) } else { Piece::Prose(line, flat) });
        }
        line += part.matches('\n').count();
    }
}

#[test]
fn literals_are_read_and_comments_are_not() {
    let code = "// \"no\"\nlet a = \"one \\\"two\\\" \\\n    three\"; /* \"no\" */ let c = '\"';\n\
                fn f<'a>(x: &'a str) { r#\"raw \"four\"\"#; b\"five\"; '\\''; \"six\" }\n\
                #[cfg(test)]\nmod tests { \"no\" }";
    let found: Vec<(usize, String)> = literals(code);
    let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["one \"two\" three", "raw \"four\"", "five", "six"]);
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 4, 4]);
}

#[test]
fn pages_fall_into_prose_and_code() {
    let page = "Give `--a\nb` or\n\n```\nrun x \\\n  --y\nz\n```\n```python\nmodel.fit\n```\nend";
    let (code, prose) =
        (|line, text: &str| Piece::Code(line, text.into()), |line, text: &str| Piece::Prose(line, text.into()));
    assert_eq!(
        pieces(page),
        [prose(1, "Give "), code(1, "--a b"), prose(2, " or "), code(5, "run x --y"), code(7, "z"), prose(12, "end ")]
    );
}
