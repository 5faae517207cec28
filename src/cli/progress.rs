//! Progress of long work on stderr: one line that is redrawn on a terminal, a line every few seconds elsewhere.

use super::terminal::size_of;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line of progress.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    last: Option<Instant>,
    drawn: bool,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), last: None, drawn: false }
    }
}

impl Progress {
    /// Shows `line` unless one was shown a moment ago.
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        self.show_within(|_| line());
    }

    /// The same of a line that is made for so many characters: what it has more of is cut.
    pub fn show_within(&mut self, line: impl FnOnce(usize) -> String) {
        let pause = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(10) };
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        let mut stderr = std::io::stderr();
        if self.terminal {
            self.drawn = true;
            let width = size_of(&stderr).map_or(usize::MAX, |(columns, _)| columns);
            let _ = write!(stderr, "\r\u{1b}[K{}", cut(&line(width.saturating_sub(1)), width));
            let _ = stderr.flush();
        } else {
            let _ = writeln!(stderr, "{}", line(usize::MAX));
        }
    }

    /// Elsewhere than on a terminal nothing is shown for a few seconds from here on: what is soon over needs no line.
    pub fn hold(&mut self) {
        if !self.terminal {
            self.last = Some(Instant::now());
        }
    }

    /// The same, but nothing elsewhere: for work that is told of when it is done.
    pub fn show_on_terminal(&mut self, line: impl FnOnce() -> String) {
        if self.terminal {
            self.show(line);
        }
    }

    /// Ends the redrawn line, so that what follows starts on its own.
    pub fn finish(&mut self) {
        if self.drawn {
            let _ = write!(std::io::stderr(), "\r\u{1b}[K");
            let _ = std::io::stderr().flush();
        }
        self.drawn = false;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A line that a terminal of `width` columns does not wrap: what wraps cannot be redrawn.
fn cut(line: &str, width: usize) -> Cow<'_, str> {
    match line.chars().count() < width.max(2) {
        true => Cow::Borrowed(line),
        false => Cow::Owned(line.chars().take(width.max(2) - 2).chain(['…']).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn a_line_is_cut_before_a_terminal_wraps_it() {
        assert_eq!(cut("prune 1/9", 80), "prune 1/9");
        assert_eq!(cut("±±±±±±±±±±", 8), "±±±±±±…");
        assert_eq!(cut("abc", 0), "…");
    }
}
