//! Free space, asked before a long write rather than found out in its middle.

use super::{Error, Result};
use std::path::Path;

/// Bytes that an ordinary user may still write on the disk of `path`, which need not exist yet (its nearest parent is asked).
pub fn available_bytes(path: &Path) -> Result<u64> {
    let absolute = std::path::absolute(path).map_err(Error::io("resolve", path))?;
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing).map_err(|e| Error::io("ask the free space of", existing)(e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Fails if fewer than `needed_bytes` are free on the disk of `path`.
pub fn ensure_space(path: &Path, needed_bytes: u64) -> Result<()> {
    let available_bytes = available_bytes(path)?;
    if available_bytes >= needed_bytes {
        return Ok(());
    }
    Err(Error::NoSpace { path: path.to_owned(), needed_bytes, available_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_known_for_paths_that_do_not_exist_yet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        assert!(available_bytes(&path).unwrap() > 0);
        ensure_space(&path, 1).unwrap();
        let error = ensure_space(&path, u64::MAX).unwrap_err();
        assert!(matches!(error, Error::NoSpace { needed_bytes: u64::MAX, .. }), "{error}");
        let error = Error::NoSpace { path, needed_bytes: 58_721_280, available_bytes: 1536 }.to_string();
        assert!(error.contains("56.0 MiB are needed, 1.5 KiB are free"), "{error}");
    }
}
