//! Generated text of five natures, to train and prune a small model on without any download.
//!
//! Each kind has structure that a small model can learn over short and long ranges, and another share of pure chance, so
//! that losses per domain differ clearly and keep falling for several hundred steps:
//!
//! | kind | short range | long range | chance |
//! |---|---|---|---|
//! | `arithmetic` | digits of a worked step | carries, results repeated in a check | operands |
//! | `code` | keywords, indentation | names in scope, blocks to close | which statement |
//! | `stories` | grammar of sentences | who is where and holds what | who acts next |
//! | `records` | field layout | columns that determine others, rows seen again | keys, amounts |
//! | `dialogue` | phrases | answers drawn from facts told earlier | which fact is asked for |
//!
//! Document `n` of a kind is a function of the seed, the kind and `n` alone.

mod arithmetic;
mod code;
mod dialogue;
mod records;
mod stories;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::json;
use shearling_staging::StagedFolder;

use crate::prepare::DomainSource;
use crate::random::{Sequence, key};
use crate::{Error, Result};

/// A nature of generated text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sums and products with their steps written out.
    Arithmetic,
    /// Small programs with nested blocks.
    Code,
    /// Tales about people, places and things that stay consistent.
    Stories,
    /// Tables in CSV and JSON whose columns depend on each other.
    Records,
    /// Two people, one of whom asks about what the other has told.
    Dialogue,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Arithmetic, Self::Code, Self::Stories, Self::Records, Self::Dialogue];

    /// Name of the kind, fit to be the name of a domain.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arithmetic => "arithmetic",
            Self::Code => "code",
            Self::Stories => "stories",
            Self::Records => "records",
            Self::Dialogue => "dialogue",
        }
    }

    fn document(self, numbers: &mut Sequence) -> String {
        match self {
            Self::Arithmetic => arithmetic::document(numbers),
            Self::Code => code::document(numbers),
            Self::Stories => stories::document(numbers),
            Self::Records => records::document(numbers),
            Self::Dialogue => dialogue::document(numbers),
        }
    }
}

/// Documents of one kind, of about 300 to 2,000 characters each, until together they have at least `bytes` bytes.
pub fn generate(kind: Kind, seed: u64, bytes: u64) -> impl Iterator<Item = String> {
    let document = move |number: u64| {
        let parts: [&[u8]; 2] = [kind.name().as_bytes(), &number.to_le_bytes()];
        kind.document(&mut Sequence::new(key(seed, "synthetic document", &parts)))
    };
    (0..).map(document).scan(0, move |made, text| {
        let wanted = *made < bytes;
        *made += text.len() as u64;
        wanted.then_some(text)
    })
}

/// Writes about `bytes_per_domain` bytes of every kind to `<folder>/<kind>/part-00000.jsonl`, and returns them as
/// domains to [`prepare`](crate::prepare()).
///
/// # Errors
/// [`Error::OutputExists`] when `folder` is there and not empty, [`Error::Io`] when it cannot be written.
pub fn write_domains(folder: &Path, bytes_per_domain: u64, seed: u64) -> Result<Vec<DomainSource>> {
    let staging = StagedFolder::begin(folder)?;
    for kind in Kind::ALL {
        let own = staging.path().join(kind.name());
        std::fs::create_dir(&own).map_err(Error::io("create", &own))?;
        let path = own.join("part-00000.jsonl");
        let mut file = BufWriter::new(File::create(&path).map_err(Error::io("create", &path))?);
        for text in generate(kind, seed, bytes_per_domain) {
            writeln!(file, "{}", json!({ "text": text })).map_err(Error::io("write", &path))?;
        }
        file.flush().map_err(Error::io("write", &path))?;
    }
    staging.publish()?;
    let domain = |kind: Kind| DomainSource { name: kind.name().to_string(), paths: vec![folder.join(kind.name())] };
    Ok(Kind::ALL.into_iter().map(domain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compressed bits per word or single other character: a rough measure of the loss per token.
    fn bits_per_piece(kind: Kind) -> f64 {
        let text: String = generate(kind, 1, 300_000).collect();
        let joins = |pair: &[u8]| pair[0].is_ascii_alphabetic() && pair[1].is_ascii_alphabetic();
        let pieces = text.as_bytes().windows(2).filter(|pair| !joins(pair)).count();
        zstd::encode_all(text.as_bytes(), 19).unwrap().len() as f64 * 8.0 / pieces as f64
    }

    #[test]
    fn documents_are_deterministic_and_of_moderate_length() {
        for kind in Kind::ALL {
            let first: Vec<String> = generate(kind, 3, 100_000).collect();
            assert!(generate(kind, 3, 100_000).eq(first.iter().cloned()));
            // More of a domain begins with the same documents.
            assert!(generate(kind, 3, 200_000).take(first.len()).eq(first.iter().cloned()));
            assert_ne!(first[0], generate(kind, 4, 1).next().unwrap());
            let lengths: Vec<usize> = first.iter().map(String::len).collect();
            let within = lengths.iter().filter(|length| (250..=2200).contains(*length)).count();
            assert_eq!(within, lengths.len(), "{} {:?}", kind.name(), lengths);
            let different: std::collections::HashSet<&String> = first.iter().collect();
            assert_eq!(different.len(), first.len(), "{}", kind.name());
            assert!(first.iter().all(|text| text.is_ascii()));
        }
    }

    #[test]
    fn kinds_differ_in_entropy_and_none_is_trivial() {
        let mut bits: Vec<f64> = Kind::ALL.into_iter().map(bits_per_piece).collect();
        bits.sort_by(f64::total_cmp);
        assert!(bits[0] > 0.3 && bits[4] < 6.0, "{bits:?}");
        assert!(bits[4] / bits[0] > 1.5, "{bits:?}");
    }
}
