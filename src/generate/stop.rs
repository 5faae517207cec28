//! Stop strings: text ends before the first of them, and no part of one is handed out.
//!
//! They are looked for in the text and not in the ids: the same characters can be cut into tokens in many ways. The end
//! of the text is held back while it may be the beginning of one.

/// The strings of one text, and the end of it that is held back.
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty strings would stop everything and are left out.
    pub fn new(strings: &[String]) -> StopStrings {
        StopStrings { strings: strings.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece of text: what may be handed out, and whether a stop string was met.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let met = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(end) = met {
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let kept = self.strings.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What is held back when the text ends for another reason.
    pub fn take_rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(start, _)| start).rev();
    ends.into_iter().find(|end| *end > 0 && stop.get(..*end).is_some_and(|start| text.ends_with(start))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is handed out of pieces, piece by piece, and whether it stopped.
    fn run(stop: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let strings: Vec<String> = stop.iter().map(|stop| stop.to_string()).collect();
        let mut stop = StopStrings::new(&strings);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, met) = stop.push(piece);
            out.push(text);
            if met {
                return (out, true);
            }
        }
        out.push(stop.take_rest());
        (out, false)
    }

    #[test]
    fn text_ends_before_the_first_stop_string() {
        assert_eq!(run(&["END"], &["a E", "ND b"]), (vec!["a ".into(), String::new()], true));
        assert_eq!(run(&["b", "a b"], &["x a b"]), (vec!["x ".into()], true));
        assert_eq!(run(&["\n\n"], &["one\n", "two\n", "\n", "three"]).0.concat(), "one\ntwo");
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        assert_eq!(run(&["END"], &["a E", "N", "x"]), (vec!["a ".into(), "".into(), "ENx".into(), "".into()], false));
        assert_eq!(run(&["END"], &["E", "EN"]), (vec!["".into(), "E".into(), "EN".into()], false));
        assert_eq!(run(&["aab"], &["aaa", "b"]), (vec!["a".into(), "".into()], true));
        assert_eq!(run(&["→éé"], &["x→é", "→"]), (vec!["x".into(), "→é".into(), "→".into()], false));
    }

    #[test]
    fn without_stop_strings_everything_passes() {
        assert_eq!(run(&[], &["a", "b"]), (vec!["a".into(), "b".into(), "".into()], false));
        assert_eq!(run(&[""], &["a"]), (vec!["a".into(), "".into()], false));
    }
}
