//! The masks of a file as CSV: a row per mask row, that is per module and layer. The columns are described in
//! docs/guides/inspect.md.

use crate::cli::csv::{Csv, field};
use crate::cli::table::ranges;
use crate::inspect::MaskInspection;
use crate::inspect::mask_rows::MaskRow;

const BEFORE: [&str; 10] =
    ["module", "layer", "removed", "units", "target", "expected", "undecided", "half_alive", "still_open", "gate_mean"];
const AFTER: [&str; 2] = ["kept_units", "jaccard"];

/// One row per module and row.
pub(super) fn masks_csv(masks: &MaskInspection) -> Csv {
    let mut csv = Csv::default();
    let bins = (0..10).map(|bin| format!("gates_{bin}"));
    csv.row(BEFORE.map(String::from).into_iter().chain(bins).chain(AFTER.map(String::from)));
    for row in &masks.rows {
        let agreement = masks.agreement.as_ref().and_then(|agreement| agreement.get(row.module));
        let jaccard = agreement.and_then(|agreement| agreement.rows.get(row.layer.unwrap_or(0))).copied();
        csv.row(fields(row, jaccard));
    }
    csv
}

fn fields(row: &MaskRow, jaccard: Option<f64>) -> Vec<String> {
    let numbers = [
        row.module.to_string(),
        row.layer.map_or_else(String::new, |layer| layer.to_string()),
        row.removed.to_string(),
        row.units.to_string(),
        row.target.to_string(),
        field(Some(row.expected)),
        row.undecided.to_string(),
        row.half_alive.to_string(),
        row.still_open.to_string(),
        field(Some(row.gate_mean)),
    ];
    let histogram = row.histogram.iter().map(u64::to_string);
    let kept: Vec<i64> =
        row.kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(index, _)| index as i64).collect();
    numbers.into_iter().chain(histogram).chain([ranges(&kept), field(jaccard)]).collect()
}
