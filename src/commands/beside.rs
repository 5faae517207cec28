//! Configurations that lie beside one another: stages of one model, found by the folder that one writes and the next reads.

use std::path::{Component, Path, PathBuf};

/// The TOML files in the folder of `file`, by name, itself among them.
pub(super) fn configurations_beside(file: &Path) -> Vec<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "toml") && path.is_file());
    paths.sort();
    paths
}

/// A path without `.` in it, so that two spellings of one place compare equal.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}
