//! A context and what may follow it as tokens, cut in the way of the harness.
//!
//! ```text
//! context "Question: …\nAnswer:"      continuation " " + choice
//! whole   = encode(context + continuation)        special tokens as the tokenizer's template adds them
//! targets = whole[len(encode(context)) ..]        at the end of   encode(context) + targets
//! ```
//!
//! Context and continuation are encoded together, so that a token across a space is the one that training saw. Space at
//! the end of the context goes to the continuation. A text that begins with BOS as text gets no second one, an empty
//! context is BOS (or EOS, without BOS). What is longer than the model takes loses tokens on the left.

use crate::files::Error;
use crate::hf::Tokenizer;

/// Tokens of a context with one continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Context and targets, at most one token more than the model takes: the last is only predicted.
    pub ids: Vec<i64>,
    /// How many at the end are scored, at least one.
    pub targets: usize,
}

/// Makes requests for one model.
pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// What an empty context becomes, and how it is written.
    prefix: Option<(i64, String)>,
    max_tokens: usize,
    vocab_size: i64,
}

/// Why there is no request: the tokenizer failed, or the text does not fit.
pub(super) enum Unfit {
    Tokenizer(Error),
    Text(String),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Unfit {
        Unfit::Tokenizer(error)
    }
}

impl<'a> Encoder<'a> {
    /// For a model that takes `max_tokens` tokens and has `vocab_size`.
    pub(super) fn new(tokenizer: &'a Tokenizer, max_tokens: i64, vocab_size: i64) -> Result<Encoder<'a>, Error> {
        let id = tokenizer.bos_id().or_else(|| tokenizer.eos_ids().first().copied());
        let prefix = id.map(|id| Ok::<_, Error>((id, tokenizer.decode(&[id], false)?))).transpose()?;
        Ok(Encoder { tokenizer, prefix, max_tokens: max_tokens.max(0) as usize, vocab_size })
    }

    /// `context` followed by `continuation`.
    pub(super) fn request(&self, context: &str, continuation: &str) -> Result<Request, Unfit> {
        let (mut ids, targets) = match context.is_empty() {
            true => self.without_context(continuation)?,
            false => self.pair(context, continuation)?,
        };
        if ids.is_empty() {
            return Err(Unfit::Text("the context before it has no tokens".to_string()));
        }
        if targets.is_empty() {
            return Err(Unfit::Text("it adds no token to its context".to_string()));
        }
        if targets.len() > self.max_tokens {
            let (found, most) = (targets.len(), self.max_tokens);
            return Err(Unfit::Text(format!(
                "it has {found} tokens, the model takes {most} (max_position_embeddings)"
            )));
        }
        let count = targets.len();
        ids.extend(targets);
        ids.drain(..ids.len().saturating_sub(self.max_tokens + 1));
        if let Some(id) = ids.iter().find(|id| !(0..self.vocab_size).contains(*id)) {
            let most = self.vocab_size;
            return Err(Unfit::Text(format!(
                "the tokenizer gives token {id}, the model has a vocabulary of {most}: its tokenizer.json is another model's"
            )));
        }
        Ok(Request { ids, targets: count })
    }

    fn pair(&self, context: &str, continuation: &str) -> Result<(Vec<i64>, Vec<i64>), Error> {
        let kept = context.trim_end_matches(is_space);
        let (_, moved) = context.split_at(kept.len());
        let whole = self.encode(&format!("{kept}{moved}{continuation}"))?;
        let context = self.encode(kept)?;
        let targets = whole.get(context.len()..).unwrap_or_default().to_vec();
        Ok((context, targets))
    }

    fn without_context(&self, continuation: &str) -> Result<(Vec<i64>, Vec<i64>), Unfit> {
        let Some((prefix, _)) = self.prefix else {
            return Err(Unfit::Text(
                "an empty context needs a BOS or EOS token; the tokenizer has neither".to_string(),
            ));
        };
        let mut ids = self.tokenizer.encode(continuation, false)?;
        match ids.first() == Some(&prefix) {
            true => Ok((ids.drain(..1).collect(), ids)),
            false => Ok((vec![prefix], ids)),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<i64>, Error> {
        let begun = self.prefix.as_ref().is_some_and(|(_, written)| text.starts_with(written.as_str()));
        self.tokenizer.encode(text, !begun)
    }
}

/// What Python takes as space.
pub(super) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(name: &str) -> Tokenizer {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lm-eval").join(name);
        Tokenizer::open(&folder).unwrap()
    }

    fn request(name: &str, max_tokens: i64, context: &str, continuation: &str) -> Result<Request, String> {
        let tokenizer = tokenizer(name);
        let encoder = Encoder::new(&tokenizer, max_tokens, 400).unwrap();
        encoder.request(context, continuation).map_err(|unfit| match unfit {
            Unfit::Tokenizer(error) => error.to_string(),
            Unfit::Text(problem) => problem,
        })
    }

    #[test]
    fn targets_are_what_the_whole_has_beyond_the_context() {
        for name in ["byte-level", "pieces"] {
            let whole = tokenizer(name).encode("Question: wool?\nAnswer: the sheep", true).unwrap();
            let context = tokenizer(name).encode("Question: wool?\nAnswer:", true).unwrap();
            let found = request(name, 100, "Question: wool?\nAnswer:", " the sheep").unwrap();
            assert_eq!((found.ids[0], &found.ids), (1, &whole), "{name}: BOS, and the tokens of the whole");
            assert_eq!(found.targets, whole.len() - context.len());
            // Space at the end of the context belongs to what follows.
            assert_eq!(request(name, 100, "Question: wool?\nAnswer: ", "the sheep").unwrap(), found);
        }
    }

    #[test]
    fn long_contexts_lose_their_beginning_and_targets_never_do() {
        let whole = request("pieces", 100, "one two three four five", " six seven").unwrap();
        let most = whole.targets as i64 + 3;
        let cut = request("pieces", most, "one two three four five", " six seven").unwrap();
        let last = whole.ids.len() - (most as usize + 1);
        assert!(last > 1, "something is cut");
        assert_eq!(cut.ids, whole.ids[last..], "the last one is predicted, not read");
        assert_eq!(cut.targets, whole.targets);
        assert!(request("pieces", whole.targets as i64, "one two", " six seven").is_ok());
        let problem = request("pieces", whole.targets as i64 - 1, "one two", " six seven").unwrap_err();
        assert!(problem.contains("tokens, the model takes"), "{problem}");
    }

    #[test]
    fn an_empty_context_is_bos_and_a_written_bos_is_enough() {
        let plain = tokenizer("byte-level").encode(" wool", false).unwrap();
        let found = request("byte-level", 100, "", " wool").unwrap();
        assert_eq!((found.ids, found.targets), ([&[1], &plain[..]].concat(), plain.len()));
        let written = request("byte-level", 100, "<s>sheep", " wool").unwrap();
        assert_eq!(written.ids.iter().filter(|id| **id == 1).count(), 1);
    }

    #[test]
    fn what_cannot_be_asked_says_why() {
        assert!(request("pieces", 100, "sheep", "").unwrap_err().contains("adds no token"));
        let tokenizer = tokenizer("pieces");
        let encoder = Encoder::new(&tokenizer, 100, 50).unwrap();
        let Err(Unfit::Text(problem)) = encoder.request("sheep", " wool") else { panic!("ids beyond 50") };
        assert!(problem.contains("vocabulary of 50") && problem.contains("tokenizer.json"), "{problem}");
    }
}
