//! The tokenizer as preparation uses it: documents to token ids between BOS and EOS.
//!
//! The tokenizer's own template is not used, and what draws or cuts is switched off ([`crate::exact`]); BOS and EOS are
//! put on here, once per document. `tokenizer_config.json` may say that a model was trained without BOS
//! (`"add_bos_token": false`), which is believed. Its `add_eos_token` is not asked: it is about prompts, to which no
//! model's tokenizer adds EOS, and documents of one row must end somewhere. Special tokens spelt out in a text (`</s>`) are encoded as the ordinary characters they are, so no document
//! can forge the border to the next.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::encoding::BYTE_ORDER_MARK;
use super::{PrepareConfig, Progress};
use crate::dataset::TOKENIZER_FILE;
use crate::exact::make_exact;
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

/// What a file is that is sound JSON and no tokenizer: the parser would name the first comma that it did not expect.
fn other_json(bytes: &[u8]) -> Option<String> {
    let Value::Object(found) = serde_json::from_slice(bytes).ok()? else { return None };
    if found.contains_key("model") {
        return None;
    }
    let what =
        if found.contains_key("model_type") { "it is the config.json of a model" } else { "it has no \"model\"" };
    Some(format!("{what}: expected {TOKENIZER_FILE}, as transformers writes it beside a model, or the folder it is in"))
}

/// `tokenizer.json` in `path`, which may be that file or its folder.
pub(super) fn tokenizer_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_path_buf() }
}

impl Encoder {
    /// Loads the tokenizer at `path`, and BOS and EOS as `config` and the files beside it tell.
    pub(super) fn load(path: &Path, config: &PrepareConfig, progress: &dyn Progress) -> Result<Self> {
        let problem = |problem: String| Error::Tokenizer { path: path.to_path_buf(), problem };
        let bytes = std::fs::read(path).map_err(Error::io("open", path))?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|error| problem(other_json(&bytes).unwrap_or_else(|| error.to_string())))?;
        let changed = make_exact(&mut tokenizer).map_err(|error| problem(error.to_string()))?;
        if !changed.is_empty() {
            let changed = changed.join(", ");
            progress.note(&format!("{}: {changed} switched off, so that equal texts get equal tokens", path.display()));
        }
        // Ids need not be dense, so the largest counts.
        let largest = tokenizer.get_vocab(true).into_values().max();
        let vocab_size = u64::from(largest.ok_or_else(|| problem("it has no tokens".to_string()))?) + 1;
        let mut encoder = Self { tokenizer, path: path.to_path_buf(), vocab_size, bos: None, eos: None };
        if config.add_bos && config.bos_token_id.is_none() && encoder.wants_no_bos()? {
            progress.note(
                "no BOS before documents: tokenizer_config.json says \"add_bos_token\": false (--bos-id sets one)",
            );
        } else if config.add_bos {
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
                let place = format!("--{role}-id");
                return Err(Error::TokenOutOfRange { place, id: u64::from(id), vocab_size: self.vocab_size });
            }
            return Ok(id);
        }
        if let Some(name) = self.named_beside(&format!("{role}_token"))? {
            let missing = || self.problem(format!("the files beside it call {role} `{name}`, which it does not have"));
            return self.tokenizer.token_to_id(&name).ok_or_else(missing);
        }
        usual.iter().find_map(|name| self.tokenizer.token_to_id(name)).ok_or_else(|| {
            self.problem(format!("its files name no {role} token; give its id with --{role}-id, or use --no-{role}"))
        })
    }

    /// Whether the model's own configuration puts no BOS before a text.
    fn wants_no_bos(&self) -> Result<bool> {
        let beside = self.beside(COMPANIONS[0])?;
        Ok(beside.is_some_and(|json| json.get("add_bos_token").and_then(Value::as_bool) == Some(false)))
    }

    /// The token that the first companion file which speaks of `key` names.
    fn named_beside(&self, key: &str) -> Result<Option<String>> {
        for name in COMPANIONS {
            let Some(json) = self.beside(name)? else { continue };
            // Either a string, or an object that spells out how the token is matched.
            let token = json.get(key).map(|token| token.get("content").unwrap_or(token));
            if let Some(token) = token.and_then(Value::as_str) {
                return Ok(Some(token.to_string()));
            }
        }
        Ok(None)
    }

    /// The companion `name` of the tokenizer, where there is one.
    fn beside(&self, name: &str) -> Result<Option<Value>> {
        let path = self.path.with_file_name(name);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(Error::io("open", &path))?;
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
        let json = serde_json::from_slice(bytes);
        json.map(Some).map_err(|error| Error::Tokenizer { path, problem: error.to_string() })
    }
}
