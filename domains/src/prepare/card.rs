//! The `README.md` of a prepared dataset: for people, and for `datasets.load_dataset(folder, domain)`, which finds the
//! files of each domain in its YAML head.

use std::fmt::Write;

use crate::manifest::{Manifest, Split};

/// The text of the card.
pub(super) fn render(manifest: &Manifest) -> String {
    let mut text = String::from("---\nconfigs:\n");
    // Writing to a string cannot fail.
    for domain in &manifest.domains {
        let _ = writeln!(text, "- config_name: \"{}\"\n  data_files:", domain.name);
        for split in Split::ALL {
            let (name, split) = (&domain.name, split.name());
            let _ = writeln!(text, "  - split: {split}\n    path: \"{name}/{split}-*.parquet\"");
        }
    }
    text.push_str("---\n\n# Token rows by domain\n\n");
    let length = manifest.sequence_length;
    let _ = writeln!(
        text,
        "Documents packed into rows of {length} tokens (`input_ids`), a vocabulary of {} tokens,",
        manifest.vocab_size
    );
    let _ = writeln!(
        text,
        "tokenizer in `tokenizer.json`, hashes in `manifest.json`. Written by {}.\n",
        manifest.created_by
    );
    text.push_str("| domain | split | documents | text bytes | rows | tokens |\n|---|---|---:|---:|---:|---:|\n");
    for domain in &manifest.domains {
        for split in Split::ALL {
            let entry = domain.split(split);
            let (documents, bytes, rows, tokens) = (entry.documents, entry.text_bytes, entry.rows, entry.tokens);
            let _ =
                writeln!(text, "| {} | {} | {documents} | {bytes} | {rows} | {tokens} |", domain.name, split.name());
        }
    }
    text
}
