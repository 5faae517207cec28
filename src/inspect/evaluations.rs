//! The evaluations of a run: losses by domain on held-out rows, and how far the masks had decided. Read from the
//! `eval` records of `metrics.jsonl`.

use super::evaluated_experts::EvaluatedExperts;
use super::lines::{MOST_GROUPS, shown};
use crate::run_dir::record::{self, Eval, MaskState, ModuleMasks};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Most rows of a domain whose losses are kept.
const MOST_ROWS: usize = 10_000;

/// One evaluation.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Evaluation {
    /// Finished steps.
    pub step: u64,
    /// How long it took, where the run says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// `plain` (no masks), `expected` (as many units open as expected), `target` (cut to the exact target),
    /// `experts` (the chosen experts run), `soft` (experts multiplied by their scores).
    pub gates: String,
    /// Mean over the domains, nats per target token.
    pub mean_loss: Option<f64>,
    /// The same of the teacher; only of the evaluation before the first step of a run that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_loss: Option<f64>,
    /// Whether the mixer was asked to move here.
    pub mixer_updated: bool,
    /// Per domain.
    pub domains: Vec<DomainEval>,
    /// Per mask module; empty without masks.
    pub modules: Vec<ModulePolarisation>,
    /// Expected sparsity of every row, by module.
    pub row_sparsity: BTreeMap<String, Vec<Option<f64>>>,
    /// Which experts ran; of `lte train` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<EvaluatedExperts>,
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
    /// Of every row; only of the model before the first step, of the cut, and of experts after the last step.
    #[serde(skip)]
    pub row_losses: Vec<f64>,
    /// Reference loss.
    pub reference: Option<f64>,
    /// Loss − reference, below 0 where the model is better than that.
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
    pub(super) fn of(step: u64, record: &Eval) -> Evaluation {
        let domains = record.domains.iter().take(MOST_GROUPS);
        let modules = record.masks.iter().flat_map(|masks| &masks.modules.0).take(MOST_GROUPS);
        let rows = record.row_sparsity.iter().take(MOST_GROUPS);
        let domains: Vec<DomainEval> = domains.map(|(name, fields)| DomainEval::of(name, fields)).collect();
        let removed = record.masks.as_ref().map(MaskState::removed).unwrap_or_default();
        Evaluation {
            step,
            seconds: record.seconds,
            gates: record.gates.as_deref().map(shown).unwrap_or_default(),
            mean_loss: record.mean_loss,
            teacher_loss: record.teacher_loss,
            mixer_updated: record.mixer_updated == Some(true),
            by_name: sorted(&domains),
            domains,
            modules: modules.filter_map(|module| ModulePolarisation::of(module, &removed)).collect(),
            row_sparsity: rows.map(|(module, rows)| (shown(module), rows.clone())).collect(),
            experts: record.experts.as_ref().map(EvaluatedExperts::of),
            snapshot: record.snapshot.as_deref().map(shown),
        }
    }

    /// Whether the masks were cut to their target.
    pub fn is_cut(&self) -> bool {
        self.gates == "target"
    }

    /// Whether experts were multiplied by their scores.
    pub fn is_soft(&self) -> bool {
        self.gates == "soft"
    }

    /// Whether it is of the model in training as it is run: not cut to its target, no expert multiplied by its score.
    pub fn is_as_run(&self) -> bool {
        !self.is_cut() && !self.is_soft()
    }

    /// Whether no router left units out or weakened them.
    pub fn runs_all_units(&self) -> bool {
        !self.is_soft() && self.gates != "experts"
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
        let experts = self.experts.as_ref().map_or(0, EvaluatedExperts::cells);
        8 * (1 + self.domains.len()) + 16 * self.modules.len() + rows + losses + experts
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
    fn of(name: &str, fields: &record::DomainEval) -> DomainEval {
        let rows = fields.row_losses.iter().flatten().take(MOST_ROWS);
        DomainEval {
            domain: shown(name),
            loss: fields.loss,
            standard_error: fields.standard_error,
            rows: fields.rows,
            tokens: fields.tokens,
            // With a gap rows could not be paired.
            row_losses: rows.copied().collect::<Option<Vec<f64>>>().unwrap_or_default(),
            reference: fields.reference,
            excess: fields.over_reference(),
            proportion: fields.proportion,
        }
    }
}

impl ModulePolarisation {
    fn of(record: &ModuleMasks, removed: &BTreeSet<u64>) -> Option<ModulePolarisation> {
        let units = record.rows_that_stay(removed).zip(record.size);
        Some(ModulePolarisation {
            module: shown(record.module.as_deref()?),
            undecided: record.undecided_in_kept(removed),
            half_alive: record.half_alive.count,
            still_open: record.still_open.count,
            units: units.and_then(|(rows, size)| rows.checked_mul(size)),
            histogram: record.histogram.clone().filter(|bins| bins.len() == 10).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
impl Evaluation {
    /// From the fields of an `eval` record.
    pub(super) fn of_json(step: u64, mut fields: serde_json::Value) -> Evaluation {
        fields["type"] = "eval".into();
        let record::What::Eval(eval) = record::Record::from(fields).what else { panic!("an evaluation") };
        Evaluation::of(step, &eval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_of_the_wrong_kinds_is_an_evaluation_without_numbers() {
        let layer = json!({ "module": "layer", "undecided": "no", "rows": 1u64 << 40, "size": 1u64 << 40 });
        let foreign = json!({ "gates": 3, "domains": { "a": 1 }, "masks": { "modules": [{}, layer] } });
        let evaluation = Evaluation::of_json(4, foreign);
        assert_eq!((evaluation.step, evaluation.gates.as_str()), (4, ""));
        assert_eq!(evaluation.domain("a").unwrap().loss, None);
        assert_eq!(evaluation.modules.len(), 1);
        assert_eq!(evaluation.modules[0].units, None, "too many to be true");
        assert_eq!(Evaluation::of_json(1, json!({ "domains": 7 })).domains.len(), 0);
    }

    #[test]
    fn domains_are_found_in_any_order() {
        let evaluation = Evaluation::of_json(
            1,
            json!({ "domains": { "c\n": { "loss": 1 }, "a": { "loss": 2 },
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
