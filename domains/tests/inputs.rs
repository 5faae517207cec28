//! Text as people have it: files of other tools, folders with more in them than text, encodings, broken lines. What can
//! be read gives the documents of the plain file; what cannot is said before the work, with what to do about it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, DictionaryArray, Int64Array, LargeBinaryArray, StringArray, StringViewArray,
};
use arrow::datatypes::Int32Type;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use shearling_domains::synthetic::Kind;
use shearling_domains::{DomainSource, Manifest, PrepareConfig, Result, Silent, TokenizerSource, prepare};

use crate::common::{Notes, config, gzip, jsonl, message, texts, zstandard};

/// A folder of one domain `d` that is prepared again and again.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        Self { root }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.path().join("d").join(name)
    }

    fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn config(&self, paths: Vec<PathBuf>) -> PrepareConfig {
        config(self.root.path(), vec![DomainSource { name: "d".to_string(), paths }])
    }

    /// Prepares the folder; the notes besides.
    fn prepare(&self) -> (Result<Manifest>, Vec<String>) {
        self.prepare_with(&self.config(vec![self.path("")]))
    }

    fn prepare_with(&self, config: &PrepareConfig) -> (Result<Manifest>, Vec<String>) {
        let notes = Notes::default();
        let result = prepare(config, &notes);
        if result.is_ok() {
            fs::remove_dir_all(&config.output).unwrap();
        }
        let left: Vec<_> = fs::read_dir(self.root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["d"], "nothing else is left");
        (result, notes.0.into_inner().unwrap())
    }

    fn documents(&self) -> u64 {
        let domain = &self.prepare().0.unwrap().domains[0];
        domain.train.documents + domain.validation.documents
    }

    /// Prepares a folder with one more file, which is refused; the file is gone afterwards.
    fn refused(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> String {
        let path = self.write(name, bytes);
        let message = message(self.prepare().0);
        assert!(message.contains(&path.display().to_string()), "{message}");
        fs::remove_file(path).unwrap();
        message
    }
}

fn stories() -> Vec<String> {
    texts(Kind::Stories, 20_000)
}

fn write_parquet(path: &Path, column: ArrayRef, codec: Compression) {
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_is_read_in_every_codec() {
    let place = Place::new();
    let all = stories();
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(&all));
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(ZstdLevel::default()),
    ];
    let mut manifests = Vec::new();
    for codec in codecs {
        write_parquet(&place.path("a.parquet"), Arc::clone(&column), codec);
        manifests.push(place.prepare().0.unwrap());
    }
    assert!(manifests.iter().all(|manifest| *manifest == manifests[0]));
    let domain = &manifests[0].domains[0];
    assert_eq!(domain.train.documents + domain.validation.documents, all.len() as u64);
}

#[test]
fn parquet_text_is_read_in_every_type_that_holds_it() {
    let place = Place::new();
    let all = stories();
    let bytes = || all.iter().map(|text| text.as_bytes());
    let columns: [ArrayRef; 6] = [
        Arc::new(StringArray::from_iter_values(&all)),
        Arc::new(StringViewArray::from_iter_values(&all)),
        Arc::new(BinaryArray::from_iter_values(bytes())),
        Arc::new(LargeBinaryArray::from_iter_values(bytes())),
        Arc::new(BinaryViewArray::from_iter_values(bytes())),
        Arc::new(DictionaryArray::<Int32Type>::from_iter(all.iter().map(String::as_str))),
    ];
    let mut manifests = Vec::new();
    for column in columns {
        write_parquet(&place.path("a.parquet"), column, Compression::SNAPPY);
        manifests.push(place.prepare().0.unwrap());
    }
    assert!(manifests.iter().all(|manifest| *manifest == manifests[0]));
}

#[test]
fn parquet_without_text_is_refused_and_rows_without_it_are_named() {
    let place = Place::new();
    let path = place.path("a.parquet");
    write_parquet(&path, Arc::new(Int64Array::from_iter_values(0..10)), Compression::SNAPPY);
    let found = message(place.prepare().0);
    assert!(found.contains("its column `text` is Int64, not text"), "{found}");
    let mut config = place.config(vec![path.clone()]);
    config.text_field = "body".to_string();
    let found = message(place.prepare_with(&config).0);
    assert!(found.contains("no column `body`; its columns are text (--text-field"), "{found}");
    let all = stories();
    let rows = || all.iter().enumerate().map(|(row, text)| (row != 4).then_some(text.as_str()));
    let columns: [ArrayRef; 2] =
        [Arc::new(rows().collect::<StringArray>()), Arc::new(rows().collect::<DictionaryArray<Int32Type>>())];
    for column in columns {
        write_parquet(&path, column, Compression::SNAPPY);
        let found = message(place.prepare().0);
        assert!(found.contains("a.parquet, row 5: `text` is null") && found.contains("--skip-broken"), "{found}");
    }
    let rows = all.iter().enumerate().map(|(row, text)| if row == 6 { b"caf\xe9" } else { text.as_bytes() });
    write_parquet(&path, Arc::new(BinaryArray::from_iter_values(rows)), Compression::SNAPPY);
    let mut config = place.config(vec![path]);
    assert!(message(place.prepare_with(&config).0).contains("a.parquet, row 7: the text is not valid UTF-8"));
    config.skip_broken = 1;
    assert_eq!(place.prepare_with(&config).0.unwrap().domains[0].broken_documents, 1);
}

#[test]
fn compressed_text_is_read_as_other_tools_write_it() {
    let place = Place::new();
    let all = stories();
    let bytes = jsonl(&all).into_bytes();
    let plain = place.write("a.jsonl", &bytes);
    let expected = place.prepare().0.unwrap();
    fs::remove_file(plain).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 3);
    // A frame to skip (as pzstd writes it), several frames, and a window of 2 GiB (`zstd --long=31`).
    let skip = [b"\x50\x2a\x4d\x18\x04\0\0\0".to_vec(), vec![0; 4]].concat();
    let mut long = zstd::Encoder::new(Vec::new(), 1).unwrap();
    long.window_log(31).unwrap();
    std::io::Write::write_all(&mut long, &bytes).unwrap();
    for (name, bytes) in [
        ("a.jsonl.gz", [gzip(first), gzip(second)].concat()),
        ("a.jsonl.zst", [skip, zstandard(first), zstandard(second)].concat()),
        ("a.ndjson.zst", long.finish().unwrap()),
    ] {
        let path = place.write(name, bytes);
        assert_eq!(place.prepare().0.unwrap(), expected, "{name}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_said_before_the_first_document_is() {
    let place = Place::new();
    // Would be found first, were it read.
    place.write("a.jsonl", format!("{}not json\n", jsonl(&stories())));
    let good = jsonl(&stories());
    let wide: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&str, Vec<u8>, &str); 18] = [
        ("b.jsonl.bz2", b"BZh9".to_vec(), "bzip2 -dk"),
        ("b.jsonl.xz", b"\xfd7zXZ\0".to_vec(), "xz -dk"),
        ("b.txt.lz4", b"\x04\x22\x4d\x18".to_vec(), "lz4 -d"),
        ("b.parquet.gz", gzip(b"PAR1"), "gzip -dk"),
        ("b.jsonl", gzip(good.as_bytes()), "compressed with gzip (name it .gz)"),
        ("b.txt", zstandard(good.as_bytes()), "compressed with zstd (name it .zst)"),
        ("b.jsonl.gz", good.clone().into_bytes(), "by its name it is compressed with gzip"),
        ("b.jsonl.gz", Vec::new(), "it is empty"),
        ("b.jsonl.zst", gzip(good.as_bytes()), "but it holds data compressed with gzip"),
        ("b.jsonl.gz", gzip(b"PK\x03\x04..."), "a zip archive"),
        ("b.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "git lfs pull"),
        ("b.parquet", Vec::new(), "it is empty"),
        ("b.txt", b"%PDF-1.7".to_vec(), "a PDF document"),
        ("b.jsonl", wide.clone(), "iconv -f UTF-16LE -t UTF-8"),
        ("b.txt.gz", gzip(&[b"\xff\xfe".to_vec(), wide].concat()), "UTF-16LE"),
        ("b.json", b"[\n {\"text\": \"x\"}\n]\n".to_vec(), "jq -c '.[]'"),
        ("b.json", b"{\n \"text\": \"x\"\n}\n".to_vec(), "b.json, line 1: the line ends within an object"),
        (
            "b.jsonl",
            b"\n{\"body\": \"x\"}\n".to_vec(),
            "b.jsonl, line 2: the object has no field `text`; it has `body`",
        ),
    ];
    for (name, bytes, said) in cases {
        let found = place.refused(name, bytes);
        assert!(found.contains(said), "{name}: {found}");
    }
}

#[test]
fn what_is_not_text_is_left_out_with_a_note() {
    let place = Place::new();
    let all = stories();
    place.write("deep/er/a.jsonl", jsonl(&all));
    fs::create_dir(place.path("empty")).unwrap();
    for hidden in [".DS_Store", ".cache/b.jsonl", "deep/._a.jsonl"] {
        place.write(hidden, "not text");
    }
    place.write("README.md", "about");
    place.write("source.zip", "PK\x03\x04");
    symlink("/nowhere", place.path("gone")).unwrap();
    let (result, notes) = place.prepare();
    assert!(result.unwrap().domains[0].train.text_bytes > 0);
    let notes = notes.join("\n");
    for said in [
        "README.md is left out",
        "source.zip is left out: archives",
        "gone: it is a link to /nowhere, which does not exist",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert!(!notes.contains(".DS_Store") && notes.lines().count() == 3, "{notes}");
    // Named by itself, an archive is meant.
    let config = place.config(vec![place.path("source.zip")]);
    assert!(message(place.prepare_with(&config).0).contains("unpack it (unzip)"));
}

#[test]
fn a_link_that_leads_nowhere_and_a_pipe_are_refused() {
    let place = Place::new();
    place.write("a.jsonl", jsonl(&stories()));
    symlink("/no/such/place.jsonl", place.path("b.jsonl")).unwrap();
    let found = message(place.prepare().0);
    assert!(found.contains("b.jsonl: it is a link to /no/such/place.jsonl, which does not exist"), "{found}");
    fs::remove_file(place.path("b.jsonl")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, place.path("c.jsonl"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    let found = message(place.prepare().0);
    assert!(found.contains("c.jsonl: it is not an ordinary file"), "{found}");
}

#[test]
fn a_file_is_read_once_however_often_it_is_given() {
    let place = Place::new();
    let all = stories();
    let path = place.write("sub/a.jsonl", jsonl(&all));
    symlink(&path, place.path("link.jsonl")).unwrap();
    symlink(place.path("sub"), place.path("again")).unwrap();
    symlink(place.path(""), place.path("sub/loop")).unwrap();
    assert_eq!(place.documents(), all.len() as u64);
    let config = place.config(vec![place.path("sub"), path.clone(), place.path("")]);
    let (result, notes) = place.prepare_with(&config);
    let domain = &result.unwrap().domains[0];
    assert_eq!(domain.train.documents + domain.validation.documents, all.len() as u64);
    let notes = notes.join("\n");
    assert!(notes.contains("sub/a.jsonl is given twice and read once"), "{notes}");
    assert!(notes.contains("link.jsonl is the same as ") && notes.contains("again is the same as "), "{notes}");
}

#[test]
fn a_file_in_two_domains_is_refused() {
    let place = Place::new();
    let path = place.write("sub/a.jsonl", jsonl(&stories()));
    symlink(&path, place.path("other.jsonl")).unwrap();
    let mut config = place.config(vec![place.path("sub")]);
    config.domains.push(DomainSource { name: "e".to_string(), paths: vec![place.path("other.jsonl")] });
    let found = message(place.prepare_with(&config).0);
    assert!(found.contains("belongs to domain `e` and, as ") && found.contains("to domain `d`"), "{found}");
    config.domains[1].paths = vec![place.path("")];
    assert!(message(place.prepare_with(&config).0).contains("a text belongs to one domain"));
}

#[test]
fn names_may_be_anything_that_the_system_allows() {
    let place = Place::new();
    let all = stories();
    let names: [&[u8]; 4] = [b"a b.jsonl", "中文 é.jsonl".as_bytes(), b"new\nline.jsonl", b"caf\xe9.jsonl"];
    for (name, part) in names.into_iter().zip(all.chunks(all.len().div_ceil(4))) {
        place.write(OsStr::from_bytes(name), jsonl(part));
    }
    assert_eq!(place.documents(), all.len() as u64);
}

#[test]
fn line_ends_and_marks_of_other_systems_change_nothing() {
    let place = Place::new();
    let all = stories();
    let plain = jsonl(&all);
    place.write("a.jsonl", &plain);
    let expected = place.prepare().0.unwrap();
    let (first, second) = plain.split_at(plain[..5000].rfind('\n').unwrap() + 1);
    let marked = format!("\u{feff}{first}\u{feff}{second}\n  \n").replace('\n', "\r\n");
    place.write("a.jsonl", marked.trim_end());
    place.write("empty.jsonl", "");
    assert_eq!(place.prepare().0.unwrap(), expected);
}

#[test]
fn a_line_longer_than_a_chunk_is_one_document() {
    let place = Place::new();
    let mut all = stories();
    all.push("a long way ".repeat(300_000));
    place.write("a.jsonl", jsonl(&all));
    assert_eq!(place.documents(), all.len() as u64);
}

#[test]
fn broken_lines_are_named_skipped_when_allowed_and_counted() {
    let place = Place::new();
    let all = stories();
    let good = jsonl(&all);
    let lines = good.lines().count();
    let broken = [
        "{\"text\": \"half a pair \\ud83d\"}",
        "{\"text\": \"x\", \"score\": NaN}",
        "{\"text\": \"cut sh",
        "{\"text\": null}",
    ];
    for (at, line) in broken.iter().enumerate() {
        let found = place.refused("a.jsonl", format!("{good}{line}\n"));
        assert!(found.contains(&format!("a.jsonl, line {}: ", lines + 1)), "{found}");
        assert!(found.contains("at column ") && found.contains("--skip-broken N"), "{at}: {found}");
    }
    let path = place.write("a.jsonl", format!("{}\n{good}{}\n", broken[0], broken[1..].join("\n")));
    let mut config = place.config(vec![path]);
    config.skip_broken = 3;
    let found = message(place.prepare_with(&config).0);
    assert!(found.contains(&format!("line {}: ", lines + 4)) && found.contains("one more than the 3"), "{found}");
    config.skip_broken = 4;
    let mut manifests = Vec::new();
    for threads in [1, 3] {
        config.threads = threads;
        let (manifest, notes) = place.prepare_with(&config);
        manifests.push(manifest.unwrap());
        assert!(
            notes.iter().any(|note| note.contains("left out, the first of domain `d`") && note.contains("line 1:"))
        );
    }
    assert_eq!(manifests[0], manifests[1]);
    let domain = &manifests[0].domains[0];
    assert_eq!((domain.broken_documents, domain.train.documents + domain.validation.documents), (4, all.len() as u64));
    // The broken lines are as if they were not there.
    place.write("a.jsonl", &good);
    let mut without = place.prepare().0.unwrap();
    without.domains[0].broken_documents = 4;
    assert_eq!(without, manifests[0]);
}

#[test]
fn a_domain_of_two_long_documents_is_told_what_the_split_needs() {
    let place = Place::new();
    for name in ["a.txt", "b.txt"] {
        place.write(name, format!("{name}: {}", "a long story ".repeat(10_000)));
    }
    place.write("copy.txt", fs::read(place.path("a.txt")).unwrap());
    let found = message(place.prepare().0);
    assert!(found.contains("domain `d` has 2 different documents"), "{found}");
    assert!(
        found.contains("cut long documents into parts") && found.contains("join the domain with another"),
        "{found}"
    );
}

#[test]
fn a_tokenizer_that_draws_or_cuts_gives_the_same_bytes_twice() {
    let place = Place::new();
    place.write("a.jsonl", jsonl(&stories()));
    let trained = place.config(vec![place.path("")]);
    prepare(&trained, &Silent).unwrap();
    let text = fs::read_to_string(trained.output.join("tokenizer.json")).unwrap();
    fs::remove_dir_all(&trained.output).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut config = place.config(vec![place.path("a.jsonl")]);
    let mut prepared = |json: &serde_json::Value| {
        let path = place.write("tok/tokenizer.json", json.to_string());
        config.tokenizer = TokenizerSource::File(path);
        let (manifest, notes) = place.prepare_with(&config);
        (manifest.unwrap().domains, notes.join("\n"))
    };
    let (plain, notes) = prepared(&json);
    assert_eq!(notes, "");
    json["model"]["dropout"] = 0.3.into();
    json["truncation"] =
        serde_json::json!({ "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0 });
    for _ in 0..2 {
        let (domains, notes) = prepared(&json);
        assert_eq!(domains, plain);
        assert!(notes.contains("truncation to 8 tokens, dropout of 0.3 switched off"), "{notes}");
    }
}

#[test]
fn a_model_without_bos_gets_none_unless_an_id_is_given() {
    let place = Place::new();
    place.write("a.jsonl", jsonl(&stories()));
    let trained = place.config(vec![place.path("a.jsonl")]);
    prepare(&trained, &Silent).unwrap();
    fs::create_dir(place.path("tok")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(trained.output.join(name), place.path("tok").join(name)).unwrap();
    }
    fs::remove_dir_all(&trained.output).unwrap();
    let beside = place.path("tok/tokenizer_config.json");
    let text = fs::read_to_string(&beside).unwrap();
    fs::write(&beside, format!("\u{feff}{}", text.replace("\"add_bos_token\": true", "\"add_bos_token\": false")))
        .unwrap();
    let mut config = place.config(vec![place.path("a.jsonl")]);
    config.tokenizer = TokenizerSource::File(place.path("tok"));
    let (manifest, notes) = place.prepare_with(&config);
    let manifest = manifest.unwrap();
    assert_eq!((manifest.bos_token_id, manifest.eos_token_id), (None, Some(1)));
    assert!(notes.join("\n").contains("no BOS before documents"), "{notes:?}");
    config.bos_token_id = Some(0);
    assert_eq!(place.prepare_with(&config).0.unwrap().bos_token_id, Some(0));
}

#[test]
fn other_json_in_place_of_a_tokenizer_is_told_as_what_it_is() {
    let place = Place::new();
    place.write("a.jsonl", jsonl(&stories()));
    for (text, what) in
        [("{\"model_type\": \"llama\"}", "the config.json of a model"), ("{\"a\": 1}", "it has no \"model\"")]
    {
        place.write("config.json", text);
        let mut config = place.config(vec![place.path("a.jsonl")]);
        config.tokenizer = TokenizerSource::File(place.path("config.json"));
        let told = prepare(&config, &Silent).unwrap_err().to_string();
        assert!(told.contains(what) && told.contains("expected tokenizer.json"), "{told}");
    }
}
