//! The `masks` of an `eval` record, for its readers: the record counts undecided units of every row, and those of a layer
//! that the cut removes have no say in the small model. Everywhere they are shown, "undecided" means those of the layers
//! that stay. Lenient: a record may be damaged or of another version.

use serde_json::Value;
use std::collections::BTreeSet;

/// Layers that the cut to the target removes.
pub fn removed_layers(masks: &Value) -> BTreeSet<u64> {
    let units = masks["removed_layers"].as_array().into_iter().flatten();
    units.filter_map(|unit| unit["name"].as_str()?.strip_prefix("layer ")?.parse().ok()).collect()
}

/// Undecided units of a module in the layers that stay.
pub fn undecided(module: &Value, removed: &BTreeSet<u64>) -> Option<u64> {
    let rows = module["undecided"].as_array()?;
    let stays = |row: usize| rows.len() == 1 || !removed.contains(&(row as u64));
    let counts = rows.iter().enumerate().filter(|(row, _)| stays(*row)).filter_map(|(_, count)| count.as_u64());
    Some(counts.fold(0u64, |sum, count| sum.saturating_add(count)))
}

/// Rows of a module whose layers stay: one for the masks over all layers, which have one row.
pub fn rows_that_stay(module: &Value, removed: &BTreeSet<u64>) -> Option<u64> {
    let rows = module["rows"].as_u64()?;
    let gone = removed.iter().filter(|row| rows > 1 && **row < rows).count() as u64;
    Some(rows - gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn units_of_removed_layers_are_not_counted() {
        let masks =
            json!({ "removed_layers": [{ "name": "layer 1", "value": 0.1 }, { "name": 3 }, { "name": "layer x" }] });
        let removed = removed_layers(&masks);
        assert_eq!(removed, BTreeSet::from([1]));
        let heads = json!({ "rows": 3, "size": 4, "undecided": [1, 20, 300] });
        assert_eq!((undecided(&heads, &removed), rows_that_stay(&heads, &removed)), (Some(301), Some(2)));
        let hidden = json!({ "rows": 1, "undecided": [7] });
        assert_eq!((undecided(&hidden, &removed), rows_that_stay(&hidden, &removed)), (Some(7), Some(1)));
        assert_eq!((undecided(&json!({}), &removed), rows_that_stay(&json!({}), &removed)), (None, None));
        assert!(removed_layers(&json!(null)).is_empty());
    }
}
