//! Preparation end to end: every input format, the split, the tokenizer, the files, and wrong input.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::common::{config, domain, gzip, jsonl, message, parquet, prepared, texts, zstandard};
use shearling_domains::synthetic::{Kind, write_domains};
use shearling_domains::{Dataset, DomainSource, Error, Silent, Split, TokenizerSource, prepare};
use tokenizers::Tokenizer;

/// All tokens of one side, cut into documents at BOS; the last may be cut short by the dropped tail.
fn documents(dataset: &Dataset, domain: usize, split: Split) -> Vec<String> {
    let tokenizer = Tokenizer::from_file(dataset.tokenizer_path()).unwrap();
    let (bos, eos) = (dataset.manifest().bos_token_id.unwrap(), dataset.manifest().eos_token_id.unwrap());
    let mut ids = Vec::new();
    for row in 0..dataset.rows(domain, split) {
        dataset.read_row(domain, split, row, &mut ids).unwrap();
    }
    let cut = ids.split(|&id| id == bos).skip(1);
    cut.filter(|ids| ids.last() == Some(&eos)).map(|ids| tokenizer.decode(ids, true).unwrap()).collect()
}

#[test]
fn every_format_gives_the_same_documents() {
    let root = tempfile::tempdir().unwrap();
    let all = texts(Kind::Stories, 40_000);
    let (first, second) = all.split_at(all.len() / 2);
    let mut expected: Option<Vec<String>> = None;
    for format in ["jsonl", "jsonl.gz", "json.zst", "txt", "txt.gz", "0.parquet", "1.parquet", "2.parquet"] {
        let own = root.path().join(format.replace('.', "-"));
        let folder = own.join("in/deeper");
        fs::create_dir_all(&folder).unwrap();
        fs::write(own.join("in/README.md"), "left out").unwrap();
        for (part, texts) in [(0, first), (1, second)] {
            let bytes = jsonl(texts).into_bytes();
            let path = folder.join(format!("part-{part}.{format}"));
            match format {
                "jsonl" => fs::write(path, [b"\xef\xbb\xbf".as_slice(), &bytes].concat()).unwrap(),
                "jsonl.gz" => fs::write(path, [gzip(&bytes[..100]), gzip(&bytes[100..])].concat()).unwrap(),
                "json.zst" => fs::write(path, [zstandard(&bytes[..100]), zstandard(&bytes[100..])].concat()).unwrap(),
                "txt" | "txt.gz" => texts.iter().enumerate().for_each(|(at, text)| {
                    let bytes = if format == "txt" { text.clone().into_bytes() } else { gzip(text.as_bytes()) };
                    fs::write(folder.join(format!("part-{part}-{at:04}.{format}")), bytes).unwrap();
                }),
                _ => parquet(&path, texts, format[..1].parse().unwrap()),
            }
        }
        let source = DomainSource { name: "d".to_string(), paths: vec![own.join("in")] };
        let config = config(&own, vec![source]);
        let manifest = prepare(&config, &Silent).unwrap();
        assert_eq!(manifest.domains[0].train.documents + manifest.domains[0].validation.documents, all.len() as u64);
        let dataset = Dataset::open(&config.output).unwrap();
        dataset.verify().unwrap();
        let found: Vec<String> = Split::ALL.iter().flat_map(|&split| documents(&dataset, 0, split)).collect();
        // The tail that is dropped cuts at most one document of each side.
        assert!(found.len() + 2 >= all.len());
        assert!(found.iter().all(|text| all.contains(text)));
        assert_eq!(expected.get_or_insert(found.clone()), &found, "{format}");
    }
}

#[test]
fn sides_share_no_document_and_duplicates_stay_together() {
    let root = tempfile::tempdir().unwrap();
    let mut all = texts(Kind::Dialogue, 60_000);
    all.extend_from_within(..all.len() / 2);
    let config = config(root.path(), vec![domain(root.path(), "d", &all)]);
    let manifest = prepare(&config, &Silent).unwrap();
    let (train, validation) = (&manifest.domains[0].train, &manifest.domains[0].validation);
    assert!(validation.documents >= 2);
    let share = validation.text_bytes as f64 / (train.text_bytes + validation.text_bytes) as f64;
    assert!((0.1..0.2).contains(&share), "{share}");
    for entry in [train, validation] {
        assert_eq!(entry.tokens, entry.rows * 32);
        assert!(entry.dropped_tokens < 32);
    }
    let dataset = Dataset::open(&config.output).unwrap();
    let sides = Split::ALL.map(|split| documents(&dataset, 0, split).into_iter().collect::<HashSet<String>>());
    assert!(sides[0].is_disjoint(&sides[1]));
    assert!(!sides[1].is_empty());
}

#[test]
fn output_does_not_depend_on_the_number_of_threads() {
    let root = tempfile::tempdir().unwrap();
    let domains = vec![
        domain(root.path(), "stories", &texts(Kind::Stories, 2_500_000)),
        domain(root.path(), "code", &texts(Kind::Code, 20_000)),
    ];
    let written = |threads: usize| {
        let mut config = config(root.path(), domains.clone());
        config.output = root.path().join(format!("tokens-{threads}"));
        config.threads = threads;
        prepare(&config, &Silent).unwrap();
        let files = ["tokenizer.json", "manifest.json", "README.md", "stories/train-00000.parquet"];
        files.map(|name| fs::read(config.output.join(name)).unwrap())
    };
    let one = written(1);
    assert!(one == written(2) && one == written(5));
}

#[test]
fn trained_tokenizer_gives_back_any_text() {
    let root = tempfile::tempdir().unwrap();
    let (output, manifest) = prepared(root.path());
    assert_eq!((manifest.vocab_size, manifest.bos_token_id, manifest.eos_token_id), (300, Some(0), Some(1)));
    let tokenizer = Tokenizer::from_file(output.join("tokenizer.json")).unwrap();
    for text in ["", " ", "a  b\n\n\tc", "12345 + 6", "héllo wörld 😀 漢字", "x\u{0}\r\n<unk>", "  leading"] {
        let encoding = tokenizer.encode(text, true).unwrap();
        assert_eq!(encoding.get_ids()[0], 0);
        assert_eq!(tokenizer.decode(encoding.get_ids(), true).unwrap(), text);
    }
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(output.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    let card = fs::read_to_string(output.join("README.md")).unwrap();
    assert!(card.starts_with("---\nconfigs:\n- config_name: \"stories\"\n"), "{card}");
}

#[test]
fn special_tokens_in_text_are_ordinary_characters() {
    let root = tempfile::tempdir().unwrap();
    let all: Vec<String> = (0..200).map(|at| format!("number {at} </s><s> and on")).collect();
    let config = config(root.path(), vec![domain(root.path(), "d", &all)]);
    let manifest = prepare(&config, &Silent).unwrap();
    let dataset = Dataset::open(&config.output).unwrap();
    let rows: Vec<u64> = (0..dataset.rows(0, Split::Train)).collect();
    let ids = dataset.train_rows(0, &rows).unwrap();
    let bos = ids.iter().filter(|&&id| id == manifest.bos_token_id.unwrap()).count() as u64;
    assert!(bos <= manifest.domains[0].train.documents);
    assert!(documents(&dataset, 0, Split::Train).iter().all(|text| text.contains("</s><s>")));
}

/// A word-level tokenizer whose largest id is `largest`, with truncation and padding that must not be applied.
fn word_tokenizer(path: &Path, largest: u32) {
    let vocab = serde_json::json!({ "<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": largest });
    let special = |id: u32, content: &str| {
        serde_json::json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let json = serde_json::json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 64 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "<unk>" },
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    });
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn width_follows_the_vocabulary_and_packing_is_exact() {
    let root = tempfile::tempdir().unwrap();
    for (largest, type_name) in [(65_535, "UInt16"), (65_536, "UInt32")] {
        let own = root.path().join(type_name);
        let texts: Vec<String> = (0..20).map(|at| format!("a b{}", " b".repeat(at))).collect();
        let mut config = config(&own, vec![domain(&own, "d", &texts)]);
        let tokenizer = own.join("tokenizer.json");
        word_tokenizer(&tokenizer, largest);
        (config.tokenizer, config.sequence_length) = (TokenizerSource::File(tokenizer), 4);
        let manifest = prepare(&config, &Silent).unwrap();
        assert_eq!(manifest.vocab_size, u64::from(largest) + 1);
        let path = config.output.join("d/train-00000.parquet");
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap());
        let found = reader.unwrap().schema().field(0).data_type().to_string();
        assert!(found.contains(type_name), "{found}");
        // Replays the packing: BOS a b.. EOS of every document of this side, cut into fours.
        let dataset = Dataset::open(&config.output).unwrap();
        let (mut total, mut sides) = (0, Vec::new());
        for split in Split::ALL {
            let rows = dataset.rows(0, split);
            let mut ids = Vec::new();
            (0..rows).for_each(|row| dataset.read_row(0, split, row, &mut ids).unwrap());
            let entry = manifest.domains[0].split(split);
            total += entry.tokens + entry.dropped_tokens;
            let mut rest = ids.as_slice();
            while let Some(end) = rest.iter().position(|&id| id == 2) {
                assert_eq!(rest[..2], [1, 3]);
                assert!(rest[2..end].iter().all(|&id| id == largest));
                sides.push(end - 3);
                rest = &rest[end + 1..];
            }
        }
        assert_eq!(total, (0..20).map(|at| at + 4).sum::<u64>());
        assert_eq!(sides.iter().collect::<HashSet<_>>().len(), sides.len());
        assert!(sides.len() >= 18);
    }
}

#[test]
fn bos_and_eos_are_found_configured_or_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path();
    let texts: Vec<String> = (0..30).map(|at| "a ".repeat(at + 5)).collect();
    let tokenizer = own.join("tokenizer.json");
    let base = || {
        let mut config = config(own, vec![domain(own, "d", &texts)]);
        (config.tokenizer, config.sequence_length) = (TokenizerSource::File(tokenizer.clone()), 4);
        config
    };
    fs::create_dir_all(own).unwrap();
    word_tokenizer(&tokenizer, 4);
    let check = |config: &shearling_domains::PrepareConfig, expected: (Option<u32>, Option<u32>)| {
        let manifest = prepare(config, &Silent).unwrap();
        assert_eq!((manifest.bos_token_id, manifest.eos_token_id), expected);
        fs::remove_dir_all(&config.output).unwrap();
    };
    check(&base(), (Some(1), Some(2)));
    let mut none = base();
    (none.add_bos, none.add_eos) = (false, false);
    check(&none, (None, None));
    let mut given = base();
    given.bos_token_id = Some(4);
    check(&given, (Some(4), Some(2)));
    given.bos_token_id = Some(5);
    assert!(message(prepare(&given, &Silent)).contains("--bos-id: token id 5 is not below the vocabulary size 5"));
    let beside = own.join("tokenizer_config.json");
    fs::write(&beside, r#"{"bos_token": {"content": "a"}, "eos_token": "b"}"#).unwrap();
    check(&base(), (Some(3), Some(4)));
    fs::write(&beside, r#"{"bos_token": "nowhere"}"#).unwrap();
    assert!(message(prepare(&base(), &Silent)).contains("`nowhere`"));
    fs::remove_file(&beside).unwrap();
    let text = fs::read_to_string(&tokenizer).unwrap().replace("<s>", "[start]");
    fs::write(&tokenizer, text).unwrap();
    assert!(message(prepare(&base(), &Silent)).contains("--bos-id, or use --no-bos"));
}

#[test]
fn wrong_input_is_named_and_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path();
    let good = jsonl(&texts(Kind::Stories, 20_000));
    let attempt = |name: &str, bytes: &[u8]| {
        let path = own.join(name);
        fs::write(&path, bytes).unwrap();
        let source = DomainSource { name: "d".to_string(), paths: vec![path] };
        let message = message(prepare(&config(own, vec![source]), &Silent));
        assert!(!own.join("tokens").exists());
        let left = fs::read_dir(own).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
        assert_eq!(left, 0, "a temporary folder was left behind");
        message
    };
    let line = good.lines().count() + 1;
    for (name, text, expected) in [
        (
            "a.jsonl",
            format!("{good}{{\"body\": 1}}\n"),
            format!("a.jsonl, line {line}: the object has no field `text`; it has `body`"),
        ),
        ("b.jsonl", format!("{good}not json\n"), format!("b.jsonl, line {line}: ")),
        ("c.jsonl", format!("{good}{{\"text\": null}}\n"), "expected a string".to_string()),
        ("d.jsonl", String::new(), "domain `d` is empty".to_string()),
        ("e.jsonl", "{\"text\": \"\"}\n\n".to_string(), "domain `d` is empty".to_string()),
        ("f.jsonl", jsonl(&["a".to_string(), "b".to_string()]), "different documents".to_string()),
        ("g.parquet", "PAR1 nothing PAR1".to_string(), "g.parquet cannot be read as Parquet".to_string()),
        ("h.docx", good.clone(), "h.docx has an unknown format".to_string()),
        ("i.jsonl.gz", good.clone(), "i.jsonl.gz".to_string()),
        ("j.jsonl.zst", good.clone(), "j.jsonl.zst".to_string()),
        ("k.txt", "one document".to_string(), "has 1 different document:".to_string()),
    ] {
        let message = attempt(name, text.as_bytes());
        assert!(message.contains(&expected), "{name}: {message}");
    }
    let message = attempt("l.jsonl", &[good.as_bytes(), b"{\"text\": \"\xff\"}\n"].concat());
    assert!(message.contains(&format!("l.jsonl, line {line}: ")), "{message}");
    let message = attempt("m.txt", b"good\nbad \xff");
    assert!(message.contains("m.txt, line 2: the text is not valid UTF-8"), "{message}");
    let whole = gzip(good.as_bytes());
    assert!(attempt("n.jsonl.gz", &whole[..whole.len() / 2]).contains("n.jsonl.gz"));
    let path = own.join("o.parquet");
    parquet(&path, &texts(Kind::Code, 20_000), 0);
    let whole = fs::read(&path).unwrap();
    assert!(attempt("o.parquet", &whole[..whole.len() / 2]).contains("o.parquet"));
    let source = DomainSource { name: "d".to_string(), paths: vec![own.join("missing")] };
    assert!(crate::common::message(prepare(&config(own, vec![source]), &Silent)).contains("missing"));
}

#[test]
fn impossible_settings_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path();
    let source = domain(own, "d", &texts(Kind::Code, 20_000));
    let attempt = |change: &dyn Fn(&mut shearling_domains::PrepareConfig)| {
        let mut config = config(own, vec![source.clone()]);
        change(&mut config);
        message(prepare(&config, &Silent))
    };
    assert!(attempt(&|c| c.sequence_length = 1).contains("--sequence-length = 1"));
    assert!(attempt(&|c| c.validation_fraction = 0.0).contains("--validation-fraction = 0"));
    assert!(attempt(&|c| c.validation_fraction = f64::NAN).contains("--validation-fraction = NaN"));
    assert!(attempt(&|c| c.tokenizer = TokenizerSource::Train(100)).contains("at least 258"));
    assert!(attempt(&|c| c.domains.clear()).contains("at least one domain"));
    assert!(attempt(&|c| c.domains[0].name = "../up".to_string()).contains("../up"));
    assert!(attempt(&|c| c.domains.push(c.domains[0].clone())).contains("given twice"));
    assert!(attempt(&|c| c.text_field = "body".to_string()).contains("no field `body`"));
    assert!(attempt(&|c| c.sequence_length = 1 << 20).contains("domain `d` fills no"));
    fs::create_dir(own.join("tokens")).unwrap();
    fs::write(own.join("tokens/mine"), "kept").unwrap();
    assert!(matches!(prepare(&config(own, vec![source.clone()]), &Silent), Err(Error::OutputExists { .. })));
    assert_eq!(fs::read_to_string(own.join("tokens/mine")).unwrap(), "kept");
}

#[test]
fn a_validation_side_too_small_for_a_row_grows() {
    let root = tempfile::tempdir().unwrap();
    let all: Vec<String> = texts(Kind::Arithmetic, 30_000).iter().map(|text| text[..200].to_string()).collect();
    let all = &all[..20];
    let mut config = config(root.path(), vec![domain(root.path(), "d", all)]);
    (config.sequence_length, config.validation_fraction) = (768, 0.05);
    let manifest = prepare(&config, &Silent).unwrap();
    assert!(manifest.domains[0].validation.rows >= 1);
    assert!(manifest.domains[0].validation.documents > 2);
    Dataset::open(&config.output).unwrap().verify().unwrap();
}

#[test]
fn generated_domains_can_be_prepared() {
    let root = tempfile::tempdir().unwrap();
    let domains = write_domains(&root.path().join("text"), 20_000, 3).unwrap();
    assert!(write_domains(&root.path().join("text"), 20_000, 3).is_err());
    let mut config = config(root.path(), domains);
    config.output = root.path().join("out/tokens");
    let manifest = prepare(&config, &Silent).unwrap();
    assert_eq!(manifest.domains.len(), Kind::ALL.len());
    let bytes: u64 = manifest.domains.iter().map(|domain| domain.train.text_bytes + domain.validation.text_bytes).sum();
    assert!((100_000..115_000).contains(&bytes), "{bytes}");
}
