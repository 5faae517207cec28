//! Ids to text one at a time, as they are generated: never half a character, never a lost space.
//!
//! A token alone does not tell its text. A character may be spread over several tokens, and many tokenizers drop the space of
//! whatever token comes first. So a few earlier ids are decoded along, and what the new ids add is the new text. The end of it is
//! held back while it may be the beginning of a character.

use super::Tokenizer;
use crate::files::Result;

/// Ids that are decoded along as context.
const CONTEXT: usize = 6;
/// New ids after which text that still ends in `U+FFFD` is taken as it is: a character has at most four bytes.
const LONGEST_WAIT: usize = 16;

/// Decodes a growing sequence of ids.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special_tokens: bool,
    /// Context, then the ids whose text is not finished.
    ids: Vec<i64>,
    context: usize,
    /// Bytes of the unfinished text that were given out.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that goes on after `before` (the prompt), which is not given out.
    pub fn after(tokenizer: &'a Tokenizer, before: &[i64], skip_special_tokens: bool) -> TextStream<'a> {
        let ids = last(before, CONTEXT).to_vec();
        TextStream { tokenizer, skip_special_tokens, context: ids.len(), ids, given: 0 }
    }

    /// The text that `id` settles; often empty.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: i64) -> Result<String> {
        self.ids.push(id);
        let text = self.unfinished()?;
        let waited = self.ids.len() - self.context >= LONGEST_WAIT;
        let settled = if waited { text.as_str() } else { text.trim_end_matches(char::REPLACEMENT_CHARACTER) };
        let piece = settled.get(self.given..).unwrap_or_default().to_owned();
        if settled.len() == text.len() && (waited || !text.is_empty()) {
            self.ids = last(&self.ids, CONTEXT.max(self.ids.len() - self.context)).to_vec();
            self.context = self.ids.len();
            self.given = 0;
        } else {
            self.given = settled.len();
        }
        Ok(piece)
    }

    /// What is still held back at the end.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn take_rest(&mut self) -> Result<String> {
        let text = self.unfinished()?;
        let rest = text.get(self.given..).unwrap_or_default().to_owned();
        self.given = text.len();
        Ok(rest)
    }

    /// The text that the ids after the context add to it.
    fn unfinished(&self) -> Result<String> {
        let (context, _) = self.ids.split_at(self.context);
        let before = self.tokenizer.decode(context, self.skip_special_tokens)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special_tokens)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }
}

fn last(ids: &[i64], count: usize) -> &[i64] {
    ids.split_at(ids.len().saturating_sub(count)).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::{byte_level_tokenizer, sentence_piece_tokenizer};

    fn tokenizer(json: serde_json::Value) -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::open(dir.path()).unwrap()
    }

    /// The pieces of `ids` after `before`, the last one from `take_rest`.
    fn pieces(tokenizer: &Tokenizer, before: &[i64], ids: &[i64]) -> Vec<String> {
        let mut stream = TextStream::after(tokenizer, before, true);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.take_rest().unwrap());
        pieces
    }

    #[test]
    fn a_character_comes_whole_and_everything_comes() {
        let tokenizer = tokenizer(byte_level_tokenizer());
        let text = "a é€ 🐑🐑 \n\n  z ü";
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(ids.len(), text.len(), "one token per byte");
        let pieces = pieces(&tokenizer, &[], &ids);
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        assert_eq!(pieces.iter().filter(|piece| piece.contains('🐑')).count(), 2);
    }

    #[test]
    fn a_space_before_a_word_is_kept_except_the_one_the_tokenizer_put_there() {
        let tokenizer = tokenizer(sentence_piece_tokenizer());
        assert_eq!(pieces(&tokenizer, &[1], &[5, 5, 3, 5]), ["hi", " hi", "h", " hi", ""]);
        assert_eq!(pieces(&tokenizer, &[1, 5], &[5, 2, 5]), [" hi", "", " hi", ""]);
        let long = vec![5; 40];
        assert_eq!(pieces(&tokenizer, &long, &long).concat(), " hi".repeat(40));
    }

    #[test]
    fn what_never_becomes_a_character_is_shown_in_the_end() {
        let tokenizer = tokenizer(sentence_piece_tokenizer());
        // The first byte of three, then text; two bytes of three, then the end.
        let found = pieces(&tokenizer, &[1], &[5, 6, 5, 6, 7]);
        assert_eq!(found.concat(), "hi\u{fffd} hi\u{fffd}\u{fffd}");
        assert_eq!(found[1], "", "held back");
        let endless = pieces(&tokenizer, &[1, 5], &[7; 100]);
        assert_eq!(endless.concat(), "\u{fffd}".repeat(100));
        assert!(!endless[LONGEST_WAIT].is_empty() || !endless[LONGEST_WAIT - 1].is_empty(), "not held back for ever");
    }
}
