//! `manifest.json`: what a committed step consists of, written last, so that its presence means "whole".
//!
//! Sizes catch truncation at no cost; hashes catch flipped bits and are checked on demand.

use super::layout::MANIFEST_NAME;
use crate::files::json::{self, Fields};
use crate::files::publish::entries_of;
use crate::files::{Error, Result, sha256_of_file};
use serde::{Deserialize, Serialize};
use std::path::{Component, Path};

/// The version of its format that is written; versions above are refused.
pub const MANIFEST_VERSION: u64 = 1;

/// The content of a `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] of the writer.
    pub format_version: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// What kind of run wrote it: "prune", "pretrain".
    pub kind: String,
    /// Every other file of the folder, sorted by path.
    pub files: Vec<FileEntry>,
}

/// One file of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path inside the folder, parts joined by `/`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Describes the files now in a folder (all but a manifest), hashing each.
    ///
    /// # Errors
    /// Something that is neither file nor folder, a name that is not UTF-8, or an unreadable file.
    pub(crate) fn describe(dir: &Path, step: u64, tokens: u64, kind: &str) -> Result<Manifest> {
        let mut files = Vec::new();
        collect(dir, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Manifest { format_version: MANIFEST_VERSION, step, tokens, kind: kind.to_owned(), files })
    }

    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// Missing, truncated, of a newer version, or naming files outside the folder.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST_NAME);
        let raw = json::parse_object(&json::read_bounded(&path)?, &path)?;
        let fields = Fields::new(&path, &raw);
        // The version first: a newer file may have other keys, and "unknown key" would be the wrong message.
        let version = fields.integer("format_version", 1..=i64::MAX)? as u64;
        if version > MANIFEST_VERSION {
            let supported = format!("up to {MANIFEST_VERSION}; use the shearling that wrote it");
            return Err(fields.unsupported("format_version", version.to_string(), supported));
        }
        let manifest: Manifest = serde_json::from_value(serde_json::Value::Object(raw))
            .map_err(|source| Error::Json { path: path.clone(), source })?;
        match manifest.files.iter().find(|file| !stays_inside(&file.path)) {
            Some(file) => Err(Error::Key {
                path,
                key: "files".into(),
                problem: format!("\"{}\" leads out of the folder", file.path),
            }),
            None => Ok(manifest),
        }
    }

    /// The file's content.
    pub(crate) fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|source| Error::Json { path: MANIFEST_NAME.into(), source })
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<FileEntry>) -> Result<()> {
    for path in entries_of(dir)? {
        let broken = |problem: &str| Error::BrokenStep { path: path.clone(), problem: problem.to_owned() };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| broken("a name that is not UTF-8"))?;
        let metadata = path.symlink_metadata().map_err(Error::io("look at", &path))?;
        let relative = format!("{prefix}{name}");
        if metadata.is_dir() {
            collect(&path, &format!("{relative}/"), files)?;
        } else if !metadata.is_file() {
            return Err(broken("neither a file nor a folder; links cannot be part of a checkpoint"));
        } else if relative != MANIFEST_NAME {
            files.push(FileEntry { path: relative, bytes: metadata.len(), sha256: sha256_of_file(&path)? });
        }
    }
    Ok(())
}

fn stays_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    #[test]
    fn a_manifest_lists_every_file_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        fs::write(dir.path().join("model/a"), "abc").unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        let manifest = Manifest::describe(dir.path(), 7, 1024, "prune").unwrap();
        let listed: Vec<_> = manifest.files.iter().map(|file| (file.path.as_str(), file.bytes)).collect();
        assert_eq!(listed, [("b", 0), ("model/a", 3)]);
        fs::write(dir.path().join(MANIFEST_NAME), manifest.to_json().unwrap()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
        std::os::unix::fs::symlink("b", dir.path().join("link")).unwrap();
        assert!(Manifest::describe(dir.path(), 7, 1024, "prune").unwrap_err().to_string().contains("link"));
    }

    #[test]
    fn broken_manifests_are_errors_that_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "x").unwrap();
        let whole = Manifest::describe(dir.path(), 1, 2, "prune").unwrap().to_json().unwrap();
        let read = |content: &str| {
            fs::write(dir.path().join(MANIFEST_NAME), content).unwrap();
            let error = Manifest::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(MANIFEST_NAME), "{error}");
            error
        };
        for length in 0..whole.trim_end().len() {
            read(&whole[..length]);
        }
        let changed = |change: serde_json::Value| {
            let mut value: serde_json::Value = serde_json::from_str(&whole).unwrap();
            value.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            value.to_string()
        };
        assert!(read(&changed(json!({"format_version": 2, "new_key": 1}))).contains("format_version"));
        read(&changed(json!({"format_version": 1, "new_key": 1})));
        read(&changed(json!({"step": -1})));
        for outside in ["../b", "/b", "", "a/../../b"] {
            let files = json!([{"path": outside, "bytes": 1, "sha256": ""}]);
            assert!(read(&changed(json!({"files": files}))).contains("leads out"), "{outside}");
        }
    }
}
