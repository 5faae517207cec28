//! A writer of HTML and SVG that cannot be talked into anything: tags are ours and closed by construction, every text
//! and every attribute is escaped. All markup of a report goes through it; styles and script are files of their own.

use std::fmt::{Display, Write};

/// Attributes of an element. A value is whatever can be displayed.
pub type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// Markup under construction.
#[derive(Clone, Debug, Default)]
pub struct Markup {
    text: String,
}

impl Markup {
    /// Nothing yet.
    pub fn new() -> Markup {
        Markup::default()
    }

    /// `<name …>…</name>`, the inside written by `content`.
    pub fn element(&mut self, name: &'static str, attributes: Attributes, content: impl FnOnce(&mut Markup)) {
        self.tag(name, attributes);
        self.text.push('>');
        content(self);
        let _ = write!(self.text, "</{name}>");
    }

    /// An element with nothing but text in it.
    pub fn text_element(&mut self, name: &'static str, attributes: Attributes, text: impl Display) {
        self.element(name, attributes, |inner| inner.text(text));
    }

    /// `<name …/>`: for SVG, and for the HTML elements that have no end tag.
    pub fn leaf(&mut self, name: &'static str, attributes: Attributes) {
        self.tag(name, attributes);
        self.text.push_str("/>");
    }

    /// Text, escaped.
    pub fn text(&mut self, text: impl Display) {
        escape_into(&mut self.text, &text.to_string());
    }

    /// Finished markup of our own.
    pub fn append(&mut self, other: &Markup) {
        self.text.push_str(&other.text);
    }

    /// The content of `<style>` or `<script>`, which HTML does not unescape: only for files that are part of the
    /// program and for data whose `<` are escaped by [`super::data`].
    pub(super) fn verbatim(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The markup as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The markup as text.
    pub fn into_string(self) -> String {
        self.text
    }

    fn tag(&mut self, name: &'static str, attributes: Attributes) {
        let _ = write!(self.text, "<{name}");
        for (key, value) in attributes {
            let _ = write!(self.text, " {key}=\"");
            escape_into(&mut self.text, &value.to_string());
            self.text.push('"');
        }
    }
}

/// Escapes for text and for quoted attributes. What XML has no way to write (control characters, noncharacters)
/// becomes U+FFFD.
fn escape_into(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_leave_their_place() {
        let hostile = "a\"'><script>alert(1)</script>&\0\u{1b}";
        let mut markup = Markup::new();
        markup.element("p", &[("title", &hostile)], |inner| {
            inner.text(hostile);
            inner.leaf("br", &[]);
        });
        let safe = "a&quot;&#39;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;\u{fffd}\u{fffd}";
        assert_eq!(markup.as_str(), format!("<p title=\"{safe}\">{safe}<br/></p>"));
    }
}
