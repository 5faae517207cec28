//! The one place that writes to stdout and stderr.

use std::io::{IsTerminal, Write};

/// Prints data to stdout and messages to stderr; a closed pipe ends the program as a success.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// With `json`, [`Printer::data`] prints the JSON form.
    pub fn new(json: bool) -> Printer {
        Printer { json }
    }

    /// The answer of a command: `text`, or one JSON object.
    pub fn data(&self, text: impl std::fmt::Display, json: impl FnOnce() -> serde_json::Value) {
        let out = if self.json { format!("{:#}\n", json()) } else { text.to_string() };
        write_stdout(&out);
    }

    /// A message for the person at the terminal.
    pub fn note(&self, message: impl std::fmt::Display) {
        let _ = writeln!(std::io::stderr(), "{message}");
    }

    /// A message that asks for attention.
    pub fn warn(&self, message: impl std::fmt::Display) {
        let mark = if colours() { "\u{1b}[33mwarning:\u{1b}[0m" } else { "warning:" };
        self.note(format!("{mark} {message}"));
    }
}

fn write_stdout(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
        // The reader went away (`| head`): nothing is left to say to it.
        std::process::exit(0);
    }
}

/// Whether stderr shows colours: a terminal, and `NO_COLOR` unset or empty.
pub fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints an error with its causes, each once.
pub fn error(error: &anyhow::Error) {
    let mark = if colours() { "\u{1b}[31merror:\u{1b}[0m" } else { "error:" };
    let mut text = format!("{mark} {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            text.push_str(&format!("\n  caused by: {cause}"));
            said.push_str(&cause);
        }
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}
