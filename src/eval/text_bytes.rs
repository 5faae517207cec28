//! The bytes of text behind the evaluated tokens, and losses per byte.
//!
//! ```text
//! bits per byte = loss · tokens / (ln 2 · bytes)
//! ```
//!
//! A loss per token depends on how long the tokens are; per byte of the same text it does not, so models and data with
//! different tokenizers can be put side by side. Counted are the bytes of the target tokens, all of a row but its first
//! (which is only context), by the data's own tokenizer. BOS and EOS are predicted, so their loss counts, but they are
//! no text: with long documents that is little, with short ones it raises the figure. Where the tokens have no fixed
//! length in bytes, the bytes are estimated from the domain's mean, which `manifest.json` knows.

use shearling_domains::{Dataset, Error, Split, TokenBytes};

/// Bytes behind the evaluated targets of every domain.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluatedBytes {
    /// By domain; `None` for a domain without rows.
    pub domains: Vec<Option<u64>>,
    /// Validation rows that each domain has; the first of them are evaluated.
    pub rows_available: Vec<u64>,
    /// Counted token by token; else estimated from the domain's mean.
    pub counted: bool,
}

impl EvaluatedBytes {
    /// For the first `rows_per_domain` validation rows of every domain.
    pub fn of(dataset: &Dataset, rows_per_domain: usize) -> Result<EvaluatedBytes, Error> {
        let lengths = dataset.token_bytes()?;
        let all = 0..dataset.domain_names().len();
        let rows_available = all.clone().map(|domain| dataset.rows(domain, Split::Validation)).collect();
        let domains = all.map(|domain| match &lengths {
            Some(lengths) => count(dataset, domain, rows_per_domain, lengths),
            None => Ok(estimate(dataset, domain, rows_per_domain)),
        });
        Ok(EvaluatedBytes { domains: domains.collect::<Result<_, _>>()?, rows_available, counted: lengths.is_some() })
    }
}

fn count(dataset: &Dataset, domain: usize, rows_per_domain: usize, lengths: &TokenBytes) -> Result<Option<u64>, Error> {
    let ids = dataset.validation_rows(domain, rows_per_domain as u64)?;
    let bytes = ids.chunks_exact(dataset.sequence_length()).map(|row| lengths.after_first(row)).sum();
    Ok((!ids.is_empty()).then_some(bytes))
}

fn estimate(dataset: &Dataset, domain: usize, rows_per_domain: usize) -> Option<u64> {
    let rows = dataset.rows(domain, Split::Validation).min(rows_per_domain as u64);
    let targets = rows.saturating_mul(dataset.sequence_length() as u64 - 1);
    let mean = dataset.mean_token_bytes(domain, Split::Validation)?;
    (rows > 0).then(|| (targets as f64 * mean).round() as u64)
}

/// Bits per byte of `tokens` targets with a mean loss of `loss` nats; `None` without bytes.
pub fn bits_per_byte(loss: f64, tokens: usize, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| loss * tokens as f64 / (std::f64::consts::LN_2 * bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shearling_domains::{DomainSource, PrepareConfig, Silent, TokenizerSource, prepare};

    /// One domain of equal lines, so that the mean is what is counted, up to where rows are cut.
    fn dataset(folder: &std::path::Path) -> Dataset {
        let text = folder.join("text.jsonl");
        let lines = (0..400).map(|line| format!("{{\"text\":\"sheep number {line:03} – naïve\"}}\n"));
        std::fs::write(&text, lines.collect::<String>()).unwrap();
        let domain = DomainSource { name: "sheep".to_string(), paths: vec![text] };
        let mut config = PrepareConfig::new(vec![domain], folder.join("data"), TokenizerSource::Train(300), 16);
        config.validation_fraction = 0.5;
        prepare(&config, &Silent).unwrap();
        Dataset::open(folder.join("data")).unwrap()
    }

    #[test]
    fn bytes_are_counted_by_token_and_estimated_where_they_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let dataset = dataset(folder.path());
        let rows = dataset.rows(0, Split::Validation) as usize;
        let counted = EvaluatedBytes::of(&dataset, rows).unwrap();
        assert!(counted.counted && rows > 50);
        // Of every row, 15 of 16 tokens are targets.
        let text = dataset.manifest().domains[0].validation.text_bytes as f64;
        let bytes = counted.domains[0].unwrap();
        assert!((bytes as f64 / (text * 15.0 / 16.0) - 1.0).abs() < 0.05, "{bytes} of {text}");
        let half = EvaluatedBytes::of(&dataset, rows / 2).unwrap().domains[0].unwrap();
        assert!((half as f64 * 2.0 / bytes as f64 - 1.0).abs() < 0.1);

        // A tokenizer that makes text longer has no lengths; the rows, which are not touched, are as long as they were.
        let mut file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dataset.tokenizer_path()).unwrap()).unwrap();
        file["normalizer"] = serde_json::json!({ "type": "NFD" });
        std::fs::write(dataset.tokenizer_path(), file.to_string()).unwrap();
        let estimated = EvaluatedBytes::of(&dataset, rows).unwrap();
        assert!(!estimated.counted);
        let found = estimated.domains[0].unwrap() as f64;
        assert!((found / bytes as f64 - 1.0).abs() < 0.05, "{found} for {bytes}");
    }

    #[test]
    fn one_bit_per_byte_is_ln_2_nats() {
        let nats = std::f64::consts::LN_2;
        assert!((bits_per_byte(4.0 * nats, 10, 40).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(bits_per_byte(1.0, 10, 0), None);
    }
}
