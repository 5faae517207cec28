//! Compiled kernels in the user's cache folder, so that they are compiled once per architecture.

use super::sources::{HEADERS, Source};
use crate::files::{sha256_of_text, write_atomic};
use std::path::PathBuf;

/// `$SHEARLING_CACHE`, or `shearling` in `$XDG_CACHE_HOME` or `~/.cache`.
pub(super) fn user_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SHEARLING_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("shearling")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/shearling")))
}

/// Where a source compiled for `architecture` is kept: by what it was made of, so that a new source is a new file.
pub(super) fn file_of(source: &Source, architecture: &str) -> Option<PathBuf> {
    let text: String = HEADERS.iter().map(|(_, text)| *text).chain([source.text]).collect();
    let key = sha256_of_text(&text);
    Some(user_cache()?.join("kernels").join(format!("{}-{architecture}-{}.cubin", source.name, &key[..16])))
}

/// What is kept; nothing where it cannot be read.
pub(super) fn read(source: &Source, architecture: &str) -> Option<Vec<u8>> {
    std::fs::read(file_of(source, architecture)?).ok().filter(|bytes| bytes.starts_with(b"\x7fELF"))
}

/// Keeps it, whole or not at all. A cache that cannot be written costs the next run a few seconds, so it is no error.
pub(super) fn write(source: &Source, architecture: &str, cubin: &[u8]) {
    let Some(file) = file_of(source, architecture) else { return };
    let Some(folder) = file.parent() else { return };
    if std::fs::create_dir_all(folder).is_ok() {
        let _ = write_atomic(&file, cubin);
    }
}
