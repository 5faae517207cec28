//! The tokenizer of a Hugging Face folder: text to ids and back, and the ids that begin and end a document.
//!
//! `tokenizer.json` says how text is cut and which special tokens its template adds; the files beside it say which ids are BOS and
//! EOS. The first file that says so is believed, in the order in which transformers' `generate` would find it:
//!
//! ```text
//! generation_config.json ─► config.json            ids: bos_token_id, eos_token_id (one or a list)
//! tokenizer_config.json ─► special_tokens_map.json  names: bos_token, eos_token, looked up in the vocabulary
//! ```
//!
//! Whether a text gets BOS before it and EOS after it is what `add_bos_token` and `add_eos_token` of `tokenizer_config.json` say,
//! as in transformers 5, and where they say nothing, the template of `tokenizer.json`.
//!
//! Preparing training data goes another way (`shearling_domains::prepare`), where no text may forge a special token. Here a special
//! token spelt out in a prompt is that token, as in transformers.

use crate::files::json::{Fields, parse_object, read_bounded};
use crate::files::{Error, Result, impostor};
use std::path::{Path, PathBuf};
use tokenizers::ModelWrapper;

/// Name of the file.
const TOKENIZER: &str = "tokenizer.json";
/// Files with ids, then files with names.
const ID_FILES: [&str; 2] = ["generation_config.json", "config.json"];
const NAME_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
const MAX_TOKEN: i64 = i32::MAX as i64;

/// A loaded tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<i64>,
    eos: Vec<i64>,
    /// What is put around a text, where `tokenizer_config.json` overrides the template.
    affixes: Option<Affixes>,
}

/// Ids before and after a text.
#[derive(Debug, Default, PartialEq)]
struct Affixes {
    before: Vec<i64>,
    after: Vec<i64>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of `folder` (at most 64 MiB) and the special ids beside it. Truncation, padding and dropout that the
    /// file asks for are switched off.
    ///
    /// # Errors
    /// The file is missing, damaged or too large, or a file beside it is damaged or names a token that there is not.
    pub fn open(folder: &Path) -> Result<Tokenizer> {
        let path = folder.join(TOKENIZER);
        if !path.is_file() {
            let problem = "there is no such file; copy it from the model this one was made of, or let transformers write it: \
                           AutoTokenizer.from_pretrained(SOURCE).save_pretrained(FOLDER)";
            return Err(Error::Tokenizer { path, problem: problem.to_owned() });
        }
        let mut inner = tokenizers::Tokenizer::from_bytes(read_bounded(&path)?).map_err(|error| {
            match impostor::recognise(&path) {
                Some(what) => Error::Impostor { path: path.clone(), what },
                None => problem(&path)(error),
            }
        })?;
        inner.with_truncation(None).map_err(problem(&path))?;
        inner.with_padding(None);
        without_dropout(&mut inner);
        let bos = special_ids(folder, &inner, "bos")?.first().copied();
        let eos = special_ids(folder, &inner, "eos")?;
        let mut tokenizer = Tokenizer { inner, path, bos, eos, affixes: None };
        tokenizer.affixes = tokenizer.overridden_affixes(folder)?;
        Ok(tokenizer)
    }

    /// The ids of a text. With `add_special_tokens` also those that are put around it, usually BOS before it.
    ///
    /// # Errors
    /// The tokenizer has no way to write some part of the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<i64>> {
        let affixes = self.affixes.as_ref().filter(|_| add_special_tokens);
        let template = add_special_tokens && affixes.is_none();
        let encoding = self.inner.encode_fast(text, template).map_err(problem(&self.path))?;
        let ids = encoding.get_ids().iter().map(|id| i64::from(*id));
        let Some(Affixes { before, after }) = affixes else { return Ok(ids.collect()) };
        Ok(before.iter().copied().chain(ids).chain(after.iter().copied()).collect())
    }

    /// Whether [`Tokenizer::encode`] puts BOS before a text, and one of EOS after it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn adds_special_tokens(&self) -> Result<(bool, bool)> {
        let Affixes { before, after } = match &self.affixes {
            Some(Affixes { before, after }) => Affixes { before: before.clone(), after: after.clone() },
            None => self.template_affixes()?,
        };
        let has = |ids: &[i64], id: &i64| ids.contains(id);
        Ok((self.bos.iter().any(|id| has(&before, id)), self.eos.iter().any(|id| has(&after, id))))
    }

    /// What the template puts around a text: seen on a letter, since a template does not depend on the text.
    fn template_affixes(&self) -> Result<Affixes> {
        let ids = |template| -> Result<Vec<i64>> {
            let encoding = self.inner.encode_fast("a", template).map_err(problem(&self.path))?;
            Ok(encoding.get_ids().iter().map(|id| i64::from(*id)).collect())
        };
        let (whole, text) = (ids(true)?, ids(false)?);
        let start = (0..=whole.len().saturating_sub(text.len())).find(|start| whole[*start..].starts_with(&text));
        let Some(start) = start else { return Ok(Affixes::default()) };
        Ok(Affixes { before: whole[..start].to_vec(), after: whole[start + text.len()..].to_vec() })
    }

    /// What is put around a text by the folder's `add_bos_token` and `add_eos_token`; `None` where it has neither.
    fn overridden_affixes(&self, folder: &Path) -> Result<Option<Affixes>> {
        let flag = |key: &str| -> Result<Option<bool>> {
            in_file(&folder.join(NAME_FILES[0]), |fields| match fields.get(key) {
                Some(_) => fields.boolean_or(key, false).map(Some),
                None => Ok(None),
            })
        };
        let (bos, eos) = (flag("add_bos_token")?, flag("add_eos_token")?);
        if bos.is_none() && eos.is_none() {
            return Ok(None);
        }
        let template = self.template_affixes()?;
        let chosen = |flag: Option<bool>, template: Vec<i64>, own: Option<i64>| match flag {
            None => template,
            Some(false) => Vec::new(),
            Some(true) if !template.is_empty() => template,
            Some(true) => own.into_iter().collect(),
        };
        Ok(Some(Affixes {
            before: chosen(bos, template.before, self.bos),
            after: chosen(eos, template.after, self.eos.first().copied()),
        }))
    }

    /// The token of an id as the vocabulary spells it.
    pub fn token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// The text of ids. An id without a token (vocabularies are often padded) is nothing; bytes that are no UTF-8 are `U+FFFD`.
    ///
    /// # Errors
    /// A negative id, or one beyond 32 bits.
    pub fn decode(&self, ids: &[i64], skip_special_tokens: bool) -> Result<String> {
        let narrow = |id: &i64| u32::try_from(*id).map_err(|_| self.error(format!("{id} is not a token id")));
        let ids = ids.iter().map(narrow).collect::<Result<Vec<u32>>>()?;
        self.inner.decode(&ids, skip_special_tokens).map_err(problem(&self.path))
    }

    /// The token that begins a document, if there is one.
    pub fn bos_id(&self) -> Option<i64> {
        self.bos
    }

    /// The tokens that end a document; may be empty.
    pub fn eos_ids(&self) -> &[i64] {
        &self.eos
    }

    fn error(&self, problem: String) -> Error {
        Error::Tokenizer { path: self.path.clone(), problem }
    }
}

/// Merges that are left out at random are for training a model on many spellings; one prompt has one.
fn without_dropout(tokenizer: &mut tokenizers::Tokenizer) {
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && model.dropout.is_some()
    {
        let mut model = model.clone();
        model.dropout = None;
        tokenizer.with_model(model);
    }
}

/// Wraps what the tokenizers crate says; meant for `map_err`.
fn problem(path: &Path) -> impl FnOnce(tokenizers::Error) -> Error {
    move |error| Error::Tokenizer { path: path.to_owned(), problem: error.to_string() }
}

/// The ids of a role, `"bos"` or `"eos"`, from the first file that tells.
fn special_ids(folder: &Path, tokenizer: &tokenizers::Tokenizer, role: &str) -> Result<Vec<i64>> {
    for name in ID_FILES {
        let ids = in_file(&folder.join(name), |fields| {
            Ok(fields.integers_given(&format!("{role}_token_id"), 0..=MAX_TOKEN)?.value())
        })?;
        if let Some(ids) = ids.filter(|ids| !ids.is_empty()) {
            return Ok(ids);
        }
    }
    for name in NAME_FILES {
        let key = format!("{role}_token");
        if let Some(id) = in_file(&folder.join(name), |fields| named_id(fields, &key, tokenizer))? {
            return Ok(vec![id]);
        }
    }
    Ok(Vec::new())
}

/// What `read` finds in a JSON file, nothing where there is no such file.
fn in_file<T>(path: &Path, read: impl FnOnce(&Fields) -> Result<Option<T>>) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let object = parse_object(&read_bounded(path)?, path)?;
    read(&Fields::new(path, &object))
}

/// The id of the token that `key` names: by a string, or by an object that spells out how the token is matched.
fn named_id(fields: &Fields, key: &str, tokenizer: &tokenizers::Tokenizer) -> Result<Option<i64>> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let name = value.get("content").unwrap_or(value).as_str();
    let name = name.ok_or_else(|| fields.problem(key, "expected the token as text, or an object with `content`"))?;
    let id = tokenizer.token_to_id(name).map(i64::from);
    let missing = || fields.problem(key, format!("names {name:?}, which {TOKENIZER} does not have"));
    id.ok_or_else(missing).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::{byte_level_tokenizer, sentence_piece_tokenizer};
    use serde_json::{Value, json};

    fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), sentence_piece_tokenizer().to_string()).unwrap();
        for (name, value) in files {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        dir
    }

    fn open(files: &[(&str, Value)]) -> Result<Tokenizer, String> {
        Tokenizer::open(folder(files).path()).map_err(|error| error.to_string())
    }

    #[test]
    fn text_goes_round_with_and_without_the_template() {
        let tokenizer = open(&[]).unwrap();
        let ids = tokenizer.encode("hi hi", true).unwrap();
        assert_eq!(ids, [1, 5, 5]);
        assert_eq!(tokenizer.encode("hi hi", false).unwrap(), ids[1..]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hi hi");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s> hi hi");
        // A byte the vocabulary has no character for, and an id beyond it.
        assert_eq!(tokenizer.decode(&[5, 6, 7, 8, 4000], true).unwrap(), "hi€");
        assert!(tokenizer.decode(&[-1], true).unwrap_err().to_string().contains("-1"));
    }

    #[test]
    fn truncation_and_padding_of_the_file_are_not_applied() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = byte_level_tokenizer();
        file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        file["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let tokenizer = Tokenizer::open(dir.path()).unwrap();
        assert_eq!(tokenizer.encode("abcde", false).unwrap().len(), 5);
    }

    #[test]
    fn a_prompt_is_cut_the_same_way_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = byte_level_tokenizer();
        file["model"]["vocab"]["ab"] = json!(256);
        file["model"]["merges"] = json!(["a b"]);
        file["model"]["dropout"] = json!(0.5);
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        let tokenizer = Tokenizer::open(dir.path()).unwrap();
        assert_eq!(tokenizer.encode(&"ab".repeat(40), false).unwrap(), [256; 40]);
    }

    #[test]
    fn the_first_file_that_tells_decides_about_special_ids() {
        let tokenizer = open(&[]).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (None, &[] as &[i64]));

        let map = ("special_tokens_map.json", json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}));
        let tokenizer = open(std::slice::from_ref(&map)).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[2][..]));

        let config = ("config.json", json!({"bos_token_id": 3, "eos_token_id": null}));
        let tokenizer = open(&[map.clone(), config.clone()]).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(3), &[2][..]));

        let generation = ("generation_config.json", json!({"eos_token_id": [4, 7]}));
        let tokenizer = open(&[map, config, generation]).unwrap();
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(3), &[4, 7][..]));
    }

    #[test]
    fn the_folder_decides_whether_bos_and_eos_are_put_around_a_text() {
        let named = json!({ "bos_token": "<s>", "eos_token": "</s>" });
        let with = |flags: Value| {
            let mut config = named.clone();
            config.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
            let tokenizer = open(&[("tokenizer_config.json", config)]).unwrap();
            assert_eq!(tokenizer.encode("hi", false).unwrap(), [5]);
            (tokenizer.encode("hi", true).unwrap(), tokenizer.adds_special_tokens().unwrap())
        };
        // The template of the file puts BOS.
        assert_eq!(with(json!({})), (vec![1, 5], (true, false)));
        assert_eq!(with(json!({ "add_bos_token": null })), (vec![1, 5], (true, false)));
        assert_eq!(with(json!({ "add_bos_token": true })), (vec![1, 5], (true, false)));
        assert_eq!(with(json!({ "add_bos_token": false })), (vec![5], (false, false)));
        assert_eq!(with(json!({ "add_eos_token": true })), (vec![1, 5, 2], (true, true)));
        assert_eq!(with(json!({ "add_bos_token": false, "add_eos_token": true })), (vec![5, 2], (false, true)));
        let error = open(&[("tokenizer_config.json", json!({ "add_bos_token": "no" }))]).unwrap_err();
        assert!(error.contains("add_bos_token") && error.contains("true or false"), "{error}");
        let tokenizer = open(&[]).unwrap();
        assert_eq!((tokenizer.token(1).as_deref(), tokenizer.token(-1)), (Some("<s>"), None));
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Tokenizer::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains("copy it from the model"), "{error}");
        let whole = byte_level_tokenizer().to_string();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(dir.path().join("tokenizer.json"), &whole[..cut]).unwrap();
            let error = Tokenizer::open(dir.path()).unwrap_err();
            assert!(matches!(error, Error::Tokenizer { .. } | Error::Impostor { .. }), "{error}");
        }
        for (name, value, key) in [
            ("generation_config.json", json!({"eos_token_id": "two"}), "eos_token_id"),
            ("config.json", json!({"bos_token_id": -1}), "bos_token_id"),
            ("tokenizer_config.json", json!({"eos_token": "<nothing>"}), "<nothing>"),
            ("special_tokens_map.json", json!({"bos_token": 3}), "bos_token"),
        ] {
            let error = open(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(key), "{error}");
        }
    }
}
