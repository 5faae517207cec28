//! The spelling of special tokens, for people: read from the list of added tokens alone, so that no tokenizer has to be
//! built to show two of them.

use std::fs;

use serde::Deserialize;

use crate::Dataset;

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

impl Dataset {
    /// The added token with this id, such as `<s>`; `None` when the tokenizer's file cannot be read or lists no such
    /// token.
    pub fn added_token(&self, id: u32) -> Option<String> {
        let file: TokenizerJson = serde_json::from_slice(&fs::read(self.tokenizer_path()).ok()?).ok()?;
        file.added_tokens.into_iter().find(|token| token.id == id).map(|token| token.content)
    }
}
