//! How many bytes of text each token stands for: what turns a loss per token into bits per byte, by which models and
//! data with different tokenizers can be compared.
//!
//! Text is not decoded, because a row may begin and end inside a character: every token of the tokenizers that language
//! models use stands for a fixed string of bytes, and their lengths add up exactly wherever a row is cut. Three ways to
//! write those bytes as a token are known:
//!
//! ```text
//! byte-level (GPT-2, Llama 3, Qwen)    every byte is one letter of an alphabet of 256       "Ġthe"    4 bytes
//! pieces (Llama 2, Mistral)            UTF-8 with ▁ for a space                             "▁the"    4 bytes
//!                                      and bytes without a piece by their number            "<0x0A>"  1 byte
//! ```
//!
//! Which one a tokenizer uses is not read from its file but tried: the tokens of a text with many scripts must add up
//! to the length of that text. A tokenizer that makes text shorter or longer (compatibility forms, letters that it does
//! not have) has no such lengths.
//!
//! BOS, EOS and other special tokens stand for no text. Where the tokenizer puts a space before each text, that space
//! is no byte of the text.

use std::collections::HashMap;

use tokenizers::Tokenizer;

use crate::exact::make_exact;

/// Letters, marks, numbers and spaces that break wrong guesses: several scripts, precomposed, so that no usual normalisation changes it.
const PROBE: &str = "Word naïve Ωμέγα 中文字 🙂🏽 x1 22 333\n\tend  of   it. Ünder_score-ed «q» ġĠ";

/// Bytes of text behind every token of a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBytes {
    tokens: HashMap<u32, TokenText>,
    /// Whether every text is encoded with a space before it.
    space_before_text: bool,
}

/// What one token stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TokenText {
    bytes: u32,
    special: bool,
    starts_with_space: bool,
}

/// How a tokenizer writes bytes.
#[derive(Clone, Copy)]
enum Spelling {
    ByteLevel,
    Pieces,
}

impl TokenBytes {
    /// The lengths of `tokenizer`'s tokens; `None` if they do not add up to the length of a text.
    pub fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let mut tokenizer = tokenizer.clone();
        make_exact(&mut tokenizer).ok()?;
        [Spelling::ByteLevel, Spelling::Pieces].into_iter().find_map(|spelling| Self::spelled(&tokenizer, spelling))
    }

    fn spelled(tokenizer: &Tokenizer, spelling: Spelling) -> Option<Self> {
        let vocabulary = tokenizer.get_vocab(true).into_iter();
        let mut tokens: HashMap<u32, TokenText> = vocabulary.map(|(token, id)| (id, spelling.text(&token))).collect();
        let added_tokens = tokenizer.get_added_tokens_decoder().into_iter();
        tokens.extend(added_tokens.map(|(id, token)| (id, added(&token.content, token.special))));
        let mut lengths = Self { tokens, space_before_text: false };
        let probe = tokenizer.encode_fast(PROBE, false).ok()?;
        let found: u64 = probe.get_ids().iter().map(|&id| u64::from(lengths.text(id).bytes)).sum();
        lengths.space_before_text = found == PROBE.len() as u64 + 1;
        (lengths.space_before_text || found == PROBE.len() as u64).then_some(lengths)
    }

    fn text(&self, id: u32) -> TokenText {
        self.tokens.get(&id).copied().unwrap_or_default()
    }

    /// Bytes of text behind `ids` after the first, which only says what they follow. An id without a token counts 0.
    pub fn after_first(&self, ids: &[u32]) -> u64 {
        ids.windows(2).map(|pair| self.following(pair[0], pair[1])).sum()
    }

    /// Bytes of text behind `id` where it stands after `previous`.
    fn following(&self, previous: u32, id: u32) -> u64 {
        let text = self.text(id);
        let added = self.space_before_text && self.text(previous).special && text.starts_with_space;
        u64::from(text.bytes).saturating_sub(u64::from(added))
    }
}

impl Spelling {
    fn text(self, token: &str) -> TokenText {
        match self {
            Self::ByteLevel if token.chars().all(is_byte_letter) => TokenText {
                bytes: length(token.chars().count()),
                special: false,
                starts_with_space: token.starts_with('Ġ'),
            },
            Self::Pieces if is_byte_piece(token) => {
                TokenText { bytes: 1, special: false, starts_with_space: token == "<0x20>" }
            }
            Self::Pieces => added(&token.replace('▁', " "), false),
            Self::ByteLevel => added(token, false),
        }
    }
}

/// A token that is written as it is.
fn added(content: &str, special: bool) -> TokenText {
    let bytes = if special { 0 } else { length(content.len()) };
    TokenText { bytes, special, starts_with_space: content.starts_with(' ') }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The letters by which a byte-level tokenizer writes bytes: those of Latin-1 that can be seen stand for themselves, the
/// other 68 bytes are the letters from U+0100 on.
fn is_byte_letter(letter: char) -> bool {
    matches!(letter, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' | '\u{100}'..='\u{143}')
}

/// `<0x00>` to `<0xFF>`.
fn is_byte_piece(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer(value: &serde_json::Value) -> Tokenizer {
        Tokenizer::from_bytes(value.to_string().as_bytes()).unwrap()
    }

    /// BPE without merges over `vocab`.
    fn model(vocab: Vec<String>, byte_fallback: bool) -> serde_json::Value {
        let vocab: serde_json::Map<_, _> = vocab.into_iter().enumerate().map(|(id, t)| (t, json!(id))).collect();
        json!({ "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": byte_fallback, "unk_token": "<unk>",
                "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "ignore_merges": false })
    }

    fn special(id: u32, content: &str) -> serde_json::Value {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false })
    }

    /// Llama 2's way: ▁ before the text and for spaces, bytes by number for what has no piece.
    fn pieces(byte_fallback: bool) -> Tokenizer {
        let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
        vocab.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        vocab.extend("▁abcdefghijklmnopqrstuvwxyzé中".chars().map(String::from));
        tokenizer(&json!({
            "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] },
            "decoder": null, "model": model(vocab, byte_fallback),
        }))
    }

    fn byte_level(normalizer: serde_json::Value) -> Tokenizer {
        let mut vocab: Vec<String> = vec!["<s>".to_string(), "</s>".to_string()];
        let mut alphabet: Vec<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        vocab.extend(alphabet.into_iter().map(String::from));
        tokenizer(&json!({
            "version": "1.0", "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst",
            "stride": 0 }, "padding": null, "post_processor": null, "normalizer": normalizer,
            "added_tokens": [special(0, "<s>"), special(1, "</s>")],
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            "decoder": null, "model": model(vocab, false),
        }))
    }

    /// What preparation makes of the texts, in rows of `length` that overlap by the token that is only context.
    fn counted(tokenizer: &Tokenizer, texts: &[&str], length: usize) -> u64 {
        let lengths = TokenBytes::of(tokenizer).unwrap();
        let mut plain = tokenizer.clone();
        plain.with_truncation(None).unwrap();
        let [bos, eos] = ["<s>", "</s>"].map(|name| tokenizer.token_to_id(name).unwrap());
        let mut ids = vec![eos];
        for text in texts {
            ids.push(bos);
            ids.extend_from_slice(plain.encode_fast(*text, false).unwrap().get_ids());
            ids.push(eos);
        }
        let rows = (0..ids.len() - 1).step_by(length);
        rows.map(|start| lengths.after_first(&ids[start..(start + length + 1).min(ids.len())])).sum()
    }

    #[test]
    fn lengths_add_up_to_the_text_wherever_rows_are_cut() {
        let texts = ["plain words", " a space first", "▁ itself, naïve 中文 🙂🙂", "\n", "x"];
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        for (name, tokenizer) in [("pieces", pieces(true)), ("byte level", byte_level(json!(null)))] {
            for length in [1, 2, 3, 7, 1000] {
                // ▁ in the text is a space to a tokenizer of pieces, which is two bytes shorter.
                let lost = if name == "pieces" { 2 } else { 0 };
                assert_eq!(counted(&tokenizer, &texts, length), (bytes - lost) as u64, "{name}, rows of {length}");
            }
        }
    }

    #[test]
    fn a_tokenizer_that_loses_or_lengthens_text_has_no_lengths() {
        assert_eq!(TokenBytes::of(&pieces(false)), None, "letters without a token");
        assert_eq!(TokenBytes::of(&byte_level(json!({ "type": "NFD" }))), None);
        assert!(TokenBytes::of(&byte_level(json!({ "type": "NFC" }))).is_some(), "text usually has this form already");
    }

    #[test]
    fn special_tokens_and_unknown_ids_are_no_text() {
        let tokenizer = pieces(true);
        let lengths = TokenBytes::of(&tokenizer).unwrap();
        let a = tokenizer.token_to_id("a").unwrap();
        assert_eq!(lengths.after_first(&[a, 1, 2, 0, 60_000, a]), 1);
        assert_eq!(lengths.after_first(&[a]), 0);
        assert_eq!(lengths.after_first(&[]), 0);
    }

    #[test]
    fn the_256_letters_are_those_of_the_library() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let ours = ('\u{0}'..='\u{2ff}').filter(|letter| is_byte_letter(*letter));
        assert_eq!(ours.collect::<std::collections::HashSet<_>>(), alphabet.into_iter().collect());
    }
}
