//! Whether two masks keep the same units: |A ∩ B| / |A ∪ B| (Jaccard) of the kept sets, by module and layer. 1 is the
//! same set; two independent choices of half the units agree by a third.

use super::Error;
use super::units::Units;
use serde::Serialize;
use shearling_masks::{Shape, UnitKind};

/// How much two masks agree when both are cut to their targets.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    /// The mask file that was compared with.
    pub against: String,
    /// Per module that is pruned in either.
    pub modules: Vec<ModuleAgreement>,
}

/// How much one module agrees.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleAgreement {
    /// Which mask.
    pub module: UnitKind,
    /// Over all rows of layers that stay in both.
    pub jaccard: f64,
    /// Units kept by both, in those rows.
    pub both: u64,
    /// Units kept by one at least.
    pub either: u64,
    /// Per row; of a layer that is removed in either too.
    pub rows: Vec<f64>,
}

impl Agreement {
    /// Compares two masks of one source shape; their targets may differ.
    ///
    /// # Errors
    /// They belong to different shapes.
    pub fn of(units: &Units, other: &Units, against: String) -> Result<Agreement, Error> {
        if units.source() != other.source() {
            return Err(Error::NotComparable(format!(
                "they are masks of models of different shapes, {} and {}; compare masks of one source",
                dimensions(units.source()),
                dimensions(other.source())
            )));
        }
        let pruned = |module: &UnitKind| units.get(*module).is_some() || other.get(*module).is_some();
        let modules = UnitKind::ALL.into_iter().filter(pruned);
        Ok(Agreement { against, modules: modules.map(|module| ModuleAgreement::of(units, other, module)).collect() })
    }

    /// A module's agreement.
    pub fn get(&self, module: UnitKind) -> Option<&ModuleAgreement> {
        self.modules.iter().find(|agreement| agreement.module == module)
    }
}

impl ModuleAgreement {
    fn of(units: &Units, other: &Units, module: UnitKind) -> ModuleAgreement {
        let layers = units.source().num_hidden_layers.max(0) as usize;
        let size = module.size_in(units.source()).max(0) as usize;
        let stays = |row: usize| !module.is_per_layer() || (units.keeps_layer(row) && other.keeps_layer(row));
        let (mut both, mut either, mut rows) = (0, 0, Vec::new());
        for row in 0..if module.is_per_layer() { layers } else { 1 } {
            let kept = |units: &Units, index: usize| units.get(module).is_none_or(|units| units.kept_at(row, index));
            let pairs = (0..size).map(|index| (kept(units, index), kept(other, index)));
            let (common, any) =
                pairs.fold((0u64, 0u64), |(common, any), (a, b)| (common + u64::from(a && b), any + u64::from(a || b)));
            rows.push(ratio(common, any));
            if stays(row) {
                (both, either) = (both + common, either + any);
            }
        }
        ModuleAgreement { module, jaccard: ratio(both, either), both, either, rows }
    }
}

fn ratio(both: u64, either: u64) -> f64 {
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

fn dimensions(shape: &Shape) -> String {
    format!(
        "{} layers × {} hidden × {} intermediate × {}/{} heads",
        shape.num_hidden_layers,
        shape.hidden_size,
        shape.intermediate_size,
        shape.num_attention_heads,
        shape.num_key_value_heads
    )
}
