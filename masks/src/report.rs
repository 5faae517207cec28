//! What the masks have decided, and what they have not: survivors, undecided units, kept units that are half-alive, removed
//! units that were still open.
//!
//! The constraint is met in expectation, the target shape exactly. Where both disagree, the cut keeps units whose gate is
//! near 0 or removes units whose gate is near 1; this report counts them and names them with their values. Data only: printing is for others.

use crate::error::Result;
use crate::gates::finite_values;
use crate::mask_set::{Mask, MaskSet};
use crate::selection::top_k_per_row;
use crate::shape::UnitKind;
use serde::{Deserialize, Serialize};

/// Soft values strictly between these are undecided.
const UNDECIDED: (f32, f32) = (0.05, 0.95);
/// A kept unit below this value, or a removed one above it, is on the wrong side.
const HALF: f32 = 0.5;
const HISTOGRAM_BINS: usize = 10;
/// Most units a list names: before the masks have polarised, a large model has millions on the wrong side.
const NAMED_UNITS: usize = 1000;

/// The state of all masks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskReport {
    /// One report per mask.
    pub modules: Vec<ModuleReport>,
    /// The layers that the target cut removes, in order, with their soft values.
    pub removed_layers: Vec<UnitValue>,
}

/// A unit by name, with its soft value: σ(slope·a), or of deterministic gates the share of itself that it counts as open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitValue {
    /// `layer 3 kv_head 1`, `layer 3`, `hidden 17`.
    pub name: String,
    /// Its soft value.
    pub value: f64,
}

/// Units on the wrong side of the cut: how many, and the worst of them by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitList {
    /// How many there are.
    pub count: u64,
    /// The thousand furthest on the wrong side, worst first; all of them if there are no more.
    pub worst: Vec<UnitValue>,
}

/// The state of one mask. "Kept" and "removed" refer to the cut to the exact target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleReport {
    /// The kind of unit.
    pub module: UnitKind,
    /// Independent rows.
    pub rows: i64,
    /// Units per row.
    pub size: i64,
    /// Units per row in the target.
    pub target: i64,
    /// Units per row that the present expectation would keep, `round(Σ score)`: equal to `target` when the constraint is met.
    pub survivors: Vec<i64>,
    /// Units per row whose soft value lies strictly between 0.05 and 0.95.
    pub undecided: Vec<i64>,
    /// Units that the cut keeps, in layers that stay.
    #[serde(default)]
    pub kept: u64,
    /// Of these, units whose soft value is below ½: their weights enter the small model almost switched off.
    pub half_alive: UnitList,
    /// Units that the cut removes from layers that stay though their soft value is above ½: the model still uses them.
    pub still_open: UnitList,
    /// Expected sparsity, mean over rows.
    pub expected_sparsity: f64,
    /// Final target of the sparsity.
    pub target_sparsity: f64,
    /// How many soft values fall into each tenth of [0, 1].
    pub histogram: [u64; HISTOGRAM_BINS],
}

impl MaskReport {
    /// Reads the masks once from their device.
    ///
    /// # Errors
    /// Log-odds that are not finite.
    pub fn new(masks: &MaskSet) -> Result<MaskReport> {
        let layers = masks.masks().iter().find(|mask| mask.spec.module == UnitKind::Layer);
        let layers = layers.map(|mask| Cut::new(masks, mask, None)).transpose()?;
        let module = |mask: &Mask| {
            let layers = layers.as_ref().filter(|_| mask.spec.module.is_per_layer());
            ModuleReport::new(masks, mask, &Cut::new(masks, mask, layers.map(|cut| cut.kept.as_slice()))?)
        };
        Ok(MaskReport {
            modules: masks.masks().iter().map(module).collect::<Result<_>>()?,
            removed_layers: layers.as_ref().map_or(Vec::new(), Cut::removed),
        })
    }

    /// The report of one module.
    pub fn get(&self, module: UnitKind) -> Option<&ModuleReport> {
        self.modules.iter().find(|report| report.module == module)
    }
}

impl ModuleReport {
    fn new(masks: &MaskSet, mask: &Mask, cut: &Cut<'_>) -> Result<ModuleReport> {
        let spec = &mask.spec;
        let is_undecided = |value: &&f32| **value > UNDECIDED.0 && **value < UNDECIDED.1;
        let undecided = |row: &[f32]| row.iter().filter(is_undecided).count() as i64;
        let scores = finite_values(spec, &masks.score(mask)?)?;
        let open: f64 = scores.iter().map(|&score| f64::from(score)).sum();
        Ok(ModuleReport {
            module: spec.module,
            rows: spec.rows,
            size: spec.size,
            target: spec.target,
            survivors: masks.expected_survivors(mask)?,
            undecided: cut.soft.chunks_exact(spec.size as usize).map(undecided).collect(),
            kept: cut.places(true).count() as u64,
            half_alive: cut.wrong_side(true),
            still_open: cut.wrong_side(false),
            expected_sparsity: 1.0 - open / spec.units() as f64,
            target_sparsity: spec.target_sparsity(),
            histogram: histogram(&cut.soft),
        })
    }
}

/// The cut of one mask to its target, with the soft values of all units.
struct Cut<'a> {
    mask: &'a Mask,
    kept: Vec<bool>,
    soft: Vec<f32>,
    /// Whether each row's layer stays; all do where there are none to remove.
    layers: Option<&'a [bool]>,
}

impl<'a> Cut<'a> {
    fn new(masks: &MaskSet, mask: &'a Mask, layers: Option<&'a [bool]>) -> Result<Cut<'a>> {
        let counts = vec![mask.spec.target; mask.spec.rows as usize];
        Ok(Cut {
            mask,
            kept: top_k_per_row(&mask.spec, &finite_values(&mask.spec, &mask.log_alpha)?, &counts),
            soft: finite_values(&mask.spec, &masks.openness(mask)?)?,
            layers,
        })
    }

    /// Every unit that is removed, in order.
    fn removed(&self) -> Vec<UnitValue> {
        (0..self.kept.len()).filter(|&at| !self.kept[at]).map(|at| self.unit(at)).collect()
    }

    /// The units of layers that stay that the cut keeps, or that it removes.
    fn places(&self, kept: bool) -> impl Iterator<Item = usize> {
        let size = self.mask.spec.size as usize;
        let stays = move |at: usize| self.layers.is_none_or(|layers| layers.get(at / size) == Some(&true));
        (0..self.kept.len()).filter(move |&at| self.kept[at] == kept && stays(at))
    }

    /// Kept units that are more closed than open, or removed ones that are more open than closed.
    fn wrong_side(&self, kept: bool) -> UnitList {
        let distance = |at: usize| if kept { HALF - self.soft[at] } else { self.soft[at] - HALF };
        let mut units: Vec<usize> = self.places(kept).filter(|&at| distance(at) > 0.0).collect();
        units.sort_by(|&a, &b| distance(b).total_cmp(&distance(a)));
        UnitList {
            count: units.len() as u64,
            worst: units.into_iter().take(NAMED_UNITS).map(|at| self.unit(at)).collect(),
        }
    }

    fn unit(&self, at: usize) -> UnitValue {
        let spec = &self.mask.spec;
        let (row, index) = (at as i64 / spec.size, at as i64 % spec.size);
        UnitValue { name: spec.module.unit_name(row, index), value: f64::from(self.soft[at]) }
    }
}

fn histogram(values: &[f32]) -> [u64; HISTOGRAM_BINS] {
    let mut bins = [0; HISTOGRAM_BINS];
    for value in values {
        bins[((value * HISTOGRAM_BINS as f32) as usize).min(HISTOGRAM_BINS - 1)] += 1;
    }
    bins
}
