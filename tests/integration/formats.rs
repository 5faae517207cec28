//! What an earlier shearling left on disk is read, inspected, reported, resumed and exported by this one. The folders
//! and the answers were made by the program named in tests/fixtures/formats/README.md; a change of a format on disk
//! shows here, a change of names in the code does not.

use super::support::{copy_folder, fixture, tensors};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A copy of the fixture in which paths of its own are those of the copy.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture("formats"), folder.path());
    for run in ["prune", "pretrain", "whole/prune", "whole/pretrain"] {
        let path = folder.path().join(run).join("resolved.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("@FOLDER@", folder.path().to_str().unwrap())).unwrap();
    }
    folder
}

/// Runs the binary inside `folder` and insists on exit code 0; stdout.
fn succeed_in(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shearling"));
    let output = command.args(arguments).current_dir(folder).env("OMP_NUM_THREADS", "1").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Equal but for the last digits of floats, which another CPU's kernels may round otherwise.
fn assert_alike(found: &Value, expected: &Value, place: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(found), keys(expected), "{place}");
            // What is said of the numbers may be said better.
            for (key, value) in expected.iter().filter(|(key, _)| !["notes", "answers", "text"].contains(&key.as_str()))
            {
                assert_alike(&found[key], value, &format!("{place}.{key}"));
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{place}");
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_alike(found, expected, &format!("{place}[{index}]"));
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{place}: {found}, was {expected}");
        }
        _ => assert_eq!(found, expected, "{place}"),
    }
}

#[test]
fn folders_of_an_earlier_version_tell_what_they_told() {
    let folder = copy();
    for (name, arguments) in [
        ("inspect-run-prune", &["inspect", "run", "prune", "--json"] as &[&str]),
        ("inspect-run-pretrain", &["inspect", "run", "whole/pretrain", "--json"]),
        ("inspect-masks", &["inspect", "masks", "prune", "--json"]),
        ("inspect-model", &["inspect", "model", "whole/prune/pruned", "--json"]),
        ("data-inspect", &["data", "inspect", "data", "--json"]),
        ("report", &["report", "whole/prune", "whole/pretrain", "--json"]),
    ] {
        let expected = std::fs::read_to_string(folder.path().join(format!("expected/{name}.json"))).unwrap();
        let expected = expected.replace("@FOLDER@", folder.path().to_str().unwrap());
        let found = succeed_in(folder.path(), arguments);
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_alike(&parse(&found), &parse(&expected), name);
    }
}

/// The records of kind `step` from the step after `after` on.
fn steps_after(run: &Path, after: u64) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps = records.filter(|record| record["type"] == "step" && record["step"].as_u64().unwrap() > after);
    steps.collect()
}

/// Resumes a run that was stopped after step 25 of 40 and compares it with the same run that was not: the rows that were
/// drawn are the same, the losses agree to what another CPU may round, and where they agree to the bit, as they do on
/// the CPU that made the fixture, so do the weights that were written.
fn resumes_as_the_whole_run(stage: &str, written: &str) {
    let folder = copy();
    succeed_in(folder.path(), &[stage, "--resume", stage]);
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let (resumed, whole) = (steps_after(&at(stage), 25), steps_after(&at(&format!("whole/{stage}")), 25));
    assert_eq!((resumed.len(), whole.len()), (15, 15));
    let loss = |record: &Value| record["loss"]["total"].as_f64().unwrap();
    for (resumed, whole) in resumed.iter().zip(&whole) {
        for domain in ["code", "numbers", "prose"] {
            assert!(whole["domains"][domain]["rows"].is_u64(), "{whole}");
            assert_eq!(resumed["domains"][domain]["rows"], whole["domains"][domain]["rows"]);
        }
        assert!((loss(resumed) - loss(whole)).abs() < 1e-3 * loss(whole), "{resumed}\n{whole}");
    }
    let weights = |run: &str| tensors(&at(&format!("{run}/{written}/model.safetensors")));
    let (resumed_weights, whole_weights) = (weights(stage), weights(&format!("whole/{stage}")));
    assert_eq!(resumed_weights.keys().collect::<Vec<_>>(), whole_weights.keys().collect::<Vec<_>>());
    let same_bits = resumed.iter().zip(&whole).all(|(resumed, whole)| loss(resumed) == loss(whole));
    for (name, tensor) in &resumed_weights {
        let apart = super::support::apart(tensor, &whole_weights[name]);
        assert!(if same_bits { apart == 0.0 } else { apart < 1e-2 }, "{name}: {apart}");
    }
}

#[test]
fn a_prune_run_of_an_earlier_version_resumes() {
    resumes_as_the_whole_run("prune", "pruned");
}

#[test]
fn a_continued_run_of_an_earlier_version_resumes() {
    resumes_as_the_whole_run("pretrain", "model");
}

#[test]
fn a_checkpoint_of_an_earlier_version_is_exported() {
    let folder = copy();
    succeed_in(folder.path(), &["export", "prune", "--out", "small"]);
    succeed_in(folder.path(), &["export", "pretrain", "--out", "continued"]);
    for (name, shape) in [("small", "whole/prune/pruned"), ("continued", "whole/pretrain/model")] {
        let model = |folder_name: &str| tensors(&folder.path().join(folder_name).join("model.safetensors"));
        let shapes =
            |folder_name: &str| model(folder_name).iter().map(|(n, t)| (n.clone(), t.size())).collect::<Vec<_>>();
        assert_eq!(shapes(name), shapes(shape));
        succeed_in(folder.path(), &["generate", name, "--prompt", "the river", "--max-tokens", "3"]);
    }
}
