//! What fits a window: items on lines, and lines in its rows. No number is ever cut.

use crate::cli::wrap::wrapped;

/// Items on as few lines of `width` as hold them, none of them broken but one that is longer than a line, between words;
/// nothing without any.
pub(super) fn items_in(items: &[String], between: &str, width: usize) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let mut lines: Vec<String> = Vec::new();
    for item in items {
        match lines.last_mut() {
            Some(line) if length(line).saturating_add(length(between) + length(item)) <= width => {
                line.push_str(between);
                line.push_str(item);
            }
            _ => lines.extend(wrapped(item, width).lines().map(String::from)),
        }
    }
    lines
}

/// The first lines that fit; where some do not, the last one shown says so.
pub(super) fn fitted(lines: &[String], rows: usize) -> Vec<String> {
    let mut shown: Vec<String> = lines.iter().take(rows).cloned().collect();
    if rows > 1 && lines.len() > rows {
        shown.truncate(rows - 1);
        shown.push("…".to_string());
    }
    shown
}

/// A line of at most `width` characters. One item alone may be too long for it (a path, a name); it ends in `…` then, before
/// any number that would be cut: no part of a number passes for the whole.
pub(super) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_string();
    }
    let kept: String = line.chars().take(width.saturating_sub(1)).collect();
    let goes_on = line.chars().nth(width.saturating_sub(1)).is_some_and(is_of_number);
    let kept = if goes_on { kept.trim_end_matches(is_of_number) } else { &kept };
    format!("{kept}…")
}

/// Whether a character may be inside a number.
fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '+' | '/')
}
