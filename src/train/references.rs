//! What the mixer starts with: proportions and reference losses by domain, from the configuration or the file that it
//! names, in the order of the data's domains.

use super::Error;
use crate::config::{Eval, Mixer};
use crate::eval::DomainLoss;
use crate::run_dir::record::{ReferenceDomain, ReferenceRows};
use crate::words::counted;
use serde_json::Value;
use shearling_domains::{Dataset, MixerKind, Split};
use std::collections::BTreeMap;
use std::path::Path;

/// How far from 1 the sum of the proportions may be: room for numbers typed with a few decimals.
const SUM_TOLERANCE: f64 = 1e-6;

/// Loss that each domain should reach.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    /// In the order of the data's domains; `None` for a static mixer that has none, or not one for each.
    pub losses: Option<Vec<f64>>,
    /// Rows by domain on which they were measured, where their file says so.
    pub rows: BTreeMap<String, u64>,
    /// On what they were measured, where their file says so.
    pub measured: Option<ReferenceRows>,
    /// That they stand on too few rows, of a mixer that follows them.
    pub noise: Option<String>,
    /// Why they are not used, where a static mixer was given some that cannot be.
    pub warning: Option<String>,
}

impl References {
    /// Those of a mixer for the domains `names`. The numbers of a file are put into the table, so that the resolved
    /// configuration carries them itself.
    ///
    /// A static mixer needs none: what is wrong with those it was given is a warning, and they are dropped.
    ///
    /// # Errors
    /// The file cannot be read, a domain has no reference, or one is named that the data does not have.
    pub fn of(mixer: &mut Mixer, names: &[String]) -> Result<References, Error> {
        match References::read(mixer, names) {
            Err(error) if mixer.kind == MixerKind::Static => {
                (mixer.reference_file, mixer.reference_loss) = (None, None);
                let warning = Some(format!("{error}; the mixer is static and goes without"));
                Ok(References { warning, ..References::default() })
            }
            result => result,
        }
    }

    /// That they were measured on other rows than a run evaluates: the mixer compares losses of the first
    /// `eval.rows_per_domain` rows with them, and on other rows the source itself is above or below them.
    pub(super) fn of_other_rows(&self, dataset: &Dataset, eval: &Eval) -> Option<String> {
        let evaluated = eval.rows_per_domain as u64;
        let differs = |(index, name): (usize, &String)| {
            let measured = *self.rows.get(name)?;
            let rows = dataset.rows(index, Split::Validation).min(evaluated);
            (measured != rows).then_some((name.clone(), measured, rows))
        };
        let names = dataset.domain_names().iter().enumerate();
        let found: Vec<(String, u64, u64)> = names.filter_map(differs).collect();
        let (name, measured, rows) = found.first()?;
        let more = match found.len() - 1 {
            0 => String::new(),
            more => format!(", and others in {}", counted(more as u64, "more domain")),
        };
        Some(format!(
            "mixer.reference_file was measured on {measured} rows of {name:?}, the run evaluates {rows}{more}: measure it with \
             shearling eval --rows {evaluated}"
        ))
    }

    fn read(mixer: &mut Mixer, names: &[String]) -> Result<References, Error> {
        let (key, rows, measured, noise) = match mixer.reference_file.take() {
            None => ("mixer.reference_loss".to_string(), BTreeMap::new(), None, None),
            Some(path) => {
                let key = format!("mixer.reference_file {}", path.display());
                let file = read_references(&path)
                    .map_err(|error| Error::Mismatch(format!("mixer.reference_file: {error}")))?;
                mixer.reference_loss = Some(file.losses);
                let noise = few_rows(&file.measured).filter(|_| mixer.kind != MixerKind::Static);
                let measured = record(file.data_fingerprint, &file.measured);
                (key, file.rows, measured, noise.map(|noise| format!("mixer.reference_file: {noise}")))
            }
        };
        let given = mixer.reference_loss.as_ref();
        let losses = given.map(|given| in_order(&key, given, names)).transpose()?;
        Ok(References { losses, rows, measured, noise, warning: None })
    }
}

/// What a file of reference losses holds.
#[derive(Debug)]
struct ReferenceFile {
    losses: BTreeMap<String, f64>,
    /// Where it says them.
    rows: BTreeMap<String, u64>,
    /// The domains that it tells in full.
    measured: Vec<DomainLoss>,
    /// Identity of their data, where it says it.
    data_fingerprint: Option<String>,
}

/// What a run records of them.
fn record(data_fingerprint: Option<String>, measured: &[DomainLoss]) -> Option<ReferenceRows> {
    let domain = |found: &DomainLoss| ReferenceDomain {
        rows: Some(found.rows as u64),
        tokens: Some(found.tokens as u64),
        standard_error: found.standard_error.filter(|error| error.is_finite()),
    };
    let domains = measured.iter().map(|found| (found.domain.clone(), domain(found))).collect();
    (!measured.is_empty()).then_some(ReferenceRows { data_fingerprint, domains })
}

/// Standard error, in nats, of a reference that a mixer should not follow: as much as many domains lose by pruning.
const NOISY: f64 = 0.05;
/// Rows from which on more of them are no cheap remedy.
const MANY_ROWS: usize = 64;
/// The most that are named as a remedy.
const MOST_ROWS: usize = 256;

/// What to say of losses that are to be references and stand on so few rows that their errors matter; the rows that would
/// do are those that bring the error down to [`NOISY`], which falls with their square root.
pub fn few_rows(measured: &[DomainLoss]) -> Option<String> {
    let error = |domain: &DomainLoss| domain.standard_error.filter(|error| error.is_finite()).unwrap_or(f64::INFINITY);
    let known = |domain: &DomainLoss| domain.loss.is_some_and(f64::is_finite);
    let noisy = |domain: &&DomainLoss| known(domain) && (1..MANY_ROWS).contains(&domain.rows) && error(domain) > NOISY;
    let noisy: Vec<&DomainLoss> = measured.iter().filter(noisy).collect();
    let worst = *noisy.iter().max_by(|a, b| error(a).total_cmp(&error(b)))?;
    let enough = |domain: &&DomainLoss| domain.rows as f64 * (error(domain) / NOISY).powi(2);
    let rows = noisy.iter().map(enough).fold(0.0, f64::max);
    let loss = worst.loss.map_or("?".to_string(), |loss| format!("{loss:.2}"));
    let said = match error(worst) {
        error if error.is_finite() => format!("{loss} ± {error:.2} from {}", counted(worst.rows as u64, "row")),
        _ => format!("{loss} from a single row"),
    };
    let others = match noisy.len() - 1 {
        0 => String::new(),
        others if error(worst).is_finite() => {
            format!(", and {} above ± {NOISY}", counted(others as u64, "more domain"))
        }
        others => format!(", and {} as noisy", counted(others as u64, "more domain")),
    };
    let remedy = match rows {
        rows if rows <= MOST_ROWS as f64 => {
            format!("{} of each domain would do", (rows as u64).next_power_of_two())
        }
        _ => "more rows help".to_string(),
    };
    Some(format!(
        "noisy reference losses: {} {said}{others}; {remedy} (eval --rows, and as many as eval.rows_per_domain)",
        worst.domain
    ))
}

/// The most rows of a domain that a file of reference losses was measured on, where it says so.
pub fn reference_rows(path: &Path) -> Result<Option<u64>, Error> {
    Ok(read_references(path)?.rows.into_values().max())
}

/// Reads a file of `{"domain": loss, …}` under `reference_loss`, as `shearling eval --write-reference` writes it.
fn read_references(path: &Path) -> Result<ReferenceFile, Error> {
    let failed = |source| Error::Io { action: "read", path: path.to_path_buf(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let damaged = |problem: String| Error::Damaged { path: path.to_path_buf(), problem };
    let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| damaged(format!("not JSON ({error}); write it with `shearling eval --write-reference`")))?;
    let map = value.get("reference_loss").and_then(|losses| losses.as_object());
    let map = map.ok_or_else(|| {
        damaged("has no object \"reference_loss\"; write it with `shearling eval --write-reference`".to_string())
    })?;
    let number = |(domain, loss): (&String, &Value)| {
        let loss = loss.as_f64().filter(|loss| loss.is_finite());
        loss.map(|loss| (domain.clone(), loss))
            .ok_or_else(|| damaged(format!("reference_loss.{domain} is not a number; measure it again")))
    };
    let domains = || value.get("domains").and_then(|domains| domains.as_array()).into_iter().flatten();
    let rows = domains().filter_map(|domain| Some((domain["domain"].as_str()?.to_string(), domain["rows"].as_u64()?)));
    let measured = domains().filter_map(|domain| serde_json::from_value(domain.clone()).ok());
    Ok(ReferenceFile {
        losses: map.iter().map(number).collect::<Result<_, _>>()?,
        rows: rows.collect(),
        measured: measured.collect(),
        data_fingerprint: value["data_fingerprint"].as_str().map(String::from),
    })
}

/// Proportions before the first update; all domains alike when none are given.
///
/// # Errors
/// They are not one for each domain, or do not sum to 1.
pub(super) fn initial_proportions(mixer: &Mixer, names: &[String]) -> Result<Vec<f64>, Error> {
    let Some(given) = &mixer.proportions else { return Ok(vec![1.0 / names.len() as f64; names.len()]) };
    let proportions = in_order("mixer.proportions", given, names)?;
    let sum: f64 = proportions.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(Error::Mismatch(format!("mixer.proportions sum to {sum:.6}, expected 1; scale them")));
    }
    Ok(proportions)
}

/// The values of a per-domain table in the order of the data's domains; both must name the same domains.
fn in_order(key: &str, given: &BTreeMap<String, f64>, names: &[String]) -> Result<Vec<f64>, Error> {
    let quoted = |names: &[&String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let unknown: Vec<&String> = given.keys().filter(|name| !names.contains(name)).collect();
    let missing: Vec<&String> = names.iter().filter(|name| !given.contains_key(*name)).collect();
    let mut problems = Vec::new();
    if !unknown.is_empty() {
        problems.push(format!("names {}, which the data does not have,", quoted(&unknown)));
    }
    if !missing.is_empty() {
        let (number, of) = (missing.len() as u64, counted(names.len() as u64, "domain"));
        problems.push(format!("has no value for {number} of the data's {of}: {}", quoted(&missing)));
    }
    if !problems.is_empty() {
        let named = problems.join(" and ").trim_end_matches(',').to_string();
        // All of them are in the list already where none has a value.
        let all = match (missing.len() == names.len(), names) {
            (_, [only]) => only.clone(),
            (true, _) => "each of them".to_string(),
            (false, _) => format!("each of {}", names.join(", ")),
        };
        return Err(Error::Mismatch(format!("{key} {named}; give one for {all}")));
    }
    Ok(names.iter().filter_map(|name| given.get(name).copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
        values.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }

    fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
        names.map(String::from).to_vec()
    }

    #[test]
    fn tables_follow_the_order_of_the_data_and_all_that_is_wrong_is_said_at_once() {
        let given = table([("a", 0.25), ("b", 0.75)]);
        assert_eq!(in_order("k", &given, &names(["b", "a"])).unwrap(), [0.75, 0.25]);
        let message = in_order("k", &given, &names(["b", "c", "d", "e"])).unwrap_err().to_string();
        let expected = "k names \"a\", which the data does not have, and has no value for 3 of the data's 4 domains: \
                        \"c\", \"d\", \"e\"; give one for each of b, c, d, e";
        assert_eq!(message, expected);
    }

    #[test]
    fn one_proportion_of_four_is_not_a_matter_of_scale() {
        let names = names(["a", "b", "c", "d"]);
        let with = |given| Mixer { proportions: Some(given), ..Mixer::default() };
        let message = initial_proportions(&with(table([("a", 0.25)])), &names).unwrap_err().to_string();
        assert!(message.contains("\"b\", \"c\", \"d\"") && !message.contains("scale"), "{message}");
        let all = table([("a", 0.25), ("b", 0.25), ("c", 0.25), ("d", 0.0)]);
        let message = initial_proportions(&with(all), &names).unwrap_err().to_string();
        assert!(message.contains("sum to 0.75"), "{message}");
        assert_eq!(initial_proportions(&Mixer::default(), &names).unwrap(), [0.25; 4]);
    }

    #[test]
    fn a_reference_file_that_fails_is_named_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("references.json");
        let mut mixer = Mixer { kind: MixerKind::Dynamic, reference_file: Some(path.clone()), ..Mixer::default() };
        for (text, problem) in [
            ("", "not JSON"),
            ("{}", "no object \"reference_loss\""),
            (r#"{"reference_loss": {"a": null}}"#, "reference_loss.a is not a number"),
            (r#"{"reference_loss": {"b": 1}}"#, "has no value for 1 of the data's 1 domain: \"a\""),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = References::of(&mut mixer.clone(), &names(["a"])).unwrap_err().to_string();
            assert!(message.starts_with("mixer.reference_file"), "{message}");
            assert!(message.contains("references.json") && message.contains(problem), "{message}");
        }
        std::fs::write(&path, "\u{feff}{\"reference_loss\": {\"a\": 1.5}}").unwrap();
        let references = References::of(&mut mixer, &names(["a"])).unwrap();
        assert_eq!((references.losses, references.warning), (Some(vec![1.5]), None));
        assert_eq!(mixer.reference_file, None, "the numbers are in the table now");
    }

    #[test]
    fn references_from_few_rows_are_doubted_where_they_are_followed() {
        let measured = |rows: usize, error: Option<f64>| DomainLoss {
            domain: format!("d{rows}"),
            loss: Some(3.125),
            standard_error: error,
            rows,
            tokens: 100 * rows,
        };
        assert_eq!(few_rows(&[measured(8, Some(0.04)), measured(64, Some(0.2)), measured(0, None)]), None);
        let said = few_rows(&[measured(8, Some(0.125)), measured(9, Some(0.0625)), measured(7, Some(0.01))]).unwrap();
        assert!(said.contains("d8 3.12 ± 0.12 from 8 rows, and 1 more domain above"), "{said}");
        // 8 · (0.125 / 0.05)² = 50 rows.
        assert!(said.contains("; 64 of each domain would do (eval --rows, and"), "{said}");
        assert!(few_rows(&[measured(1, None)]).unwrap().contains("from a single row"));
        let single = few_rows(&[measured(1, None), measured(1, None)]).unwrap();
        assert!(single.contains("and 1 more domain as noisy"), "{single}");
        assert!(few_rows(&[measured(8, Some(9.0))]).unwrap().contains("more rows help"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("references.json");
        let file = serde_json::json!({ "reference_loss": { "d8": 3.125 }, "domains": [measured(8, Some(0.125))] });
        std::fs::write(&path, file.to_string()).unwrap();
        let noise = |kind| {
            let mut mixer = Mixer { kind, reference_file: Some(path.clone()), ..Mixer::default() };
            References::of(&mut mixer, &names(["d8"])).unwrap().noise
        };
        assert!(noise(MixerKind::Dynamic).unwrap().starts_with("mixer.reference_file: noisy reference losses"));
        let mut mixer = Mixer { reference_file: Some(path.clone()), ..Mixer::default() };
        let told = References::of(&mut mixer, &names(["d8"])).unwrap().measured.unwrap();
        let d8 = ReferenceDomain { rows: Some(8), tokens: Some(800), standard_error: Some(0.125) };
        assert_eq!((told.data_fingerprint, told.domains.0), (None, vec![("d8".to_string(), d8)]));
        assert_eq!(noise(MixerKind::Static), None);
    }

    #[test]
    fn a_static_mixer_goes_without_references_that_it_cannot_use() {
        let partial = Some(table([("a", 1.5)]));
        let mut mixer = Mixer { kind: MixerKind::Static, reference_loss: partial, ..Mixer::default() };
        let references = References::of(&mut mixer, &names(["a", "b"])).unwrap();
        assert_eq!((references.losses, mixer.reference_loss), (None, None));
        assert!(references.warning.unwrap().contains("\"b\""));
        let mut mixer = Mixer { reference_file: Some("nowhere.json".into()), ..Mixer::default() };
        let references = References::of(&mut mixer, &names(["a"])).unwrap();
        assert!(references.losses.is_none() && references.warning.unwrap().contains("nowhere.json"));
    }
}
