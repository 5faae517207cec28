//! What the integration tests share: text of known content in all formats, and a prepared dataset.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, LargeStringArray, StringArray, StringViewArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use shearling_domains::synthetic::{Kind, generate};
use shearling_domains::{
    DomainSource, Manifest, PrepareConfig, Progress, Result, Silent, Stage, TokenizerSource, prepare,
};

pub fn jsonl(texts: &[String]) -> String {
    texts
        .iter()
        .map(|text| format!("{}\n", serde_json::json!({ "id": 7, "text": text, "meta": { "text": 1 } })))
        .collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Parquet with a text column of one of the three string types.
pub fn parquet(path: &Path, texts: &[String], width: usize) {
    let column: ArrayRef = match width {
        0 => Arc::new(StringArray::from_iter_values(texts)),
        1 => Arc::new(LargeStringArray::from_iter_values(texts)),
        _ => Arc::new(StringViewArray::from_iter_values(texts)),
    };
    let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter_values(0..texts.len() as i64));
    let batch = RecordBatch::try_from_iter([("n", numbers), ("text", column)]).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

pub fn texts(kind: Kind, bytes: u64) -> Vec<String> {
    generate(kind, 5, bytes).collect()
}

/// A domain whose text is written to `<root>/text/<name>.jsonl`.
pub fn domain(root: &Path, name: &str, texts: &[String]) -> DomainSource {
    let path = root.join("text").join(format!("{name}.jsonl"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, jsonl(texts)).unwrap();
    DomainSource { name: name.to_string(), paths: vec![path] }
}

/// Settings for a small tokenizer and short rows.
pub fn config(root: &Path, domains: Vec<DomainSource>) -> PrepareConfig {
    PrepareConfig::new(domains, root.join("tokens"), TokenizerSource::Train(300), 32)
}

/// Three domains of different size, prepared into `<root>/tokens`.
pub fn prepared(root: &Path) -> (PathBuf, Manifest) {
    let domains = vec![
        domain(root, "stories", &texts(Kind::Stories, 60_000)),
        domain(root, "code", &texts(Kind::Code, 30_000)),
        domain(root, "records", &texts(Kind::Records, 6_000)),
    ];
    let config = config(root, domains);
    let manifest = prepare(&config, &Silent).unwrap();
    (config.output, manifest)
}

/// What a preparation says besides.
#[derive(Default)]
pub struct Notes(pub Mutex<Vec<String>>);

impl Progress for Notes {
    fn advance(&self, _: Stage, _: &str, _: u64, _: u64, _: u64) {}

    fn note(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_string());
    }
}

pub fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}
