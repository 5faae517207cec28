//! Text to token rows.
//!
//! All input is found and looked into first (`sources`, `check_input`), so that what cannot be read is said before the work.
//! Then two passes over each domain's files, both streaming and both on all cores: the first counts the documents by the hash
//! of their text, which decides the held-out split (`split`); the second encodes them, packs each side into rows of one
//! length and writes Parquet (`pack`). A tokenizer is trained in between where one is asked for (`bpe`). The output
//! folder appears only when all of it is written; the manifest is written last.
//!
//! The bytes written depend on the text, the settings and the seed, never on the number of threads.

mod bpe;
mod card;
mod check_input;
mod config;
mod documents;
mod encoder;
mod encoding;
mod json_line;
mod pack;
mod parquet_rows;
mod sources;
mod split;

use std::fs;
use std::path::Path;

pub use config::{DomainSource, MIN_TRAINED_VOCAB, PrepareConfig, TokenizerSource};

use shearling_staging::StagedFolder;

use crate::dataset::{TOKENIZER_FILE, file_sha256};
use crate::manifest::{DomainEntry, FORMAT_VERSION, MANIFEST_FILE, Manifest, Split};
use crate::{Error, Result, parallel};
use documents::{Chunk, chunks};
use encoder::{COMPANIONS, Encoder, tokenizer_file};
use pack::{Packed, Packer};
use sources::Source;
use split::{Census, Chosen, document_key};

/// What preparation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Counting documents, to choose the held-out ones.
    Count,
    /// Reading text to train a tokenizer on.
    TrainTokenizer,
    /// Encoding and writing rows.
    Encode,
}

impl Stage {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "counting",
            Self::TrainTokenizer => "training the tokenizer",
            Self::Encode => "encoding",
        }
    }
}

/// Receives progress; called from the thread that called [`prepare()`] and from threads it started.
pub trait Progress: Sync {
    /// `documents` of `domain` are through `stage`, and `bytes` of the `total_bytes` of its input files are read.
    fn advance(&self, stage: Stage, domain: &str, documents: u64, bytes: u64, total_bytes: u64);
    /// Something the user should know that is no error.
    fn note(&self, message: &str);
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _: Stage, _: &str, _: u64, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
}

/// A domain after the first pass.
struct Domain {
    name: String,
    sources: Vec<Source>,
    input_bytes: u64,
    census: Census,
    chosen: Chosen,
}

impl Domain {
    fn chunks<'a>(&'a self, config: &'a PrepareConfig) -> impl Iterator<Item = Result<Chunk>> + Send + 'a {
        chunks(&self.sources, &config.text_field)
    }
}

/// Tokenizes the text of every domain into rows of `sequence_length` tokens and writes them to `config.output`.
///
/// Each document becomes BOS, its tokens, EOS (as configured); the documents of one side of a domain are joined and cut
/// into rows, and the tokens at the end that fill no row are dropped. Special tokens spelt out in a text are encoded as
/// ordinary characters.
///
/// # Errors
/// A typed error that names the setting, file and line, or domain; nothing is written then.
pub fn prepare(config: &PrepareConfig, progress: &dyn Progress) -> Result<Manifest> {
    config.validate()?;
    let staging = StagedFolder::begin(&config.output)?;
    let folder = staging.path();
    // What cannot be used, text or tokenizer, is reported before hours of counting.
    let sources = sources::find_all(&config.domains, progress)?;
    sources.iter().flatten().try_for_each(|source| check_input::check(source, config))?;
    let (encoder, domains) = match &config.tokenizer {
        TokenizerSource::File(path) => {
            (adopt_tokenizer(path, config, folder, progress)?, count_all(sources, config, progress)?)
        }
        TokenizerSource::Train(vocab_size) => {
            let domains = count_all(sources, config, progress)?;
            bpe::train(&domains, *vocab_size, config, folder, progress)?;
            (Encoder::load(&folder.join(TOKENIZER_FILE), config, progress)?, domains)
        }
    };
    let mut manifest = manifest(config, &encoder, &folder.join(TOKENIZER_FILE))?;
    for domain in domains {
        let (entry, max_token_id) = encode(domain, &encoder, config, folder, progress)?;
        manifest.max_token_id = manifest.max_token_id.max(max_token_id);
        manifest.domains.push(entry);
    }
    write(&folder.join("README.md"), &card::render(&manifest))?;
    let json = serde_json::to_string_pretty(&manifest)
        .map_err(|error| Error::Manifest { path: config.output.join(MANIFEST_FILE), problem: error.to_string() })?;
    write(&folder.join(MANIFEST_FILE), &json)?;
    staging.publish()?;
    Ok(manifest)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path))
}

/// Loads the tokenizer at `path` and copies it, with the files that belong to it, into `folder`.
fn adopt_tokenizer(path: &Path, config: &PrepareConfig, folder: &Path, progress: &dyn Progress) -> Result<Encoder> {
    let file = tokenizer_file(path);
    let encoder = Encoder::load(&file, config, progress)?;
    copy(&file, &folder.join(TOKENIZER_FILE))?;
    for name in COMPANIONS {
        let companion = file.with_file_name(name);
        if companion.is_file() {
            copy(&companion, &folder.join(name))?;
        }
    }
    Ok(encoder)
}

/// The manifest before any domain is written.
fn manifest(config: &PrepareConfig, encoder: &Encoder, tokenizer: &Path) -> Result<Manifest> {
    Ok(Manifest {
        format_version: FORMAT_VERSION,
        created_by: concat!("shearling-domains ", env!("CARGO_PKG_VERSION")).to_string(),
        sequence_length: config.sequence_length,
        vocab_size: encoder.vocab_size,
        max_token_id: None,
        bos_token_id: encoder.bos,
        eos_token_id: encoder.eos,
        tokenizer_sha256: file_sha256(tokenizer)?,
        seed: config.seed,
        validation_fraction: config.validation_fraction,
        domains: Vec::new(),
    })
}

/// Copies the content alone: `fs::copy` would also hand on that a file may not be written.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).map_err(Error::io("open", from))?;
    fs::write(to, bytes).map_err(Error::io("write", to))
}

fn count_all(sources: Vec<Vec<Source>>, config: &PrepareConfig, progress: &dyn Progress) -> Result<Vec<Domain>> {
    let mut may_be_broken = config.skip_broken;
    let names = config.domains.iter().map(|domain| domain.name.as_str());
    names.zip(sources).map(|(name, sources)| count(name, sources, &mut may_be_broken, config, progress)).collect()
}

/// What the first pass learns from a chunk.
#[derive(Default)]
struct Counted {
    /// Key and bytes of every document.
    documents: Vec<(u64, u64)>,
    broken: Vec<Error>,
}

/// The first pass over a domain, in which `may_be_broken` more documents may be unreadable.
fn count(
    name: &str,
    sources: Vec<Source>,
    may_be_broken: &mut u64,
    config: &PrepareConfig,
    progress: &dyn Progress,
) -> Result<Domain> {
    let input_bytes = sources.iter().map(|source| source.bytes).sum();
    let mut census = Census::new();
    parallel::map_in_order(
        "counting documents",
        config.threads,
        chunks(&sources, &config.text_field),
        |chunk| Ok((count_chunk(&chunk, name, config)?, chunk.bytes_read)),
        |(counted, bytes_read)| {
            for error in counted.broken {
                if *may_be_broken == 0 {
                    return Err(config.unreadable(error));
                }
                *may_be_broken -= 1;
                census.broken_documents += 1;
                if census.broken_documents == 1 {
                    progress.note(&format!("left out, the first of domain `{name}`: {error}"));
                }
            }
            for (key, bytes) in counted.documents {
                if bytes == 0 { census.empty_documents += 1 } else { census.count(key, bytes) }
            }
            progress.advance(Stage::Count, name, census.documents, bytes_read, input_bytes);
            Ok(())
        },
    )?;
    let name = name.to_string();
    if census.documents == 0 {
        let problem = format!("its {} files hold no text", sources.len());
        return Err(Error::EmptyDomain { domain: name, problem });
    }
    let Some(chosen) = census.choose(config.validation_fraction) else {
        return Err(Error::TooFewDocuments { domain: name, different: census.different_documents().unwrap_or(0) });
    };
    Ok(Domain { name, sources, input_bytes, census, chosen })
}

fn count_chunk(chunk: &Chunk, domain: &str, config: &PrepareConfig) -> Result<Counted> {
    let Counted { mut documents, mut broken } = Counted::default();
    let count = |text: &str| {
        documents.push((document_key(config.seed, domain, text), text.len() as u64));
        Ok(())
    };
    chunk.documents(&config.text_field, count, |error| {
        if broken.len() as u64 == config.skip_broken {
            return Err(config.unreadable(error));
        }
        broken.push(error);
        Ok(())
    })?;
    Ok(Counted { documents, broken })
}

/// The second pass over a domain, and the largest id in its rows. A validation side too small to fill a row is doubled
/// until it does.
fn encode(
    mut domain: Domain,
    encoder: &Encoder,
    config: &PrepareConfig,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(DomainEntry, Option<u32>)> {
    let own = folder.join(&domain.name);
    let mut fraction = config.validation_fraction;
    loop {
        fs::create_dir(&own).map_err(Error::io("create", &own))?;
        let sides = encode_once(&domain, encoder, config, folder, progress)?;
        let max_token_id = sides.iter().filter_map(|side| side.max_token_id).max();
        let [train, validation] = sides.map(|side| side.entry);
        if validation.rows == 0 && train.rows > 0 && fraction < 0.5 {
            fraction = (2.0 * fraction).min(0.5);
            if let Some(chosen) = domain.census.choose(fraction) {
                domain.chosen = chosen;
            }
            fs::remove_dir_all(&own).map_err(Error::io("remove", &own))?;
            continue;
        }
        for (split, entry) in Split::ALL.into_iter().zip([&train, &validation]) {
            if entry.rows == 0 {
                let (split, tokens, sequence_length) = (split.name(), entry.dropped_tokens, config.sequence_length);
                return Err(Error::TooFewTokens { domain: domain.name, split, tokens, sequence_length });
            }
        }
        let (name, Census { empty_documents, broken_documents, .. }) = (domain.name, domain.census);
        return Ok((DomainEntry { name, empty_documents, broken_documents, train, validation }, max_token_id));
    }
}

/// Ids of some documents of one side.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    documents: u64,
    text_bytes: u64,
}

fn encode_once(
    domain: &Domain,
    encoder: &Encoder,
    config: &PrepareConfig,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<[Packed; 2]> {
    let packer = |split| Packer::new(folder, &domain.name, split, encoder.vocab_size, config.sequence_length);
    let mut packers = Split::ALL.map(packer);
    let mut documents = 0;
    parallel::map_in_order(
        "encoding documents",
        config.threads,
        domain.chunks(config),
        |chunk| Ok((encode_chunk(&chunk, domain, encoder, config)?, chunk.bytes_read)),
        |(sides, bytes_read)| {
            for (packer, side) in packers.iter_mut().zip(sides) {
                packer.push(&side.ids, side.documents, side.text_bytes)?;
                documents += side.documents;
            }
            progress.advance(Stage::Encode, &domain.name, documents, bytes_read, domain.input_bytes);
            Ok(())
        },
    )?;
    let [train, validation] = packers;
    Ok([train.finish()?, validation.finish()?])
}

/// The documents of a chunk as ids: those to train on, and those held out.
fn encode_chunk(chunk: &Chunk, domain: &Domain, encoder: &Encoder, config: &PrepareConfig) -> Result<[Encoded; 2]> {
    let mut sides = [Encoded::default(), Encoded::default()];
    let encode = |text: &str| {
        if text.is_empty() {
            return Ok(());
        }
        let held_out = domain.chosen.contains(document_key(config.seed, &domain.name, text));
        let side = &mut sides[usize::from(held_out)];
        side.documents += 1;
        side.text_bytes += text.len() as u64;
        encoder.encode(text, &mut side.ids)
    };
    chunk.documents(&config.text_field, encode, |error| config.pass_over(error))?;
    Ok(sides)
}
