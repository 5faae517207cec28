//! Trains a byte-level BPE on the text that is being prepared.
//!
//! Like Llama's tokenizer it has `<s>` and `</s>`, puts `<s>` first and keeps digits apart; unlike it, its bytes are the
//! alphabet of GPT-2, so any text comes back from its tokens unchanged. Held-out documents are not trained on. Domains
//! are balanced: each gives about the same amount of text, large ones by leaving documents out (by their hash), small
//! ones by being counted up to [`MAX_REPEATS`] times.

use std::path::Path;
use std::sync::mpsc::sync_channel;

use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use super::split::document_key;
use super::{Domain, PrepareConfig, Progress, Stage};
use crate::dataset::TOKENIZER_FILE;
use crate::random::mix;
use crate::{Error, Result, parallel};

/// Text taken from each domain, at most.
const MAX_DOMAIN_BYTES: u64 = 32 << 20;
/// How often a small domain is counted, at most.
const MAX_REPEATS: u64 = 4;
const BOS: &str = "<s>";
const EOS: &str = "</s>";

type Trained = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Trains a tokenizer of `vocab_size` tokens on `domains` and writes it, with its configuration for transformers, into
/// `folder`.
pub(super) fn train(
    domains: &[Domain],
    vocab_size: usize,
    config: &PrepareConfig,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let path = folder.join(TOKENIZER_FILE);
    let problem = |error: String| Error::Tokenizer { path: path.clone(), problem: format!("training failed: {error}") };
    let special = |content: &str| AddedToken::from(content, true);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(false)
        .special_tokens(vec![special(BOS), special(EOS)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = untrained();
    feed(&mut tokenizer, &mut trainer, domains, config, progress)?.map_err(problem)?;
    let size = tokenizer.get_vocab_size(true);
    if size < vocab_size {
        progress.note(&format!("the text gave a tokenizer of {size} tokens, not {vocab_size}"));
    }
    let text =
        with_template(tokenizer).and_then(|tokenizer| tokenizer.to_string(true).map_err(|error| error.to_string()));
    std::fs::write(&path, text.map_err(problem)?).map_err(Error::io("write", &path))?;
    write_companion(
        folder,
        "tokenizer_config.json",
        &json!({
            "add_bos_token": true,
            "add_eos_token": false,
            "bos_token": BOS,
            "clean_up_tokenization_spaces": false,
            "eos_token": EOS,
            "model_max_length": config.sequence_length,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }),
    )?;
    write_companion(folder, "special_tokens_map.json", &json!({ "bos_token": BOS, "eos_token": EOS }))
}

fn write_companion(folder: &Path, name: &str, content: &serde_json::Value) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, format!("{content:#}\n")).map_err(Error::io("write", &path))
}

fn untrained() -> Trained {
    let mut tokenizer = Trained::new(BPE::default());
    let pieces: Vec<PreTokenizerWrapper> = vec![Digits::new(true).into(), ByteLevel::new(false, false, true).into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(pieces)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    tokenizer
}

/// Puts BOS first when transformers encodes, as in the rows prepared here.
fn with_template(mut tokenizer: Trained) -> std::result::Result<Trained, String> {
    let id = tokenizer.token_to_id(BOS).ok_or("no BOS token")?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .and_then(|builder| builder.try_pair(format!("{BOS} $A {BOS} $B")))?
        .special_tokens(vec![(BOS, id)])
        .build()
        .map_err(|error| error.to_string())?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

/// Runs the trainer on a stream of documents. The outer error is the text's, the inner one the trainer's.
fn feed(
    tokenizer: &mut Trained,
    trainer: &mut BpeTrainer,
    domains: &[Domain],
    config: &PrepareConfig,
    progress: &dyn Progress,
) -> Result<std::result::Result<(), String>> {
    let (sender, texts) = sync_channel::<String>(1024);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let target = domains.iter().map(|domain| domain.census.bytes).max().unwrap_or(0).min(MAX_DOMAIN_BYTES);
            domains.iter().try_for_each(|domain| {
                sample(domain, target, config, progress, |text| {
                    // The trainer stops listening only when it has failed, which is reported below.
                    let _ = sender.send(text);
                })
            })
        });
        let trained = tokenizer.train(trainer, texts.into_iter());
        let read = reader.join().unwrap_or_else(|payload| Err(Error::panicked("training the tokenizer", payload)));
        read.map(|()| trained.map(|_| ()).map_err(|error| error.to_string()))
    })
}

/// Sends the training documents of `domain` to `each`, thinned or repeated to about `target` bytes.
fn sample(
    domain: &Domain,
    target: u64,
    config: &PrepareConfig,
    progress: &dyn Progress,
    mut each: impl FnMut(String),
) -> Result<()> {
    let repeats = (target / domain.census.bytes.max(1)).clamp(1, MAX_REPEATS);
    let kept = (target as f64 / domain.census.bytes.max(1) as f64).min(1.0);
    let limit = (kept * u64::MAX as f64) as u64;
    let mut documents = 0;
    parallel::map_in_order(
        "reading text",
        config.threads,
        domain.chunks(config),
        |chunk| {
            let mut texts = Vec::new();
            let keep = |text: &str| {
                let key = document_key(config.seed, &domain.name, text);
                if !text.is_empty() && !domain.chosen.contains(key) && mix(key) <= limit {
                    texts.push(text.to_string());
                }
                Ok(())
            };
            chunk.documents(&config.text_field, keep, |error| config.pass_over(error))?;
            Ok((texts, chunk.bytes_read))
        },
        |(texts, bytes_read)| {
            documents += texts.len() as u64;
            progress.advance(Stage::TrainTokenizer, &domain.name, documents, bytes_read, domain.input_bytes);
            for text in texts {
                (1..repeats).for_each(|_| each(text.clone()));
                each(text);
            }
            Ok(())
        },
    )
}
