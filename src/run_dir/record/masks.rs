//! The `masks` of an `eval` record. It counts undecided units of every row, and those of a layer that the cut removes have no
//! say in the small model: everywhere they are shown, "undecided" means those of the layers that stay.

use super::lenient::{Items, record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

record! {
    /// State of all masks.
    pub struct MaskState {
        /// By module.
        pub modules: Items<ModuleMasks>,
        /// Layers that the cut to the target removes.
        pub removed_layers: Items<Unit>,
    }

    /// State of the masks of a module.
    pub struct ModuleMasks {
        /// `layer`, `kv_head`, `query_head`, `intermediate`, `hidden`.
        pub module: Option<String>,
        /// Rows.
        pub rows: Option<u64>,
        /// Units per row.
        pub size: Option<u64>,
        /// Units per row to keep.
        pub target: Option<u64>,
        /// Per row, units that the present expectation keeps.
        pub survivors: Option<Vec<i64>>,
        /// Per row, units with a soft value between 0.05 and 0.95.
        pub undecided: Option<Vec<u64>>,
        /// Units that the cut keeps, in layers that stay.
        pub kept: Option<u64>,
        /// Of these, soft value below ½.
        pub half_alive: Units,
        /// Removed from layers that stay, soft value above ½.
        pub still_open: Units,
        /// Mean over rows.
        pub expected_sparsity: Option<f64>,
        /// Final target.
        pub target_sparsity: Option<f64>,
        /// Soft values in each tenth of [0, 1].
        pub histogram: Option<Vec<u64>>,
    }

    /// Units: how many, and the worst.
    pub struct Units {
        /// All.
        pub count: Option<u64>,
        /// Up to a thousand.
        pub worst: Items<Unit>,
    }

    /// A unit and its soft value.
    pub struct Unit {
        /// `layer 3 kv_head 1`.
        pub name: Option<String>,
        /// Its soft value.
        pub value: Option<f64>,
    }
}

impl MaskState {
    /// Numbers of the layers that the cut removes.
    pub fn removed(&self) -> BTreeSet<u64> {
        let names = self.removed_layers.0.iter().filter_map(|unit| unit.name.as_deref());
        names.filter_map(|name| name.strip_prefix("layer ")?.parse().ok()).collect()
    }
}

impl ModuleMasks {
    /// Undecided units in the layers that stay.
    pub fn undecided_in_kept(&self, removed: &BTreeSet<u64>) -> Option<u64> {
        let rows = self.undecided.as_ref()?;
        let stays = |row: usize| rows.len() == 1 || !removed.contains(&(row as u64));
        let counts = rows.iter().enumerate().filter(|(row, _)| stays(*row)).map(|(_, count)| *count);
        Some(counts.fold(0u64, u64::saturating_add))
    }

    /// Rows whose layers stay: one for the masks over all layers, which have one row.
    pub fn rows_that_stay(&self, removed: &BTreeSet<u64>) -> Option<u64> {
        let rows = self.rows?;
        let gone = removed.iter().filter(|row| rows > 1 && **row < rows).count() as u64;
        Some(rows - gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn units_of_removed_layers_are_not_counted() {
        let masks =
            json!({ "removed_layers": [{ "name": "layer 1", "value": 0.1 }, { "name": 3 }, { "name": "layer x" }] });
        let removed = MaskState::deserialize(masks).unwrap().removed();
        assert_eq!(removed, BTreeSet::from([1]));
        let counts = |module: Value| {
            let module = ModuleMasks::deserialize(module).unwrap();
            (module.undecided_in_kept(&removed), module.rows_that_stay(&removed))
        };
        assert_eq!(counts(json!({ "rows": 3, "size": 4, "undecided": [1, 20, 300] })), (Some(301), Some(2)));
        assert_eq!(counts(json!({ "rows": 1, "undecided": [7] })), (Some(7), Some(1)));
        assert_eq!(counts(json!({})), (None, None));
        assert!(MaskState::default().removed().is_empty());
    }
}
