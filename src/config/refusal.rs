//! A refusal of the configuration's parser, read from its message: the parser has no other form of it.

/// A refusal of the parser.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal<'a> {
    /// No table of ours has this key; those that its table has.
    UnknownKey { found: &'a str, known: Vec<&'a str> },
    /// A word that is none of a list.
    UnknownWord { found: &'a str, known: Vec<&'a str> },
    /// A key that must be there.
    MissingKey(&'a str),
    /// A value of another type, or one that the type does not hold; what was expected, as the parser names it.
    WrongValue { expected: &'a str },
    /// Anything else.
    Other,
}

impl<'a> Refusal<'a> {
    /// Reads the parser's message.
    pub(super) fn of(message: &'a str) -> Refusal<'a> {
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let starts = |begin: &str| message.starts_with(begin);
        match quoted.split_first() {
            Some((found, known)) if starts("unknown field") => Refusal::UnknownKey { found, known: known.to_vec() },
            Some((found, known)) if starts("unknown variant") => Refusal::UnknownWord { found, known: known.to_vec() },
            Some((found, _)) if starts("missing field") => Refusal::MissingKey(found),
            _ => match message.rsplit_once(", expected ") {
                Some((_, expected)) if starts("invalid ") => Refusal::WrongValue { expected },
                _ => Refusal::Other,
            },
        }
    }
}

/// The key in `` in `train.steps` ``, which ends a message about a table; empty at the top.
pub(super) fn place_in(display: &str) -> String {
    let place = display.trim_end().rsplit_once("\nin `").and_then(|(_, place)| place.strip_suffix('`'));
    place.unwrap_or_default().to_string()
}
