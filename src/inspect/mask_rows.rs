//! A mask row by row: each module has one row per layer, `layer` and `hidden` one in all. What a row expects, what the
//! cut makes of it, and how far it has decided.

use super::units::{ModuleUnits, Units, histogram, undecided};
use serde::Serialize;
use shearling_masks::UnitKind;

/// A kept unit below this gate, or a removed one above it, is on the wrong side of the cut.
const HALF: f32 = 0.5;

/// One row of one mask.
#[derive(Clone, Debug, Serialize)]
pub struct MaskRow {
    /// Which mask.
    pub module: UnitKind,
    /// Layer of the source; none for `layer` and `hidden`.
    pub layer: Option<usize>,
    /// Whether that layer is removed: what the row keeps has no effect then.
    pub removed: bool,
    /// Units in the source.
    pub units: usize,
    /// Units that the cut keeps.
    pub target: i64,
    /// Units that expect to be open, Σ score.
    pub expected: f64,
    /// Units with a gate between 0.05 and 0.95.
    pub undecided: usize,
    /// Kept units with a gate below ½.
    pub half_alive: usize,
    /// Removed units with a gate above ½.
    pub still_open: usize,
    /// Mean gate.
    pub gate_mean: f64,
    /// Units with a gate in each tenth of [0, 1].
    pub histogram: [u64; 10],
    /// Which units the cut keeps; as index lists they are in the keep-plan.
    #[serde(skip)]
    pub kept: Vec<bool>,
}

/// Every row of every mask, in the order of the modules.
pub(super) fn rows(units: &Units) -> Vec<MaskRow> {
    let of_module = |module: &ModuleUnits| {
        (0..module.spec.rows.max(0) as usize).map(|row| of_row(units, module, row)).collect::<Vec<_>>()
    };
    units.modules().iter().flat_map(of_module).collect()
}

fn of_row(units: &Units, module: &ModuleUnits, row: usize) -> MaskRow {
    let (soft, kept) = (module.soft_row(row).unwrap_or_default(), module.kept_row(row).unwrap_or_default());
    let layer = module.spec.module.is_per_layer().then_some(row);
    let count =
        |wrong: &dyn Fn(f32, bool) -> bool| soft.iter().zip(kept).filter(|(gate, kept)| wrong(**gate, **kept)).count();
    MaskRow {
        module: module.spec.module,
        layer,
        removed: layer.is_some_and(|layer| !units.keeps_layer(layer)),
        units: soft.len(),
        target: module.spec.target,
        expected: module.expected_open(row),
        undecided: undecided(soft),
        half_alive: count(&|gate, kept| kept && gate < HALF),
        still_open: count(&|gate, kept| !kept && gate > HALF),
        gate_mean: soft.iter().map(|gate| f64::from(*gate)).sum::<f64>() / soft.len().max(1) as f64,
        histogram: histogram(soft),
        kept: kept.to_vec(),
    }
}
