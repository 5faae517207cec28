//! Where prompts come from: the command line, a file, a pipe, or a person who types one line after the other.

use crate::cli::Printer;
use crate::cli::arguments::Generate;
use anyhow::Context;
use std::fs::File;
use std::io::{BufRead, IsTerminal, Read};

/// More text than any context takes.
const LIMIT_BYTES: u64 = 64 << 20;

/// One prompt, or one per line.
#[derive(Debug, PartialEq)]
pub(super) enum Prompts {
    /// This one.
    One(String),
    /// Lines of a terminal.
    Lines,
}

impl Prompts {
    /// As the command line asks. Reads what there is to read, before a model is loaded.
    pub(super) fn of(arguments: &Generate) -> anyhow::Result<Prompts> {
        if let Some(prompt) = &arguments.prompt {
            return Ok(Prompts::One(prompt.clone()));
        }
        if let Some(path) = &arguments.prompt_file {
            let name = path.display();
            let file = File::open(path).with_context(|| format!("cannot open the prompt file {name}"))?;
            return Ok(Prompts::One(text(file, &format!("the prompt file {name}"))?));
        }
        let stdin = std::io::stdin();
        match stdin.is_terminal() {
            true if arguments.json => anyhow::bail!("--json takes one prompt; give --prompt or --prompt-file"),
            true => Ok(Prompts::Lines),
            false => Ok(Prompts::One(text(stdin.lock(), "standard input")?)),
        }
    }

    /// Calls `answer` with every prompt.
    pub(super) fn each(
        self,
        printer: &Printer,
        answer: &mut dyn FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Prompts::One(prompt) => answer(&prompt),
            Prompts::Lines => {
                printer.note("each line is a prompt of its own; Ctrl-D ends");
                lines(std::io::stdin().lock(), printer, answer)
            }
        }
    }
}

/// A prompt that fails (too long, say) does not end the conversation.
fn lines(
    from: impl BufRead,
    printer: &Printer,
    answer: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for line in from.lines() {
        let line = line.context("cannot read from the terminal")?;
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = answer(&line) {
            printer.warn(format!("{error:#}"));
        }
    }
    Ok(())
}

/// Everything of a source that is UTF-8 and not without end, but for the line feed that `echo` and editors put last.
fn text(from: impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > LIMIT_BYTES {
        anyhow::bail!("{name} has more than {LIMIT_BYTES} bytes; no model reads such a prompt");
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        anyhow::anyhow!("{name} is not UTF-8 text (byte {}); convert it", error.utf8_error().valid_up_to())
    })?;
    let line = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
    Ok(line.unwrap_or(&text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_answered_and_a_failure_is_not_the_end() {
        let mut heard = Vec::new();
        let mut answer = |prompt: &str| {
            heard.push(prompt.to_string());
            if prompt == "bad" { Err(anyhow::anyhow!("too long")) } else { Ok(()) }
        };
        lines("one\n\nbad\n two".as_bytes(), &Printer::new(false), &mut answer).unwrap();
        assert_eq!(heard, ["one", "bad", " two"]);
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_place() {
        let whole = |bytes: &[u8]| text(bytes, "it").unwrap();
        assert_eq!(whole("a é".as_bytes()), "a é");
        assert_eq!(
            (whole(b"a\n"), whole(b"a\r\n"), whole(b"a\n\n"), whole(b"\n")),
            ("a".into(), "a".into(), "a\n".into(), "".into())
        );
        assert!(
            text(&b"ab\xff"[..], "the file x")
                .unwrap_err()
                .to_string()
                .contains("the file x is not UTF-8 text (byte 2)")
        );
        assert!(text(std::io::repeat(b'a'), "it").unwrap_err().to_string().contains("more than"));
    }
}
