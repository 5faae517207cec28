//! Whether the tokens of a model's folder are those of another `tokenizer.json`, that of prepared data: a vocabulary of
//! the same size tells nothing, and a loss on foreign ids looks like any other number.

use crate::files::json::read_bounded;
use std::collections::HashMap;
use std::path::Path;
use tokenizers::Tokenizer;

/// How the ids of `folder`'s `tokenizer.json` differ from those of the file `other`, in a clause to be put into a
/// sentence. `None` where every id that both know is the same token, and where one of the two cannot be read: that is
/// for those to say who need it.
pub fn vocabulary_difference(folder: &Path, other: &Path) -> Option<String> {
    let (own, other) = (read_bounded(&folder.join("tokenizer.json")).ok()?, read_bounded(other).ok()?);
    // Files of the same bytes are the rule, and a vocabulary takes a second to read.
    if own == other {
        return None;
    }
    let (own, other) = (tokens(&own)?, tokens(&other)?);
    let both: Vec<_> = own.iter().filter_map(|(id, token)| Some((id, token, other.get(id)?))).collect();
    let differing = || both.iter().filter(|(_, token, foreign)| token != foreign);
    let (id, token, foreign) = differing().min()?;
    let (count, known) = (differing().count(), both.len());
    Some(format!("{count} of {known} ids stand for other tokens (id {id} is {token:?}, there {foreign:?})"))
}

/// The token of every id.
fn tokens(json: &[u8]) -> Option<HashMap<u32, String>> {
    let vocabulary = Tokenizer::from_bytes(json).ok()?.get_vocab(true);
    Some(vocabulary.into_iter().map(|(token, id)| (id, token)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::PathBuf;

    /// A folder with a tokenizer of whole words; the last is an added token.
    fn folder(words: &[&str], added: &str) -> (tempfile::TempDir, PathBuf) {
        let vocabulary: serde_json::Map<String, Value> =
            words.iter().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect();
        let added = json!({ "id": words.len(), "content": added, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true });
        let tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [added],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": words[0] } });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        (folder, path)
    }

    #[test]
    fn ids_that_stand_for_other_tokens_are_told() {
        let (model, _) = folder(&["?", "a", "b", "c"], "<s>");
        let (_data, other) = folder(&["?", "a", "c", "b"], "<s>");
        let clause = vocabulary_difference(model.path(), &other).unwrap();
        assert_eq!(clause, "2 of 5 ids stand for other tokens (id 2 is \"b\", there \"c\")");
    }

    #[test]
    fn the_same_tokens_in_another_file_are_no_difference() {
        let (model, own) = folder(&["?", "a", "b"], "<s>");
        assert_eq!(vocabulary_difference(model.path(), &own), None);
        let written: Value = serde_json::from_slice(&std::fs::read(&own).unwrap()).unwrap();
        let (_data, other) = folder(&["?", "a", "b"], "<s>");
        std::fs::write(&other, format!("{written:#}")).unwrap();
        assert_ne!(std::fs::read(&own).unwrap(), std::fs::read(&other).unwrap());
        assert_eq!(vocabulary_difference(model.path(), &other), None);
        // Tokens that only one of them has are written in no row, or are refused by the size of the vocabulary.
        let (_data, longer) = folder(&["?", "a", "b", "<s>", "d"], "</s>");
        assert_eq!(vocabulary_difference(model.path(), &longer), None);
    }

    #[test]
    fn what_cannot_be_read_is_for_others_to_say() {
        let (model, own) = folder(&["?", "a"], "<s>");
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(vocabulary_difference(empty.path(), &own), None);
        assert_eq!(vocabulary_difference(model.path(), &empty.path().join("none")), None);
        std::fs::write(&own, "{}").unwrap();
        let (_data, other) = folder(&["?", "a"], "<s>");
        assert_eq!(vocabulary_difference(model.path(), &other), None);
    }
}
