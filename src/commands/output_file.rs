//! A file that a command writes once its work is done: `--out`, `--csv` and their like. Whether it can be written is
//! asked before the work, so that hours of it do not end in a missing folder.
//!
//! What is found may change until the end. A command that has results to print therefore writes first, prints what it
//! has in any case, and only then fails: neither a full disk nor a reader that went away (`| head`) costs the other half.

use crate::cli::Printer;
use crate::files::{ensure_writable, write_atomic};
use anyhow::Context;
use std::path::Path;

/// A place that was found fit to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputFile<'a> {
    option: &'static str,
    path: &'a Path,
}

impl<'a> OutputFile<'a> {
    /// Checks the place that `option` names; nothing is left behind. An existing file will be replaced, missing folders
    /// will be made.
    ///
    /// # Errors
    /// A folder, a device or the like is there, or no file can be made there.
    pub(super) fn check(option: &'static str, path: &'a Path) -> anyhow::Result<OutputFile<'a>> {
        let shown = path.display();
        let is_named_as_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.is_dir() || is_named_as_folder {
            anyhow::bail!("{option} {shown}: this is a folder; name a file");
        }
        // Its place would be taken by a file, /dev/null by one as large as the results.
        if path.exists() && !path.is_file() {
            anyhow::bail!("{option} {shown}: this is not a regular file; name another");
        }
        ensure_writable(path).with_context(|| format!("{option} {shown}: no file can be written there"))?;
        Ok(OutputFile { option, path })
    }

    /// [`OutputFile::check`] where the option was given.
    pub(super) fn check_optional(
        option: &'static str,
        path: Option<&'a Path>,
    ) -> anyhow::Result<Option<OutputFile<'a>>> {
        path.map(|path| OutputFile::check(option, path)).transpose()
    }

    /// Writes the file, with the folders that it needs, and says so; `what` is its content in words.
    pub(super) fn write(&self, what: &str, text: &str, printer: &Printer) -> anyhow::Result<()> {
        let shown = self.path.display();
        let write = || -> anyhow::Result<()> {
            if let Some(parent) = self.path.parent() {
                std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            }
            Ok(write_atomic(self.path, text.as_bytes())?)
        };
        write().with_context(|| format!("{} {shown}: {what} cannot be written", self.option))?;
        printer.note(format!("wrote {what} to {shown}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_checked_without_a_trace_and_written_with_its_folders() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/er/e.json");
        let output = OutputFile::check("--out", &path).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "the check leaves nothing");
        let printer = Printer::new(false);
        output.write("the JSON object", "{}", &printer).unwrap();
        OutputFile::check("--out", &path).unwrap().write("the JSON object", "[]", &printer).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[]");
    }

    #[test]
    fn what_cannot_be_written_is_refused_by_option_and_path() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        let cases = [
            (root.path().to_path_buf(), "this is a folder"),
            (root.path().join("new/"), "this is a folder"),
            (file.join("e.json"), "no file can be written there"),
            ("/dev/null".into(), "not a regular file"),
        ];
        for (path, said) in cases {
            let error = format!("{:#}", OutputFile::check("--csv", &path).unwrap_err());
            assert!(error.starts_with(&format!("--csv {}: ", path.display())) && error.contains(said), "{error}");
            assert!(!error.contains(".staging-"), "{error}");
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_after_all_names_what_was_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("e.json");
        let output = OutputFile::check("--out", &path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = format!("{:#}", output.write("the figures", "1", &Printer::new(false)).unwrap_err());
        assert!(error.contains(&format!("--out {}", path.display())) && !error.contains(".staging-"), "{error}");
    }
}
