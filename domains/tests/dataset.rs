//! Opening a dataset that is damaged, hostile or of another version.

use std::fs;
use std::path::Path;

use crate::common::{message, prepared};
use serde_json::Value;
use shearling_domains::{Dataset, Error, Split};

fn edit(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn says_what_it_holds() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = prepared(root.path());
    let dataset = Dataset::open(&folder).unwrap();
    dataset.verify().unwrap();
    assert_eq!(dataset.manifest(), &manifest);
    assert_eq!(dataset.domain_names(), ["stories", "code", "records"]);
    assert_eq!(dataset.domain_index("code"), Some(1));
    assert_eq!((dataset.sequence_length(), dataset.vocab_size()), (32, 300));
    assert_eq!(dataset.fingerprint(), Dataset::open(&folder).unwrap().fingerprint());
    let (bos, eos) = (manifest.bos_token_id.unwrap(), manifest.eos_token_id.unwrap());
    assert_eq!((dataset.added_token(bos).as_deref(), dataset.added_token(eos).as_deref()), (Some("<s>"), Some("</s>")));
    assert_eq!(dataset.added_token(299), None);
    let rows = dataset.rows(0, Split::Train);
    assert_eq!(dataset.tokens(0, Split::Train), rows * 32);
    let two = dataset.train_rows(0, &[rows - 1, 0]).unwrap();
    assert_eq!(two.len(), 64);
    assert_eq!(two[32], manifest.bos_token_id.unwrap());
    let all = dataset.validation_rows(2, u64::MAX).unwrap();
    assert_eq!(all.len() as u64, dataset.tokens(2, Split::Validation));
    assert_eq!(dataset.validation_rows(2, 1).unwrap(), all[..32]);
    let preview = dataset.preview(2, 2).unwrap();
    assert!(preview.len() == 2 && preview[0].starts_with("<s>id,city"), "{preview:?}");
    assert!(
        message(dataset.train_rows(0, &[rows])).contains(&format!("row of domain `stories` {rows} does not exist"))
    );
    assert!(message(dataset.validation_rows(3, 1)).contains("domain 3 does not exist; there are 3"));
}

#[test]
fn damage_is_found_and_named() {
    let root = tempfile::tempdir().unwrap();
    let (folder, _) = prepared(root.path());
    let path = folder.join("code/train-00000.parquet");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(message(Dataset::open(&folder)).contains("code/train-00000.parquet is damaged"));
    fs::remove_file(&path).unwrap();
    assert!(message(Dataset::open(&folder)).contains("code/train-00000.parquet"));
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let dataset = Dataset::open(&folder).unwrap();
        assert!(message(dataset.verify()).contains("code/train-00000.parquet is damaged"));
    }
    // A flipped byte in the middle of the data is noticed by reading alone.
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let dataset = Dataset::open(&folder).unwrap();
    assert!(matches!(dataset.train_rows(1, &[0]), Err(Error::Corrupt { .. })));
    fs::write(&path, &whole).unwrap();
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    let dataset = Dataset::open(&folder).unwrap();
    assert!(message(dataset.verify()).contains("tokenizer.json is damaged"));
    assert!(message(dataset.preview(0, 1)).contains("tokenizer.json"));
}

#[test]
fn a_manifest_is_not_trusted() {
    let root = tempfile::tempdir().unwrap();
    let (folder, _) = prepared(root.path());
    let original = fs::read(folder.join("manifest.json")).unwrap();
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 9] = [
        (|m| m["format_version"] = 2.into(), "format version 2, this program reads version 1"),
        (|m| m["max_token_id"] = 300.into(), "max_token_id 300 is not below vocab_size 300"),
        (|m| m["domains"] = Value::Array(vec![]), "no domains"),
        (|m| m["domains"][0]["train"]["rows"] = 5.into(), "do not add up to 5 rows"),
        (|m| m["domains"][0]["train"]["files"] = Value::Array(vec![]), "do not add up"),
        (|m| m["domains"][0]["train"]["files"][0]["name"] = "../../secret".into(), "not a path inside"),
        (|m| m["domains"][0]["train"]["files"][0]["name"] = "/etc/passwd".into(), "not a path inside"),
        (|m| m["domains"][0]["name"] = "../up".into(), "cannot be the name of a domain"),
        (|m| m["domains"][0]["train"]["files"][0]["row_groups"][0]["rows"] = u64::MAX.into(), "row group of"),
    ];
    for (change, expected) in cases {
        edit(&folder, change);
        let found = message(Dataset::open(&folder));
        assert!(found.contains(expected), "{found}");
        fs::write(folder.join("manifest.json"), &original).unwrap();
    }
    for length in [0, 1, original.len() / 2, original.len() - 2] {
        fs::write(folder.join("manifest.json"), &original[..length]).unwrap();
        assert!(message(Dataset::open(&folder)).contains("manifest.json"));
    }
    fs::remove_file(folder.join("manifest.json")).unwrap();
    assert!(
        message(Dataset::open(&folder)).contains("is not prepared data (it has no manifest.json): expected a folder")
    );
    let none = message(Dataset::open(folder.join("none")));
    assert!(none.contains("is not prepared data (there is no such folder)"), "{none}");
}

#[test]
fn counts_that_lie_together_are_found_when_reading() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = prepared(root.path());
    let rows = manifest.domains[0].train.rows + 7;
    edit(&folder, |m| {
        let train = &mut m["domains"][0]["train"];
        (train["rows"], train["tokens"]) = (rows.into(), (rows * 32).into());
        train["files"][0]["rows"] = rows.into();
        train["files"][0]["row_groups"][0]["rows"] = rows.into();
    });
    let dataset = Dataset::open(&folder).unwrap();
    assert!(message(dataset.train_rows(0, &[0])).contains("train-00000.parquet is damaged: row group 0 says"));
}

#[test]
fn tokens_outside_of_the_vocabulary_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (folder, _) = prepared(root.path());
    edit(&folder, |m| {
        m["vocab_size"] = 200.into();
        // As in folders that do not record it yet.
        m["max_token_id"] = Value::Null;
    });
    let dataset = Dataset::open(&folder).unwrap();
    let found = message(dataset.train_rows(0, &[0]));
    assert!(found.contains("train-00000.parquet, row") && found.contains("vocabulary size 200"), "{found}");
}

#[test]
fn the_largest_id_that_occurs_is_recorded_and_held_to() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = prepared(root.path());
    let dataset = Dataset::open(&folder).unwrap();
    let mut ids = Vec::new();
    for domain in 0..manifest.domains.len() {
        for split in Split::ALL {
            (0..dataset.rows(domain, split)).for_each(|row| dataset.read_row(domain, split, row, &mut ids).unwrap());
        }
    }
    let largest = ids.into_iter().max();
    assert_eq!((manifest.max_token_id, dataset.largest_token_id().ok()), (largest, largest));
    // In an older folder the files are asked.
    edit(&folder, |m| m["max_token_id"] = Value::Null);
    assert_eq!(Dataset::open(&folder).unwrap().largest_token_id().ok(), largest);
    edit(&folder, |m| m["max_token_id"] = 200.into());
    let dataset = Dataset::open(&folder).unwrap();
    let found = message(dataset.train_rows(0, &[0]));
    assert!(found.contains("train-00000.parquet") && found.contains("is above max_token_id 200"), "{found}");
}

#[test]
fn what_a_newer_program_records_besides_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = prepared(root.path());
    edit(&folder, |m| {
        m["surprise"] = 1.into();
        m["domains"][0]["train"]["files"][0]["surprise"] = 1.into();
    });
    assert_eq!(Dataset::open(&folder).unwrap().manifest(), &manifest);
}

#[test]
fn bytes_behind_the_tokens_are_those_of_the_text() {
    let root = tempfile::tempdir().unwrap();
    let (folder, manifest) = prepared(root.path());
    let dataset = Dataset::open(&folder).unwrap();
    let lengths = dataset.token_bytes().unwrap().expect("a byte-level tokenizer");
    for (index, domain) in manifest.domains.iter().enumerate() {
        let side = &domain.validation;
        // One sequence of all rows, so that only the first token, a BOS, is context.
        let counted = lengths.after_first(&dataset.validation_rows(index, u64::MAX).unwrap());
        let longest = 20 * side.dropped_tokens;
        assert!(counted <= side.text_bytes && counted + longest >= side.text_bytes, "{counted} of {}", side.text_bytes);
        let mean = dataset.mean_token_bytes(index, Split::Validation).unwrap();
        assert!((mean * side.tokens as f64 / counted as f64 - 1.0).abs() < 0.05, "{mean}");
    }
    assert_eq!(dataset.mean_token_bytes(99, Split::Validation), None);
    fs::write(dataset.tokenizer_path(), "{").unwrap();
    assert!(message(dataset.token_bytes()).contains("tokenizer.json"));
}
