//! `shearling data prepare` and `shearling data inspect`.

use super::ExitStatus;
use crate::cli::Printer;
use crate::cli::arguments::{Data, DataInspect, Prepare};
use crate::cli::progress::Progress as Line;
use crate::cli::shell::shell_word;
use crate::cli::table::{Table, bytes, grouped};
use anyhow::Context;
use serde_json::json;
use shearling_domains::{
    Dataset, DomainSource, PrepareConfig, Progress, Split, Stage, TokenizerSource, prepare as prepare_dataset,
};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// `shearling data …`
pub fn run(arguments: &Data) -> anyhow::Result<ExitStatus> {
    match arguments {
        Data::Prepare(arguments) => prepare(arguments),
        Data::Inspect(arguments) => inspect(arguments),
    }
}

fn prepare(arguments: &Prepare) -> anyhow::Result<ExitStatus> {
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
    config.skip_broken = arguments.skip_broken;
    config.threads = arguments.threads.unwrap_or(0);
    prepare_dataset(&config, &PrepareProgress::default())?;
    printer.data(summary(&Dataset::open(&arguments.out)?), || json!({}));
    let out = shell_word(&arguments.out.display().to_string());
    printer.note(format!(
        "written to {out}; next: shearling eval MODEL --data {out}, or shearling init MODEL --data {out}"
    ));
    Ok(ExitStatus::Done)
}

/// Domains named one by one, and the folders of `--from`.
fn sources(arguments: &Prepare) -> anyhow::Result<Vec<DomainSource>> {
    let mut sources = Vec::new();
    for text in &arguments.domains {
        let (name, paths) = text.split_once('=').with_context(|| {
            format!("--domain {text}: write it as name=path[,path], for example --domain wiki=data/wiki")
        })?;
        sources.push(DomainSource { name: name.to_string(), paths: paths_of(text, paths)? });
    }
    if let Some(folder) = &arguments.from {
        sources.extend(folders(folder)?);
    }
    if sources.is_empty() {
        anyhow::bail!("no domain given; use --domain name=path, or --from DIR with one folder per domain");
    }
    Ok(sources)
}

/// The paths of `--domain name=path,path`; a path that exists as it stands may have commas in it.
fn paths_of(option: &str, paths: &str) -> anyhow::Result<Vec<PathBuf>> {
    if Path::new(paths).exists() {
        return Ok(vec![PathBuf::from(paths)]);
    }
    if paths.split(',').any(str::is_empty) {
        anyhow::bail!("--domain {option}: a path is empty; write it as name=path[,path]");
    }
    Ok(paths.split(',').map(PathBuf::from).collect())
}

/// One domain per folder in `root`, by name. Hidden entries are not looked at; files beside the folders are named.
pub(super) fn folders(root: &Path) -> anyhow::Result<Vec<DomainSource>> {
    let shown = root.display();
    let entries = std::fs::read_dir(root).with_context(|| {
        format!("--from {shown}: expected a folder with one folder per domain, and it cannot be read")
    })?;
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {shown}"))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(about) if about.is_dir() => found.push(DomainSource { name, paths: vec![path] }),
            Ok(_) => others.push(name),
            Err(error) => {
                let advice = "mend or remove it if it is a link that leads nowhere";
                return Err(error).with_context(|| format!("cannot open {}; {advice}", path.display()));
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if found.is_empty() {
        anyhow::bail!(
            "{shown} has no folders; one per domain is expected (a folder of files is one domain: --domain NAME={shown})"
        );
    }
    if !others.is_empty() {
        others.sort();
        Printer::new(false).note(format!("left out, not in the folder of a domain of {shown}: {}", others.join(", ")));
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

fn inspect(arguments: &DataInspect) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let dataset = Dataset::open(&arguments.path)?;
    if arguments.verify {
        if let Err(error) = dataset.verify() {
            printer.warn(error);
            return Ok(ExitStatus::CheckFailed);
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
    Ok(ExitStatus::Done)
}

/// The table both commands print.
pub(super) fn summary(dataset: &Dataset) -> String {
    let header = [
        "domain",
        "train rows",
        "train tokens",
        "train documents",
        "held-out rows",
        "held-out documents",
        "bytes/token",
    ];
    let mut table = Table::new(header);
    let (mut totals, mut text_bytes, mut all_tokens) = ([0u64; 5], 0, 0);
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
        totals[4] += held.documents;
        text_bytes += train.text_bytes + held.text_bytes;
        all_tokens += tokens;
    }
    let per_token = format!("{:.2}", text_bytes as f64 / all_tokens.max(1) as f64);
    let totals = totals.iter().map(|total| grouped(*total));
    table.row(std::iter::once("all".to_string()).chain(totals).chain([per_token]));
    let manifest = dataset.manifest();
    let (length, vocabulary) = (manifest.sequence_length, grouped(manifest.vocab_size));
    let marks = format!(
        "{} before each document, {} after it",
        mark(dataset, "BOS", manifest.bos_token_id),
        mark(dataset, "EOS", manifest.eos_token_id)
    );
    format!(
        "{table}\nrows of {} tokens, vocabulary {vocabulary}; {marks}\n{}",
        grouped(length as i128),
        left_out(dataset)
    )
}

/// `BOS <s> (id 1)`, or that there is none.
fn mark(dataset: &Dataset, role: &str, id: Option<u32>) -> String {
    match id {
        None => format!("no {role}"),
        Some(id) => match dataset.added_token(id) {
            Some(token) => format!("{role} {token} (id {id})"),
            None => format!("{role} (id {id})"),
        },
    }
}

/// Documents that are not in the rows because they could not be read.
fn left_out(dataset: &Dataset) -> String {
    let domains = dataset.manifest().domains.iter().filter(|domain| domain.broken_documents > 0);
    let parts: Vec<String> =
        domains.map(|domain| format!("{} in {}", grouped(domain.broken_documents), domain.name)).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("left out, could not be read: {}\n", parts.join(", ")),
    }
}
