//! `shearling data prepare` and `shearling data inspect`.

use super::Verdict;
use super::prepared_data::open_prepared;
use crate::cli::Printer;
use crate::cli::arguments::{Data, DataInspect, Prepare};
use crate::cli::progress::Progress as Line;
use crate::cli::table::{Table, bytes, grouped};
use anyhow::Context;
use serde_json::json;
use shearling_domains::{
    Dataset, DomainSource, PrepareConfig, Progress, Split, Stage, TokenizerSource, prepare as prepare_dataset,
};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// `shearling data …`
pub fn run(arguments: &Data) -> anyhow::Result<Verdict> {
    match arguments {
        Data::Prepare(arguments) => prepare(arguments),
        Data::Inspect(arguments) => inspect(arguments),
    }
}

fn prepare(arguments: &Prepare) -> anyhow::Result<Verdict> {
    let printer = Printer::new(false);
    let tokenizer = match (&arguments.tokenizer, arguments.train_tokenizer) {
        (Some(path), _) => TokenizerSource::File(path.clone()),
        (None, Some(vocab_size)) => TokenizerSource::Train(vocab_size),
        (None, None) => anyhow::bail!("give --tokenizer FILE or --train-tokenizer N"),
    };
    let mut config = PrepareConfig::new(sources(arguments)?, &arguments.out, tokenizer, arguments.sequence_length);
    config.validation_fraction = arguments.validation_fraction;
    config.add_bos = !arguments.no_bos;
    config.add_eos = !arguments.no_eos;
    config.bos_token_id = arguments.bos_id;
    config.eos_token_id = arguments.eos_id;
    config.text_field = arguments.text_field.clone();
    config.seed = arguments.seed;
    config.threads = arguments.threads.unwrap_or(0);
    prepare_dataset(&config, &PrepareProgress::default())?;
    printer.data(summary(&Dataset::open(&arguments.out)?), || json!({}));
    Ok(Verdict::Done)
}

/// Domains named one by one, and the folders of `--from`.
fn sources(arguments: &Prepare) -> anyhow::Result<Vec<DomainSource>> {
    let mut sources = Vec::new();
    for text in &arguments.domains {
        let (name, paths) = text.split_once('=').with_context(|| {
            format!("--domain {text}: write it as name=path[,path], for example --domain wiki=data/wiki")
        })?;
        let paths = paths.split(',').map(PathBuf::from).collect();
        sources.push(DomainSource { name: name.to_string(), paths });
    }
    if let Some(folder) = &arguments.from {
        sources.extend(folders(folder)?);
    }
    if sources.is_empty() {
        anyhow::bail!("no domain given; use --domain name=path, or --from DIR with one folder per domain");
    }
    Ok(sources)
}

/// One domain per folder in `root`, by name.
pub(super) fn folders(root: &Path) -> anyhow::Result<Vec<DomainSource>> {
    let entries = std::fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", root.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') {
            found.push(DomainSource { name, paths: vec![path] });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        anyhow::bail!("{} has no folders; one per domain is expected", root.display());
    }
    Ok(found)
}

/// Progress of `prepare` as a line.
#[derive(Default)]
pub(super) struct PrepareProgress(Mutex<Line>);

impl Progress for PrepareProgress {
    fn advance(&self, stage: Stage, domain: &str, documents: u64, done: u64, total: u64) {
        let Ok(mut line) = self.0.lock() else { return };
        line.show(|| {
            let (done, total) = (bytes(done as f64), bytes(total as f64));
            format!("{} {domain}: {} documents, {done} of {total}", stage.name(), grouped(documents))
        });
    }

    fn note(&self, message: &str) {
        let Ok(mut line) = self.0.lock() else { return };
        line.finish();
        Printer::new(false).note(message);
    }
}

fn inspect(arguments: &DataInspect) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    let dataset = open_prepared(&arguments.path)?;
    if arguments.verify {
        if let Err(error) = dataset.verify() {
            printer.warn(error);
            return Ok(Verdict::CheckFailed);
        }
        printer.note("all hashes agree with the manifest");
    }
    printer.data(summary(&dataset), || {
        json!({
            "path": dataset.root(),
            "fingerprint": dataset.fingerprint(),
            "manifest": dataset.manifest(),
        })
    });
    for (index, name) in dataset.domain_names().iter().enumerate() {
        for text in dataset.preview(index, arguments.preview)? {
            printer.note(format!("── {name} ──\n{text}"));
        }
    }
    Ok(Verdict::Done)
}

/// The table both commands print.
pub(super) fn summary(dataset: &Dataset) -> String {
    let header =
        ["domain", "train rows", "train tokens", "documents", "held-out rows", "held-out documents", "bytes/token"];
    let mut table = Table::new(header);
    let mut totals = [0u64; 4];
    for entry in &dataset.manifest().domains {
        let (train, held) = (entry.split(Split::Train), entry.split(Split::Validation));
        let tokens = train.tokens + train.dropped_tokens + held.tokens + held.dropped_tokens;
        let per_token = (train.text_bytes + held.text_bytes) as f64 / tokens.max(1) as f64;
        table.row([
            entry.name.clone(),
            grouped(train.rows),
            grouped(train.tokens),
            grouped(train.documents),
            grouped(held.rows),
            grouped(held.documents),
            format!("{per_token:.2}"),
        ]);
        totals[0] += train.rows;
        totals[1] += train.tokens;
        totals[2] += train.documents;
        totals[3] += held.rows;
    }
    table.row(std::iter::once("all".to_string()).chain(totals.iter().map(|total| grouped(*total))));
    let manifest = dataset.manifest();
    format!("{table}\nrows of {} tokens, vocabulary {}\n", manifest.sequence_length, manifest.vocab_size)
}
