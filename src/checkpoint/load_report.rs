//! Which tensors a model expects and which a checkpoint has: the comparison, before any weight is loaded.
//!
//! A wrong name is the usual fault (another exporter, a base model without its head), so missing names come with the most
//! similar name among those nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names below this similarity (normalised Levenshtein) are not worth suggesting.
const SIMILAR: f64 = 0.6;
/// Suggestions are for reading; comparing every pair of names of a wholly different model would take seconds.
const MAX_SUGGESTIONS: usize = 20;

/// A tensor that the model needs and the checkpoint lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// A similar name that the checkpoint has and the model does not use.
    pub did_you_mean: Option<String>,
}

/// A tensor whose shape is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongShape {
    /// Its name.
    pub name: String,
    /// The shape the model needs.
    pub expected: Vec<i64>,
    /// The shape in the checkpoint.
    pub found: Vec<i64>,
}

/// The outcome of comparing a model's tensors with a checkpoint's; every list is sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Present with the right shape.
    pub applied: Vec<String>,
    /// Needed but absent.
    pub missing: Vec<Missing>,
    /// Present but not needed.
    pub unused: Vec<String>,
    /// Present but not needed, and known to be harmless: precomputed rotary tables, the copy of a tied embedding.
    pub ignored: Vec<String>,
    /// Present with another shape.
    pub wrong_shape: Vec<WrongShape>,
}

impl LoadReport {
    /// Compares the expected names and shapes with those found. `tied`: the output projection is the embedding.
    pub(super) fn compare(
        expected: &[(String, Vec<i64>)],
        found: &BTreeMap<String, Vec<i64>>,
        tied: bool,
    ) -> LoadReport {
        let mut report = LoadReport::default();
        let expected: BTreeMap<&String, &Vec<i64>> = expected.iter().map(|(name, shape)| (name, shape)).collect();
        let extra: BTreeSet<&String> = found.keys().filter(|name| !expected.contains_key(name)).collect();
        for (name, shape) in &expected {
            match found.get(*name) {
                Some(same) if same == *shape => report.applied.push((*name).clone()),
                Some(other) => report.wrong_shape.push(WrongShape {
                    name: (*name).clone(),
                    expected: (*shape).clone(),
                    found: other.clone(),
                }),
                None => {
                    let did_you_mean =
                        (report.missing.len() < MAX_SUGGESTIONS).then(|| most_similar(name, &extra)).flatten();
                    report.missing.push(Missing { name: (*name).clone(), did_you_mean });
                }
            }
        }
        for name in extra {
            let list = if is_harmless(name, tied) { &mut report.ignored } else { &mut report.unused };
            list.push(name.clone());
        }
        report
    }

    /// Whether every tensor of the model is there with the right shape. Unused tensors do not count; [`LoadReport::is_exact`]
    /// counts them.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.wrong_shape.is_empty()
    }

    /// Whether it is complete and the checkpoint holds nothing else. Unused tensors (a bias, a norm) usually mean that the
    /// network that was trained computes something else.
    pub fn is_exact(&self) -> bool {
        self.is_complete() && self.unused.is_empty()
    }
}

/// Tensors that older exports carry and that say nothing new.
fn is_harmless(name: &str, tied: bool) -> bool {
    name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
}

fn most_similar(name: &str, candidates: &BTreeSet<&String>) -> Option<String> {
    let scored = candidates.iter().map(|candidate| (similarity(name, candidate), *candidate));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= SIMILAR).then(|| best.1.clone())
}

/// A name that differs by a prefix only (`layers.0…` for `model.layers.0…`) beats one with another layer number.
fn similarity(name: &str, candidate: &str) -> f64 {
    if name.ends_with(candidate) || candidate.ends_with(name) {
        1.0
    } else {
        strsim::normalized_levenshtein(name, candidate)
    }
}

impl fmt::Display for LoadReport {
    /// One line of counts, then one line per tensor that is not as expected.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} applied, {} missing, ", self.applied.len(), self.missing.len())?;
        write!(
            f,
            "{} wrong shape, {} unused, {} ignored",
            self.wrong_shape.len(),
            self.unused.len(),
            self.ignored.len()
        )?;
        for Missing { name, did_you_mean } in &self.missing {
            write!(f, "\n  missing: {name}")?;
            if let Some(similar) = did_you_mean {
                write!(f, " (did you mean {similar}?)")?;
            }
        }
        for WrongShape { name, expected, found } in &self.wrong_shape {
            write!(f, "\n  wrong shape: {name}: expected {expected:?}, found {found:?}")?;
        }
        self.unused.iter().try_for_each(|name| write!(f, "\n  unused: {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(expected: &[(&str, &[i64])], found: &[(&str, &[i64])], tied: bool) -> LoadReport {
        let expected: Vec<_> = expected.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        let found = found.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        LoadReport::compare(&expected, &found, tied)
    }

    #[test]
    fn everything_in_place_is_exact() {
        let report = report(&[("a", &[1]), ("b", &[2, 3])], &[("b", &[2, 3]), ("a", &[1])], false);
        assert!(report.is_exact());
        assert_eq!(report.applied, ["a", "b"]);
    }

    #[test]
    fn each_fault_lands_in_its_list_and_in_the_text() {
        let report = report(
            &[("model.norm.weight", &[8]), ("model.embed_tokens.weight", &[64, 8]), ("model.layers.0.up.weight", &[1])],
            &[("norm.weight", &[8]), ("model.embed_tokens.weight", &[64, 16]), ("zzz", &[])],
            false,
        );
        assert!(!report.is_complete());
        assert_eq!(report.missing[1].did_you_mean.as_deref(), Some("norm.weight"));
        assert_eq!(report.missing[0].did_you_mean, None);
        assert_eq!(report.unused, ["norm.weight", "zzz"]);
        let text = report.to_string();
        for part in ["2 missing", "did you mean norm.weight", "expected [64, 8], found [64, 16]", "unused: zzz"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn known_extras_are_ignored_only_where_they_are_harmless() {
        let extras: [(&str, &[i64]); 3] =
            [("a", &[1]), ("lm_head.weight", &[2]), ("model.layers.0.self_attn.rotary_emb.inv_freq", &[4])];
        let tied = report(&[("a", &[1])], &extras, true);
        assert!(tied.is_exact());
        assert_eq!(tied.ignored.len(), 2);
        let untied = report(&[("a", &[1])], &extras, false);
        assert_eq!(untied.unused, ["lm_head.weight"]);
        assert!(untied.is_complete() && !untied.is_exact());
    }
}
