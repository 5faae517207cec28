//! The evaluations of a run: losses by domain on held-out rows, and how far the masks had decided. Read from the
//! `eval` records of `metrics.jsonl`.

use super::lines::{MOST_GROUPS, number, shown, text};
use crate::train::mask_record::{removed_layers, rows_that_stay, undecided};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Most rows of a domain whose losses are kept.
const MOST_ROWS: usize = 10_000;

/// One evaluation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Evaluation {
    /// Finished steps.
    pub step: u64,
    /// `plain` (no masks), `expected` (as many units open as expected), `target` (cut to the exact target).
    pub gates: String,
    /// Mean over the domains, nats per target token.
    pub mean_loss: Option<f64>,
    /// Whether the mixer was asked to move here.
    pub mixer_updated: bool,
    /// Per domain.
    pub domains: Vec<DomainEval>,
    /// Per mask module; empty without masks.
    pub modules: Vec<ModulePolarisation>,
    /// Expected sparsity of every row, by module.
    pub row_sparsity: BTreeMap<String, Vec<Option<f64>>>,
    /// Mask file written with it, relative to the run folder.
    pub snapshot: Option<String>,
    /// Places in `domains`, sorted by name.
    #[serde(skip)]
    by_name: Vec<usize>,
}

/// A domain in an evaluation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DomainEval {
    /// Its name.
    pub domain: String,
    /// Mean over its validation rows, nats per target token.
    pub loss: Option<f64>,
    /// Of that mean over rows.
    pub standard_error: Option<f64>,
    /// Rows that it is over.
    pub rows: Option<u64>,
    /// Their target tokens.
    pub tokens: Option<u64>,
    /// Of every row; only of the model before the first step and of the cut.
    #[serde(skip)]
    pub row_losses: Vec<f64>,
    /// Reference loss.
    pub reference: Option<f64>,
    /// Loss over reference.
    pub excess: Option<f64>,
    /// Proportion from here on.
    pub proportion: Option<f64>,
}

/// How far a mask module had decided.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ModulePolarisation {
    /// `layer`, `kv_head`, `query_head`, `intermediate`, `hidden`.
    pub module: String,
    /// Units with a gate between 0.05 and 0.95, in the layers that the cut keeps.
    pub undecided: Option<u64>,
    /// Units that the cut keeps, in layers that stay, although their gate is below ½.
    pub half_alive: Option<u64>,
    /// Units that the cut removes from layers that stay although their gate is above ½.
    pub still_open: Option<u64>,
    /// All units of the layers that the cut keeps.
    pub units: Option<u64>,
    /// Units with a gate in each tenth of [0, 1]; empty where the record has none.
    pub histogram: Vec<u64>,
}

impl Evaluation {
    /// From an `eval` record.
    pub(super) fn of(step: u64, record: &Value) -> Evaluation {
        let domains = record["domains"].as_object().into_iter().flatten().take(MOST_GROUPS);
        let modules = record["masks"]["modules"].as_array().into_iter().flatten().take(MOST_GROUPS);
        let rows = record["row_sparsity"].as_object().into_iter().flatten().take(MOST_GROUPS);
        let domains: Vec<DomainEval> = domains.map(|(name, fields)| DomainEval::of(name, fields)).collect();
        let removed = removed_layers(&record["masks"]);
        Evaluation {
            step,
            gates: text(&record["gates"]).unwrap_or_default(),
            mean_loss: number(record, "/mean_loss"),
            mixer_updated: record["mixer_updated"] == true,
            by_name: sorted(&domains),
            domains,
            modules: modules.filter_map(|module| ModulePolarisation::of(module, &removed)).collect(),
            row_sparsity: rows.map(|(module, rows)| (shown(module), numbers(rows))).collect(),
            snapshot: text(&record["snapshot"]),
        }
    }

    /// Whether the masks were cut to their target.
    pub fn is_cut(&self) -> bool {
        self.gates == "target"
    }

    /// A domain of this evaluation.
    pub fn domain(&self, name: &str) -> Option<&DomainEval> {
        let before = |place: &usize| self.domains.get(*place).is_some_and(|domain| domain.domain.as_str() < name);
        let place = self.by_name.get(self.by_name.partition_point(before))?;
        self.domains.get(*place).filter(|domain| domain.domain == name)
    }

    /// About as many numbers as it takes to keep.
    pub(super) fn cells(&self) -> usize {
        let rows: usize = self.row_sparsity.values().map(|rows| rows.len() + 8).sum();
        let losses: usize = self.domains.iter().map(|domain| domain.row_losses.len()).sum();
        8 * (1 + self.domains.len()) + 16 * self.modules.len() + rows + losses
    }
}

/// Places in order of the names; of two of one name the first comes first.
fn sorted(domains: &[DomainEval]) -> Vec<usize> {
    let name = |place: &usize| domains.get(*place).map(|domain| domain.domain.as_str());
    let mut places: Vec<usize> = (0..domains.len()).collect();
    places.sort_by(|a, b| name(a).cmp(&name(b)));
    places
}

impl DomainEval {
    fn of(name: &str, fields: &Value) -> DomainEval {
        let value = |key: &str| fields[key].as_f64();
        let rows = fields["row_losses"].as_array().into_iter().flatten().take(MOST_ROWS);
        DomainEval {
            domain: shown(name),
            loss: value("loss"),
            standard_error: value("standard_error"),
            rows: fields["rows"].as_u64(),
            tokens: fields["tokens"].as_u64(),
            // With a gap rows could not be paired.
            row_losses: rows.map(Value::as_f64).collect::<Option<Vec<f64>>>().unwrap_or_default(),
            reference: value("reference"),
            excess: value("excess"),
            proportion: value("proportion"),
        }
    }
}

impl ModulePolarisation {
    fn of(record: &Value, removed: &BTreeSet<u64>) -> Option<ModulePolarisation> {
        let size = |key: &str| record[key].as_u64();
        let histogram = record["histogram"].as_array().filter(|bins| bins.len() == 10);
        Some(ModulePolarisation {
            module: text(&record["module"])?,
            undecided: undecided(record, removed),
            half_alive: record["half_alive"]["count"].as_u64(),
            still_open: record["still_open"]["count"].as_u64(),
            units: rows_that_stay(record, removed).zip(size("size")).and_then(|(rows, size)| rows.checked_mul(size)),
            histogram: histogram.into_iter().flatten().map(|bin| bin.as_u64().unwrap_or(0)).collect(),
        })
    }
}

fn numbers(rows: &Value) -> Vec<Option<f64>> {
    rows.as_array().into_iter().flatten().map(Value::as_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_of_the_wrong_kinds_is_an_evaluation_without_numbers() {
        let layer = json!({ "module": "layer", "undecided": "no", "rows": 1u64 << 40, "size": 1u64 << 40 });
        let foreign = json!({ "gates": 3, "domains": { "a": 1 }, "masks": { "modules": [{}, layer] } });
        let evaluation = Evaluation::of(4, &foreign);
        assert_eq!((evaluation.step, evaluation.gates.as_str()), (4, ""));
        assert_eq!(evaluation.domain("a").unwrap().loss, None);
        assert_eq!(evaluation.modules.len(), 1);
        assert_eq!(evaluation.modules[0].units, None, "too many to be true");
        assert_eq!(Evaluation::of(1, &json!(7)).domains.len(), 0);
    }

    #[test]
    fn domains_are_found_in_any_order() {
        let evaluation = Evaluation::of(
            1,
            &json!({ "domains": { "c\n": { "loss": 1 }, "a": { "loss": 2 },
            "c\t": { "loss": 3 }, "b": { "loss": 4 } } }),
        );
        let loss = |name: &str| evaluation.domain(name).and_then(|domain| domain.loss);
        assert_eq!(
            ["a", "b", "c\u{fffd}", "c", "d", ""].map(loss),
            [Some(2.0), Some(4.0), Some(1.0), None, None, None]
        );
        assert_eq!(evaluation.domains[0].domain, "c\u{fffd}", "they stay in the order of the record");
    }
}
