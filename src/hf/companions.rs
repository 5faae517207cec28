//! The files beside the weights that a pruned model inherits unchanged: tokenizer, generation settings, licence.
//!
//! The vocabulary never changes, so the source's tokenizer is the pruned model's. Weights, `config.json` and the model card are
//! written anew and never carried.

use crate::files::publish::{entries_of, write_atomic_with};
use crate::files::{Error, Result};
use std::fs::File;
use std::io;
use std::path::Path;

const NAMES: [&str; 17] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "NOTICE",
    "NOTICE.txt",
    "Notice.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Licences come as `LICENSE`, `LICENSE.txt`, `LICENCE.md`, `USE_POLICY.md`, ….
const PREFIXES: [&str; 3] = ["LICENSE", "LICENCE", "USE_POLICY"];

/// Whether a file of this name is carried along.
pub fn is_companion(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.to_ascii_uppercase().starts_with(prefix))
}

/// Copies the companions of one folder into another and returns their names, sorted. A name that is already there is kept.
pub fn carry_companions(from: &Path, to: &Path) -> Result<Vec<String>> {
    let mut carried = Vec::new();
    for path in entries_of(from)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_companion(name)) else {
            continue;
        };
        let target = to.join(name);
        if path.is_file() && !target.exists() {
            // Not `fs::copy`, which hands on the mode too: a file that may not be written would make one that cannot be
            // replaced.
            let mut file = File::open(&path).map_err(Error::io("open", &path))?;
            write_atomic_with(&target, |copy| io::copy(&mut file, copy).map(drop).map_err(Error::io("copy", &path)))?;
            carried.push(name.to_owned());
        }
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::test_support::entries;
    use std::fs;

    #[test]
    fn tokenizer_and_licence_travel_weights_and_card_do_not() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stay = ["config.json", "model.safetensors", "README.md", "tokenizer.py", "model.safetensors.index.json"];
        let travel = ["LICENSE.txt", "generation_config.json", "license", "tokenizer.json", "tokenizer_config.json"];
        for name in stay.iter().chain(&travel) {
            fs::write(from.path().join(name), name).unwrap();
        }
        fs::create_dir(from.path().join("tokenizer.model")).unwrap();
        assert_eq!(carry_companions(from.path(), to.path()).unwrap(), travel);
        assert_eq!(entries(to.path()), travel);
        assert_eq!(fs::read(to.path().join("tokenizer.json")).unwrap(), b"tokenizer.json");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_may_not_be_written_becomes_one_that_may() {
        use std::os::unix::fs::PermissionsExt;
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = from.path().join("tokenizer.json");
        fs::write(&source, "x").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o400)).unwrap();
        fs::write(to.path().join("reference"), "x").unwrap();
        carry_companions(from.path(), to.path()).unwrap();
        let mode = |name: &str| fs::metadata(to.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("tokenizer.json"), mode("reference"));
    }

    #[test]
    fn what_is_already_there_is_kept() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("tokenizer.json"), "old").unwrap();
        fs::write(to.path().join("tokenizer.json"), "new").unwrap();
        assert!(carry_companions(from.path(), to.path()).unwrap().is_empty());
        assert_eq!(fs::read(to.path().join("tokenizer.json")).unwrap(), b"new");
        assert!(carry_companions(&from.path().join("none"), to.path()).is_err());
    }
}
