//! Tokenizers made exact: one text, one sequence of ids, none cut off.
//!
//! A `tokenizer.json` may ask for things that serve training of a tokenizer's own model or a batch of prompts: dropout
//! of merges (BPE) or sampling of pieces (Unigram), by which equal texts get other ids each time, and truncation and
//! padding, by which long texts lose their end and short ones get one. Everything here that encodes switches them off.

use tokenizers::{ModelWrapper, Tokenizer};

/// Switches off what draws or cuts, and says what that was.
pub(crate) fn make_exact(tokenizer: &mut Tokenizer) -> tokenizers::Result<Vec<String>> {
    let mut changed = Vec::new();
    if let Some(truncation) = tokenizer.get_truncation() {
        changed.push(format!("truncation to {} tokens", truncation.max_length));
        tokenizer.with_truncation(None)?;
    }
    if tokenizer.get_padding().is_some() {
        changed.push("padding".to_string());
        tokenizer.with_padding(None);
    }
    match tokenizer.get_model() {
        ModelWrapper::BPE(model) if model.dropout.is_some_and(|dropout| dropout > 0.0) => {
            changed.push(format!("dropout of {}", model.dropout.unwrap_or_default()));
            let mut model = model.clone();
            model.dropout = None;
            tokenizer.with_model(model);
        }
        ModelWrapper::Unigram(model) if model.alpha.is_some() => {
            changed.push("sampling of pieces".to_string());
            let mut model = model.clone();
            (model.alpha, model.nbest_size) = (None, None);
            tokenizer.with_model(model);
        }
        _ => {}
    }
    // Special tokens spelt out in a text are its characters.
    tokenizer.set_encode_special_tokens(true);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whatever_draws_or_cuts_is_switched_off_and_named() {
        let vocab = json!({ "a": 0, "b": 1, "ab": 2, "abab": 3 });
        let json = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": null,
            "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
            "padding": { "strategy": { "Fixed": 64 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "a" },
            "model": { "type": "BPE", "dropout": 0.5, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocab, "merges": ["a b", "ab ab"] }
        });
        let mut tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        let changed = make_exact(&mut tokenizer).unwrap();
        assert_eq!(changed, ["truncation to 2 tokens", "padding", "dropout of 0.5"]);
        let text = "abab".repeat(20);
        for _ in 0..20 {
            assert_eq!(tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids(), [3; 20]);
        }
        assert!(make_exact(&mut tokenizer).unwrap().is_empty());
    }
}
