//! Opens the folder that `--data` names.

use shearling_domains::Dataset;
use shearling_domains::manifest::MANIFEST_FILE;
use std::path::Path;

/// The prepared data in `folder`.
///
/// # Errors
/// The folder is none that `data prepare` wrote, or is damaged.
pub(super) fn open_prepared(folder: &Path) -> anyhow::Result<Dataset> {
    if !folder.join(MANIFEST_FILE).exists() {
        let found =
            if folder.is_dir() { format!("it has no {MANIFEST_FILE}") } else { "there is no such folder".to_string() };
        anyhow::bail!(
            "{} is not prepared data ({found}): expected a folder written by `shearling data prepare`",
            folder.display()
        );
    }
    Ok(Dataset::open(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_something_else_is_told_from_damaged_data() {
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| open_prepared(path).unwrap_err().to_string();
        assert!(told(folder.path()).contains("is not prepared data (it has no manifest.json): expected a folder"));
        assert!(told(&folder.path().join("none")).contains("there is no such folder"));
        std::fs::write(folder.path().join(MANIFEST_FILE), "{").unwrap();
        assert!(!told(folder.path()).contains("no prepared data"));
    }
}
