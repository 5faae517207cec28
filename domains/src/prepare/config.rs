//! What to prepare, from which text, with which tokenizer: plain data with checks.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::manifest::{MAX_SEQUENCE_LENGTH, check_domain_name};
use crate::{Error, Result};

/// Smallest vocabulary that a tokenizer can be trained for: 256 bytes and two special tokens.
pub const MIN_TRAINED_VOCAB: usize = 258;

/// The text of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainSource {
    /// Name of the domain: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Files, and folders whose files are all taken, in the order of their names.
    pub paths: Vec<PathBuf>,
}

/// Where the tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerSource {
    /// A `tokenizer.json` of Hugging Face, or a folder that holds one.
    File(PathBuf),
    /// A byte-level BPE of this many tokens, trained on the text itself.
    Train(usize),
}

/// Settings of [`prepare`](crate::prepare()).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareConfig {
    /// The domains; proportions will follow their order.
    pub domains: Vec<DomainSource>,
    /// Folder to write; it must not exist, or be empty.
    pub output: PathBuf,
    /// The tokenizer.
    pub tokenizer: TokenizerSource,
    /// Tokens per row.
    pub sequence_length: usize,
    /// JSON field or Parquet column that holds the text.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// Put BOS before each document, unless `tokenizer_config.json` says `"add_bos_token": false` and no id is given.
    #[serde(default = "yes")]
    pub add_bos: bool,
    /// Put EOS after each document.
    #[serde(default = "yes")]
    pub add_eos: bool,
    /// Id of BOS, where the tokenizer does not tell or tells wrongly.
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    /// Id of EOS, where the tokenizer does not tell or tells wrongly.
    #[serde(default)]
    pub eos_token_id: Option<u32>,
    /// Share of each domain's text that is held out, at least; two documents are held out in any case.
    #[serde(default = "default_validation_fraction")]
    pub validation_fraction: f64,
    /// Seed of the choice of held-out documents.
    #[serde(default)]
    pub seed: u64,
    /// Documents that may be left out because they cannot be read (a broken line of JSON, a row without text), over all
    /// domains; one more is an error.
    #[serde(default)]
    pub skip_broken: u64,
    /// Threads that count and encode; 0 takes one per core. Training a tokenizer takes all cores in any case. The output
    /// does not depend on it.
    #[serde(default)]
    pub threads: usize,
}

fn default_text_field() -> String {
    "text".to_string()
}

fn default_validation_fraction() -> f64 {
    0.1
}

fn yes() -> bool {
    true
}

impl PrepareConfig {
    /// A configuration with the defaults for everything not named here.
    pub fn new(
        domains: Vec<DomainSource>,
        output: impl Into<PathBuf>,
        tokenizer: TokenizerSource,
        sequence_length: usize,
    ) -> Self {
        Self {
            domains,
            output: output.into(),
            tokenizer,
            sequence_length,
            text_field: default_text_field(),
            add_bos: true,
            add_eos: true,
            bos_token_id: None,
            eos_token_id: None,
            validation_fraction: default_validation_fraction(),
            seed: 0,
            skip_broken: 0,
            threads: 0,
        }
    }

    /// `error` of a document that may not be left out, with what can be done about it.
    pub(super) fn unreadable(&self, error: Error) -> Error {
        let Error::Document { path, unit, number, mut problem } = error else { return error };
        problem.push_str(&match self.skip_broken {
            0 => "; correct it, or leave out up to N such documents with --skip-broken N".to_string(),
            most => format!("; it is one more than the {most} that --skip-broken leaves out"),
        });
        Error::Document { path, unit, number, problem }
    }

    /// What the passes after the first do about a document that cannot be read: the first has judged it.
    pub(super) fn pass_over(&self, error: Error) -> Result<()> {
        if self.skip_broken == 0 { Err(error) } else { Ok(()) }
    }

    /// Checks the values by themselves, without touching a file.
    ///
    /// # Errors
    /// [`Error::Config`] names the first that cannot be used.
    pub fn validate(&self) -> Result<()> {
        if !(2..=MAX_SEQUENCE_LENGTH).contains(&self.sequence_length) {
            let problem = format!("expected 2 to {MAX_SEQUENCE_LENGTH} tokens");
            return Err(Error::config("--sequence-length", self.sequence_length, problem));
        }
        if !(self.validation_fraction > 0.0 && self.validation_fraction <= 0.5) {
            let problem = "expected a number above 0 and up to 0.5";
            return Err(Error::config("--validation-fraction", self.validation_fraction, problem));
        }
        if let TokenizerSource::Train(size) = self.tokenizer
            && !(MIN_TRAINED_VOCAB..=1 << 24).contains(&size)
        {
            let problem = format!("a byte-level vocabulary has at least {MIN_TRAINED_VOCAB} tokens");
            return Err(Error::config("--train-tokenizer", size, problem));
        }
        self.validate_domains()
    }

    fn validate_domains(&self) -> Result<()> {
        if self.domains.is_empty() {
            return Err(Error::config("--domain", "", "name at least one domain with its files"));
        }
        let mut names = HashSet::new();
        for domain in &self.domains {
            check_domain_name(&domain.name).map_err(|problem| {
                let problem = format!("{problem}; rename its folder or name it with --domain NAME=PATH");
                Error::config("--domain", &domain.name, problem)
            })?;
            // Names become folders, and some file systems do not tell cases apart.
            if !names.insert(domain.name.to_ascii_lowercase()) {
                return Err(Error::config("--domain", &domain.name, "it is given twice"));
            }
            if domain.paths.is_empty() {
                return Err(Error::config("--domain", &domain.name, "name at least one file or folder"));
            }
        }
        Ok(())
    }
}
