//! The command line, parsed; where a file or folder was typed without the option that takes it, the option is named, and what
//! is no number is told in words of its user.

use super::Cli;
use crate::run_dir::layout::RESOLVED_CONFIG;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::path::Path;

/// Parses the arguments of this process; says what is wrong with them and ends it (exit code 2), or prints the help that was
/// asked for.
pub fn parse() -> Cli {
    try_parse(std::env::args_os().collect()).unwrap_or_else(|error| error.exit())
}

fn try_parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(&arguments).map_err(|mut error| {
        if let Some(message) = not_a_number(&error) {
            return clap::Error::raw(error.kind(), message);
        }
        if let Some(option) = meant_option(&error, &arguments) {
            let tip = vec![format!("did you mean '{option}'?").into()];
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tip));
        }
        error
    })
}

/// What is wrong with a number, where the parser says it in words of its own.
fn not_a_number(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    };
    let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let why = std::error::Error::source(error)?.to_string();
    let expected = match why.as_str() {
        "number would be zero for non-zero type" => "expected a whole number of at least 1",
        "invalid digit found in string" | "cannot parse integer from empty string" => "expected a whole number",
        "invalid float literal" | "cannot parse float from empty string" => "expected a number",
        "number too large to fit in target type" => "the number is too large",
        _ => return None,
    };
    // `12min` is what a person says.
    let hours = if argument.starts_with("--hours") { " of hours: 0.2 are 12 minutes" } else { "" };
    Some(format!(
        "invalid value '{value}' for '{argument}': {expected}{hours}\n\nFor more information, try '--help'.\n"
    ))
}

/// The option with its value that a lone argument was meant for, if the command has it.
fn meant_option(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let ContextValue::String(found) = error.get(ContextKind::InvalidArg)? else { return None };
    if error.kind() != ErrorKind::UnknownArgument || found.starts_with('-') {
        return None;
    }
    let option = match Path::new(found) {
        path if path.extension().is_some_and(|end| end == "toml") => "config",
        path if path.join(RESOLVED_CONFIG).is_file() => "resume",
        _ => return None,
    };
    let mut command = Cli::command();
    for argument in arguments.iter().skip(1) {
        match argument.to_str().and_then(|name| command.find_subcommand(name)) {
            Some(inner) => command = inner.clone(),
            None => break,
        }
    }
    let has = command.get_arguments().any(|argument| argument.get_long() == Some(option));
    has.then(|| format!("--{option} {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let arguments = std::iter::once("shearling").chain(arguments.iter().copied()).map(OsString::from).collect();
        try_parse(arguments).unwrap_err().to_string()
    }

    #[test]
    fn a_configuration_without_its_option_names_the_option() {
        for command in [&["prune"][..], &["pretrain"], &["bench", "step"]] {
            let message = refused(&[command, &["my.toml"]].concat());
            assert!(message.contains("'my.toml'") && message.contains("did you mean '--config my.toml'?"), "{message}");
        }
        let message = refused(&["doctor", "my.toml"]);
        assert!(message.contains("'my.toml'") && !message.contains("--config"), "no option that it has not: {message}");
    }

    #[test]
    fn what_is_no_number_is_told_in_plain_words() {
        let eval = |rows: &str| refused(&["eval", "m", "--data", "d", "--rows", rows]);
        for (rows, why) in [
            ("0", "expected a whole number of at least 1"),
            ("ten", "expected a whole number"),
            ("1.5", "expected a whole number"),
            ("99999999999999999999", "the number is too large"),
        ] {
            let message = eval(rows);
            assert!(message.starts_with(&format!("error: invalid value '{rows}' for '--rows <")), "{message}");
            assert!(message.contains(why), "{rows}: {message}");
        }
        assert!(refused(&["demo", "--scale", "big"]).contains("expected a number\n"));
        assert!(
            refused(&["init", "model", "--hours", "12min"]).contains("expected a number of hours: 0.2 are 12 minutes")
        );
    }

    #[test]
    fn a_run_folder_without_its_option_names_the_option() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().display().to_string();
        assert!(!refused(&["pretrain", &run]).contains("--resume"));
        std::fs::write(folder.path().join(RESOLVED_CONFIG), "").unwrap();
        assert!(refused(&["pretrain", &run]).contains(&format!("did you mean '--resume {run}'?")));
    }
}
