//! The one place that writes to stdout and stderr.

use super::terminal::size_of;
use super::wrap::wrapped;
use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

/// Which rank of how many this process is, of a run of several.
static RANK: OnceLock<(usize, usize)> = OnceLock::new();

/// Speaks as one rank of several from here on: only rank 0 says anything but errors, and errors name their rank.
pub fn speak_as(rank: usize, size: usize) {
    let _ = RANK.set((rank, size));
}

/// Whether another rank speaks for this one.
pub fn is_quiet() -> bool {
    RANK.get().is_some_and(|(rank, _)| *rank > 0)
}

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
        if is_quiet() {
            return;
        }
        let out = if self.json { format!("{:#}\n", json()) } else { text.to_string() };
        write_stdout(&out);
    }

    /// Text of a command that hands it out as it comes; with `json` nothing, the object has it whole. A terminal is shown
    /// no control characters, a pipe gets the text as it is.
    pub fn piece(&self, text: &str) {
        if !self.json {
            write_stdout(&fit_for(std::io::stdout().is_terminal(), text));
        }
    }

    /// A message for the person at the terminal, whose long lines are broken between words there.
    pub fn note(&self, message: impl std::fmt::Display) {
        if is_quiet() {
            return;
        }
        let _ = writeln!(std::io::stderr(), "{}", for_stderr(message.to_string()));
    }

    /// A message that asks for attention.
    pub fn warn(&self, message: impl std::fmt::Display) {
        if is_quiet() {
            return;
        }
        let text = for_stderr(format!("warning: {message}"));
        let _ = writeln!(std::io::stderr(), "{}", marked(text, "warning:", "33"));
    }
}

/// Text that nobody has looked at, such as a model's: on a terminal whatever would steer it is U+FFFD, but for line feed
/// and tab.
fn fit_for(terminal: bool, text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    match terminal && text.contains(steers) {
        true => Cow::Owned(text.replace(steers, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

fn write_stdout(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(cause) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        shearling_staging::remove_all();
        // The reader went away (`| head`): nothing is left to say to it. Anything else, such as a full disk, is an error.
        if cause.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        error(&anyhow::Error::new(cause).context("cannot write the result to stdout"));
        std::process::exit(2);
    }
}

/// The text of an answer as stdout shows it: broken for the width of a terminal, whole in a file or a pipe.
pub fn for_stdout(text: String) -> String {
    match size_of(&std::io::stdout()) {
        Some((columns, _)) => wrapped(&text, columns),
        None => text,
    }
}

/// A message as stderr shows it: broken for the width of a terminal, whole in a file or a pipe.
fn for_stderr(message: String) -> String {
    match size_of(&std::io::stderr()) {
        Some((columns, _)) => wrapped(&message, columns),
        None => message,
    }
}

/// `mark`, which `text` begins with, in a colour where there are colours.
fn marked(text: String, mark: &str, colour: &str) -> String {
    match text.strip_prefix(mark) {
        Some(rest) if colours() => format!("\u{1b}[{colour}m{mark}\u{1b}[0m{rest}"),
        _ => text,
    }
}

/// Whether stderr shows colours: a terminal, and `NO_COLOR` unset or empty.
pub fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints an error with its causes, each once.
pub fn error(error: &anyhow::Error) {
    let mut said = brief(&error.to_string()).to_string();
    let mark = RANK.get().map_or("error:".to_string(), |(rank, size)| format!("error (rank {rank} of {size}):"));
    let mut text = format!("{mark} {said}");
    for cause in error.chain().skip(1) {
        let cause = brief(&cause.to_string()).to_string();
        if !said.contains(&cause) {
            text.push_str(&format!("\n  caused by: {cause}"));
            said.push_str(&cause);
        }
    }
    if said.contains("out of memory") {
        text.push_str("\n  hint: lower train.micro_batch_rows; `shearling plan` says what takes the memory");
    }
    let _ = writeln!(std::io::stderr(), "{}", marked(for_stderr(text), &mark, "31"));
}

/// A message of libtorch without the stack of C++ calls that follows it.
fn brief(message: &str) -> &str {
    message.split("\nException raised from").next().unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::{brief, fit_for};

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        let text = "a\u{1b}]0;title\u{7}\r\n\tb\u{9b}2J é\u{7f}";
        assert_eq!(fit_for(true, text), "a\u{fffd}]0;title\u{fffd}\u{fffd}\n\tb\u{fffd}2J é\u{fffd}");
        assert_eq!(fit_for(false, text), text);
        assert_eq!(fit_for(true, "plain\n"), "plain\n");
    }

    #[test]
    fn the_stack_of_a_libtorch_error_is_not_shown() {
        let x = tch::Tensor::from_slice(&[1.0f32, 2.0]);
        let error = x.f_view([3]).unwrap_err().to_string();
        assert!(error.contains("\nException raised from"), "{error}");
        assert!(brief(&error).contains("invalid for input of size 2") && !brief(&error).contains("raised from"));
    }
}
