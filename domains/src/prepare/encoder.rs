//! The tokenizer as preparation uses it: documents to token ids between BOS and EOS.
//!
//! The tokenizer's own template, truncation and padding are switched off; BOS and EOS are put on here, once per
//! document. Special tokens spelt out in a text (`</s>`) are encoded as the ordinary characters they are, so no document
//! can forge the border to the next.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::PrepareConfig;
use crate::dataset::TOKENIZER_FILE;
use crate::{Error, Result};

/// Files that travel with `tokenizer.json`, where they are beside it.
pub(super) const COMPANIONS: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// Names that model families give to BOS and EOS, for tokenizers without a `tokenizer_config.json`.
const BOS_NAMES: [&str; 4] = ["<s>", "<|begin_of_text|>", "<bos>", "[BOS]"];
const EOS_NAMES: [&str; 6] = ["</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|im_end|>", "[EOS]"];

/// Encodes documents; shared by the encoding threads.
pub(super) struct Encoder {
    tokenizer: Tokenizer,
    path: PathBuf,
    pub(super) vocab_size: u64,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

/// `tokenizer.json` in `path`, which may be that file or its folder.
pub(super) fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_path_buf() }
}

impl Encoder {
    /// Loads the tokenizer at `path`, and BOS and EOS as `config` and the files beside it tell.
    pub(super) fn load(path: &Path, config: &PrepareConfig) -> Result<Self> {
        let problem = |problem: String| Error::Tokenizer { path: path.to_path_buf(), problem };
        let bytes = std::fs::read(path).map_err(Error::io("open", path))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| problem(error.to_string()))?;
        tokenizer.with_truncation(None).map_err(|error| problem(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        // Ids need not be dense, so the largest counts.
        let largest = tokenizer.get_vocab(true).into_values().max();
        let vocab_size = u64::from(largest.ok_or_else(|| problem("it has no tokens".to_string()))?) + 1;
        let mut encoder = Self { tokenizer, path: path.to_path_buf(), vocab_size, bos: None, eos: None };
        if config.add_bos {
            encoder.bos = Some(encoder.special("bos", config.bos_token_id, &BOS_NAMES)?);
        }
        if config.add_eos {
            encoder.eos = Some(encoder.special("eos", config.eos_token_id, &EOS_NAMES)?);
        }
        Ok(encoder)
    }

    /// Appends the ids of one document to `ids`, BOS and EOS included.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| self.problem(error.to_string()))?;
        let found = encoding.get_ids();
        if let Some(&id) = found.iter().find(|&&id| u64::from(id) >= self.vocab_size) {
            let place = format!("tokenizer {}", self.path.display());
            return Err(Error::TokenOutOfRange { place, id: u64::from(id), vocab_size: self.vocab_size });
        }
        ids.extend(self.bos);
        ids.extend_from_slice(found);
        ids.extend(self.eos);
        Ok(())
    }

    fn problem(&self, problem: String) -> Error {
        Error::Tokenizer { path: self.path.clone(), problem }
    }

    /// Id of a special token: configured, or named in a file beside the tokenizer, or known by its usual name.
    fn special(&self, role: &'static str, configured: Option<u32>, usual: &[&str]) -> Result<u32> {
        if let Some(id) = configured {
            if u64::from(id) >= self.vocab_size {
                let place = format!("{role}_token_id");
                return Err(Error::TokenOutOfRange { place, id: u64::from(id), vocab_size: self.vocab_size });
            }
            return Ok(id);
        }
        if let Some(name) = self.named_beside(&format!("{role}_token"))? {
            let missing = || self.problem(format!("the files beside it call {role} `{name}`, which it does not have"));
            return self.tokenizer.token_to_id(&name).ok_or_else(missing);
        }
        usual.iter().find_map(|name| self.tokenizer.token_to_id(name)).ok_or_else(|| {
            self.problem(format!("it tells no {role} token; set {role}_token_id, or add_{role} = false"))
        })
    }

    /// The token that the first companion file which speaks of `key` names.
    fn named_beside(&self, key: &str) -> Result<Option<String>> {
        for name in COMPANIONS {
            let path = self.path.with_file_name(name);
            if !path.is_file() {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(Error::io("open", &path))?;
            let json: Value = serde_json::from_slice(&bytes)
                .map_err(|error| Error::Tokenizer { path: path.clone(), problem: error.to_string() })?;
            // Either a string, or an object that spells out how the token is matched.
            let token = json.get(key).map(|token| token.get("content").unwrap_or(token));
            if let Some(token) = token.and_then(Value::as_str) {
                return Ok(Some(token.to_string()));
            }
        }
        Ok(None)
    }
}
