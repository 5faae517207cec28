//! The keep-plan: which units of the source make up the small model, as index lists.
//!
//! It stands between masks and weights: learned masks and one-shot cuts end in the same plan, and slicing follows the plan
//! alone. A plan always has exactly the target's shape.

use crate::error::{Error, Result};
use crate::gates::{Gates, finite_values, to_tensor};
use crate::selection::top_k_per_row;
use crate::shape::{Shape, UnitKind};
use crate::spec::MaskSpec;
use serde::{Deserialize, Serialize};

/// What stays of the source; all indices are the source's, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepPlan {
    /// Kept dimensions of the residual stream.
    pub hidden: Vec<i64>,
    /// Kept layers, in their order.
    pub layers: Vec<LayerKeep>,
}

/// What stays of one kept layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerKeep {
    /// Index of the layer in the source.
    pub source_index: i64,
    /// Kept key/value heads.
    pub kv_heads: Vec<i64>,
    /// Kept places inside every group.
    pub query_slots: Vec<i64>,
    /// Kept dimensions of the MLP.
    pub intermediate: Vec<i64>,
}

impl LayerKeep {
    /// The kept query heads as indices of the source, k·G + g, where `group_size` is the source's G.
    pub fn query_heads(&self, group_size: i64) -> Vec<i64> {
        let of_group = |&kv_head: &i64| self.query_slots.iter().map(move |slot| kv_head * group_size + slot);
        self.kv_heads.iter().flat_map(of_group).collect()
    }
}

impl KeepPlan {
    /// The plan that keeps every unit whose gate is not 0.
    ///
    /// # Errors
    /// Gates that are missing, of another shape, not finite, or that do not leave exactly the target in the kept layers.
    pub fn from_gates(spec: &MaskSpec, gates: &Gates) -> Result<KeepPlan> {
        let kept = |module: UnitKind| -> Result<Vec<Vec<i64>>> {
            let values = gates.values(spec, module)?;
            Ok(values.chunks_exact(spec.layout(module).size as usize).map(open_indices).collect())
        };
        let layers: Vec<i64> = kept(UnitKind::Layer)?.concat();
        let (kv_heads, query_slots) = (kept(UnitKind::KvHead)?, kept(UnitKind::QueryHead)?);
        let intermediate = kept(UnitKind::Intermediate)?;
        let layer = |source_index: i64| LayerKeep {
            source_index,
            kv_heads: kv_heads[source_index as usize].clone(),
            query_slots: query_slots[source_index as usize].clone(),
            intermediate: intermediate[source_index as usize].clone(),
        };
        let plan =
            KeepPlan { hidden: kept(UnitKind::Hidden)?.concat(), layers: layers.into_iter().map(layer).collect() };
        plan.check(spec)?;
        Ok(plan)
    }

    /// A one-shot cut: keeps the highest scores of each row of each mask, ties going to the lower index.
    ///
    /// `scores` holds any importance, one tensor per mask in the place of its gate. Returned with the plan are its gates of
    /// 0 and 1, fp32 on the scores' device.
    ///
    /// # Errors
    /// Scores that are missing, of another shape or not finite.
    pub fn from_scores(spec: &MaskSpec, scores: &Gates) -> Result<(KeepPlan, Gates)> {
        let mut gates = Gates::none();
        for module in spec.modules() {
            let tensor = scores.require(module)?;
            let counts = vec![module.target; module.rows as usize];
            let kept = top_k_per_row(module, &finite_values(module, tensor)?, &counts);
            let values: Vec<f32> = kept.into_iter().map(|kept| if kept { 1.0 } else { 0.0 }).collect();
            gates.set(module.module, Some(to_tensor(module, &values, tensor.device())?));
        }
        Ok((KeepPlan::from_gates(spec, &gates)?, gates))
    }

    /// Refuses a plan that is not exactly of the target's shape, or whose indices are not ascending ones of the source:
    /// for plans that were read from somewhere.
    ///
    /// # Errors
    /// The first row that does not fit.
    pub fn check(&self, spec: &MaskSpec) -> Result<()> {
        let (source, target) = (spec.source(), spec.target());
        let layers: Vec<i64> = self.layers.iter().map(|layer| layer.source_index).collect();
        check_row(UnitKind::Layer, 0, &layers, source, target)?;
        check_row(UnitKind::Hidden, 0, &self.hidden, source, target)?;
        for layer in &self.layers {
            let row = layer.source_index;
            check_row(UnitKind::KvHead, row, &layer.kv_heads, source, target)?;
            check_row(UnitKind::QueryHead, row, &layer.query_slots, source, target)?;
            check_row(UnitKind::Intermediate, row, &layer.intermediate, source, target)?;
        }
        Ok(())
    }
}

fn open_indices(row: &[f32]) -> Vec<i64> {
    row.iter().enumerate().filter(|(_, gate)| **gate != 0.0).map(|(index, _)| index as i64).collect()
}

fn check_row(module: UnitKind, row: i64, indices: &[i64], source: &Shape, target: &Shape) -> Result<()> {
    let (size, expected) = (module.size_in(source), module.size_in(target));
    let mut least = 0;
    for &index in indices {
        if index < least || index >= size {
            return Err(Error::PlanIndex { place: module.row_name(row), index, size });
        }
        least = index + 1;
    }
    let found = indices.len() as i64;
    if found != expected {
        return Err(Error::SurvivorCount { place: module.row_name(row), expected, found });
    }
    Ok(())
}
