//! Which tensors a model expects and which a checkpoint has: the comparison, before any weight is loaded.
//!
//! A wrong name is the usual fault (another exporter, a base model without its head), so missing names come with the most
//! similar name among those nobody asked for, and tensors that are not used with the key of `config.json` that would use them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names below this similarity (normalised Levenshtein) are not worth suggesting.
const SIMILAR: f64 = 0.6;
/// Suggestions are for reading; comparing every pair of names of a wholly different model would take seconds.
const MAX_SUGGESTIONS: usize = 20;
/// Tensors of a kind that are named; a wholly different model has hundreds.
const MAX_NAMED: usize = 20;
/// Tensors named of those that are unused for one reason.
const MAX_UNUSED_NAMED: usize = 4;

/// A tensor that the model needs and the checkpoint lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// A similar name that the checkpoint has and the model does not use.
    pub did_you_mean: Option<String>,
    /// The key of `config.json` that asks for it, where it is one of its own.
    pub asked_by: Option<String>,
}

/// A tensor that the checkpoint has and the model does not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Its name.
    pub name: String,
    /// Why, with the key of `config.json` that decides it.
    pub cause: String,
}

/// What a checkpoint's tensor is that the model does not use.
pub(crate) enum Extra {
    /// It changes nothing.
    Harmless,
    /// Another network was trained, for this reason.
    Unused(String),
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
    /// Present but not needed: the network that was trained computes something else.
    pub unused: Vec<Unused>,
    /// Present but not needed, and known to be harmless: precomputed rotary tables, an equal copy of a tied embedding.
    pub ignored: Vec<String>,
    /// Present with another shape.
    pub wrong_shape: Vec<WrongShape>,
}

impl LoadReport {
    /// Compares the expected names and shapes with those found. `extra` judges a tensor that is not expected, `asked_by`
    /// names the key that asks for one that is not found.
    pub(crate) fn compare(
        expected: &[(String, Vec<i64>)],
        found: &BTreeMap<String, Vec<i64>>,
        extra: impl Fn(&str) -> Extra,
        asked_by: impl Fn(&str) -> Option<String>,
    ) -> LoadReport {
        let mut report = LoadReport::default();
        let expected: BTreeMap<&String, &Vec<i64>> = expected.iter().map(|(name, shape)| (name, shape)).collect();
        let others: BTreeSet<&String> = found.keys().filter(|name| !expected.contains_key(name)).collect();
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
                        (report.missing.len() < MAX_SUGGESTIONS).then(|| most_similar(name, &others)).flatten();
                    report.missing.push(Missing { name: (*name).clone(), did_you_mean, asked_by: asked_by(name) });
                }
            }
        }
        for name in others {
            match extra(name) {
                Extra::Harmless => report.ignored.push(name.clone()),
                Extra::Unused(cause) => report.unused.push(Unused { name: name.clone(), cause }),
            }
        }
        report
    }

    /// Whether every tensor of the model is there with the right shape. Unused tensors do not count; [`LoadReport::is_exact`]
    /// counts them, and decides whether the model may be used.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.wrong_shape.is_empty()
    }

    /// Whether it is complete and the checkpoint holds nothing else. Unused tensors (a bias, a norm, more layers) mean that
    /// the network that was trained computes something else.
    pub fn is_exact(&self) -> bool {
        self.is_complete() && self.unused.is_empty()
    }

    /// Unused tensors by why they are not used, in the order in which the reasons first occur.
    fn unused_by_cause(&self) -> Vec<(&str, Vec<&str>)> {
        let mut causes: Vec<(&str, Vec<&str>)> = Vec::new();
        for Unused { name, cause } in &self.unused {
            match causes.iter_mut().find(|(known, _)| known == cause) {
                Some((_, names)) => names.push(name),
                None => causes.push((cause, vec![name])),
            }
        }
        causes
    }
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
    /// One line of counts, then the tensors that are not as expected: a line each, or a line per reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tensors: {} used by the model, {} missing, ", self.applied.len(), self.missing.len())?;
        write!(
            f,
            "{} wrong shape, {} unused, {} ignored",
            self.wrong_shape.len(),
            self.unused.len(),
            self.ignored.len()
        )?;
        for Missing { name, did_you_mean, asked_by } in self.missing.iter().take(MAX_NAMED) {
            write!(f, "\n  missing: {name}")?;
            if let Some(similar) = did_you_mean {
                write!(f, " (did you mean {similar}?)")?;
            }
            if let Some(key) = asked_by {
                write!(f, " ({key})")?;
            }
        }
        rest(f, "missing", self.missing.len())?;
        for WrongShape { name, expected, found } in self.wrong_shape.iter().take(MAX_NAMED) {
            write!(f, "\n  wrong shape: {name}: expected {expected:?}, found {found:?}")?;
        }
        rest(f, "of the wrong shape", self.wrong_shape.len())?;
        self.unused_by_cause().iter().try_for_each(|(cause, names)| {
            let named = names.iter().take(MAX_UNUSED_NAMED).copied().collect::<Vec<_>>().join(", ");
            write!(f, "\n  unused: {named}")?;
            if names.len() > MAX_UNUSED_NAMED {
                write!(f, " and {} more", names.len() - MAX_UNUSED_NAMED)?;
            }
            write!(f, ": {cause}")
        })
    }
}

/// The line that stands for what is not named.
fn rest(f: &mut fmt::Formatter<'_>, what: &str, count: usize) -> fmt::Result {
    if count > MAX_NAMED { write!(f, "\n  … and {} more {what}", count - MAX_NAMED) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(expected: &[(&str, &[i64])], found: &[(&str, &[i64])]) -> LoadReport {
        let expected: Vec<_> = expected.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        let found = found.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
        let extra = |name: &str| match name {
            "harmless" => Extra::Harmless,
            name => Extra::Unused(format!("a key about {}", name.rsplit('.').next().unwrap())),
        };
        LoadReport::compare(&expected, &found, extra, |name| (name == "asked").then(|| "a key asks".to_string()))
    }

    #[test]
    fn everything_in_place_is_exact() {
        let report = report(&[("a", &[1]), ("b", &[2, 3])], &[("b", &[2, 3]), ("a", &[1]), ("harmless", &[9])]);
        assert!(report.is_exact());
        assert_eq!((report.applied.len(), report.ignored.len()), (2, 1));
    }

    #[test]
    fn each_fault_lands_in_its_list_and_in_the_text() {
        let report = report(
            &[("asked", &[1]), ("model.norm.weight", &[8]), ("model.embed_tokens.weight", &[64, 8])],
            &[("norm.weight", &[8]), ("model.embed_tokens.weight", &[64, 16]), ("zzz", &[])],
        );
        assert!(!report.is_complete());
        assert_eq!(report.missing[1].did_you_mean.as_deref(), Some("norm.weight"));
        assert_eq!(report.missing[0].did_you_mean, None);
        let text = report.to_string();
        for part in [
            "2 missing",
            "missing: asked (a key asks)",
            "did you mean norm.weight",
            "expected [64, 8], found [64, 16]",
            "unused: norm.weight: a key about weight",
            "unused: zzz: a key about zzz",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn tensors_of_one_cause_are_told_together_and_not_all_by_name() {
        let names: Vec<String> = (0..30).map(|layer| format!("layers.{layer:02}.bias")).collect();
        let many: Vec<(&str, &[i64])> = names.iter().map(|name| (name.as_str(), &[1][..])).collect();
        let unused = report(&[], &many);
        assert!(unused.is_complete() && !unused.is_exact());
        let text = unused.to_string();
        assert!(text.contains("30 unused") && text.lines().count() == 2, "{text}");
        assert!(text.contains("layers.03.bias and 26 more: a key about bias"), "{text}");
        let missing = report(&many, &[]).to_string();
        assert!(missing.contains("… and 10 more missing") && !missing.contains("layers.20"), "{missing}");
    }
}
