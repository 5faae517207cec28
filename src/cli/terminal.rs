//! What stdout can show: how wide it is and whether it has colours. Asked once, so that everything below it is a pure
//! function of the answer.

use std::io::IsTerminal;
use std::os::fd::AsFd;

/// A place to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Characters per line.
    pub width: usize,
    /// Whether 256 colours may be used.
    pub colours: bool,
}

/// Characters per line where nothing tells: a file, a pipe, a log.
const UNKNOWN_WIDTH: usize = 100;

impl Terminal {
    /// stdout as it is: colours on a terminal that is not dumb, unless `NO_COLOR` is set; the width of the terminal, else
    /// `COLUMNS`, else 100.
    pub fn of_stdout() -> Terminal {
        let stdout = std::io::stdout();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let size = size_of_stdout().map(|(columns, _)| columns);
        let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
        let width = size.or_else(columns).unwrap_or(UNKNOWN_WIDTH);
        Terminal { width: width.clamp(40, 400), colours: stdout.is_terminal() && !dumb && !set("NO_COLOR") }
    }
}

/// Columns and rows of the terminal that stdout is; none when it is no terminal or does not tell.
pub fn size_of_stdout() -> Option<(usize, usize)> {
    size_of(&std::io::stdout())
}

/// The same of another stream.
pub(super) fn size_of(stream: &impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}
