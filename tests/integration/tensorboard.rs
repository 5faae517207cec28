//! TensorBoard event files from the command line. What is in them is tested beside their writer; here: when they are
//! written, across a resume, and that a run converted afterwards says what the run itself said.

use super::support::{config, data_path, sets, shearling, succeed, tiny_runs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn event_files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The events of a file, as bytes.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        records.push(rest[12..12 + length].to_vec());
        rest = &rest[12 + length + 4..];
    }
    records
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// How many events of a folder have a value of each tag.
fn counts(folder: &Path, tags: &[&str]) -> BTreeMap<String, usize> {
    let events: Vec<_> = event_files(folder).iter().flat_map(|path| records(path)).collect();
    let count = |tag: &&str| (tag.to_string(), events.iter().filter(|event| contains(event, tag)).count());
    tags.iter().map(count).collect()
}

#[test]
fn a_run_writes_events_as_it_goes_and_a_new_file_when_it_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let file = config("tiny-source.toml").display().to_string();
    let overrides = sets([
        ("run.directory", run.display().to_string()),
        ("run.device", "cpu".to_string()),
        ("data.path", data_path()),
        ("train.steps", "6".to_string()),
        ("train.warmup_steps", "1".to_string()),
        ("eval.every_steps", "3".to_string()),
    ]);
    let mut arguments = vec!["pretrain", "--config", &file, "--tensorboard", "--stop-at", "4"];
    arguments.extend(overrides.iter().map(String::as_str));
    succeed(&arguments);
    let events = run.join("tensorboard");
    let tags = ["loss/cross_entropy", "eval/mean_loss", "throughput/tokens_per_second", "config"];
    let expected =
        |numbers: [usize; 4]| tags.iter().map(|tag| tag.to_string()).zip(numbers).collect::<BTreeMap<_, _>>();
    // Evaluated before the first step and after the third.
    assert_eq!(counts(&events, &tags), expected([4, 2, 4, 1]));

    // The key is in resolved.toml, so a resumed run goes on with it.
    succeed(&["pretrain", "--resume", run.to_str().unwrap()]);
    // The third says that the model was written.
    assert_eq!(event_files(&events).len(), 3);
    // The new file has the four steps and two evaluations of the first once more, before its own.
    assert_eq!(counts(&events, &tags), expected([10, 5, 10, 2]));

    let again = folder.path().join("again");
    let written = succeed(&["tensorboard", run.to_str().unwrap(), "--out", again.to_str().unwrap()]);
    assert_eq!(written.trim(), again.display().to_string());
    assert_eq!(counts(&again, &tags), expected([6, 3, 6, 1]));
}

#[test]
fn a_run_that_was_not_asked_has_none_until_it_is_converted() {
    let run = tiny_runs().join("prune");
    assert!(!run.join("tensorboard").exists());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("events");
    succeed(&["tensorboard", run.to_str().unwrap(), "--out", out.to_str().unwrap(), "--json"]);
    let tags = ["multipliers/lambda_1/hidden", "gates/kv_head", "eval_cut/mean_loss", "row_sparsity/layer/000"];
    let found = counts(&out, &tags);
    assert_eq!(found["multipliers/lambda_1/hidden"], 40);
    assert_eq!((found["gates/kv_head"], found["row_sparsity/layer/000"]), (5, 5));
    assert!(found["eval_cut/mean_loss"] > 0);

    let output = shearling(&["tensorboard", run.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "a folder that is taken is left alone");
    let output = shearling(&["tensorboard", folder.path().to_str().unwrap()]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("metrics.jsonl"));
}
