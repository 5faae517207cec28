//! When each mask settled: the step from which on it kept the same units, and the step from which on it had decided.
//!
//! Both are read off the snapshots, so they are as fine as the evaluations are frequent. A set has settled where it and
//! all later ones agree with the last: |A ∩ B| / |A ∪ B| ≥ 0.99 (Jaccard). The last snapshot alone proves nothing: a
//! mask that agrees with its end nowhere before it has not settled.

use super::snapshots::{Loaded, RowState};
use serde::Serialize;
use shearling_masks::UnitKind;
use std::collections::BTreeSet;

/// Jaccard index from which on two sets of kept units count as the same.
pub const SAME_SET: f64 = 0.99;
/// Share of undecided units below which a mask counts as decided.
pub const DECIDED: f64 = 0.01;

/// When a module's masks settled.
#[derive(Clone, Debug, Serialize)]
pub struct Settled {
    /// Which mask.
    pub module: UnitKind,
    /// The step from which on every row (of the layers that stay) keeps the units that it keeps at the end.
    pub same_units_from: Option<u64>,
    /// The step from which on under 1 % of the units (in the layers that stay) are undecided.
    pub decided_from: Option<u64>,
    /// How much the last two snapshots agree: the lowest Jaccard index of the rows that stay.
    pub last_two_agree: Option<f64>,
    /// Per row.
    pub rows: Vec<SettledRow>,
}

/// When one row settled.
#[derive(Clone, Debug, Serialize)]
pub struct SettledRow {
    /// Layer of the source; 0 for `layer` and `hidden`, which have one row.
    pub row: usize,
    /// Whether the row's layer is removed at the end: what it keeps has no effect then.
    pub removed: bool,
    /// As in [`Settled`].
    pub same_units_from: Option<u64>,
    /// As in [`Settled`].
    pub decided_from: Option<u64>,
    /// Units of the row.
    pub units: usize,
    /// Undecided ones in the last snapshot.
    pub undecided: usize,
    /// Those that the cut keeps with a gate below ½.
    pub half_alive: usize,
    /// Those that it removes with a gate above ½.
    pub still_open: usize,
}

/// Reads the history of every mask; `snapshots` are of one spec and in the order of their steps.
pub(super) fn settled(snapshots: &[Loaded]) -> Vec<Settled> {
    let Some(last) = snapshots.last() else { return Vec::new() };
    let modules = last.spec.modules().iter().map(|spec| spec.module);
    modules.map(|module| of_module(snapshots, last, module)).collect()
}

fn of_module(snapshots: &[Loaded], last: &Loaded, module: UnitKind) -> Settled {
    let stays = |row: usize| !module.is_per_layer() || last.snapshot.kept_layers.get(row).copied().unwrap_or(true);
    let rows: Vec<SettledRow> = last
        .rows
        .iter()
        .enumerate()
        .filter(|(_, state)| state.module == module)
        .map(|(at, end)| SettledRow {
            row: end.row,
            removed: !stays(end.row),
            same_units_from: holds_from(snapshots, |s| s.rows.get(at).is_some_and(|state| same(state, end))),
            decided_from: holds_from(snapshots, |s| s.rows.get(at).is_some_and(|state| decided([state]))),
            units: end.size,
            undecided: end.undecided,
            half_alive: end.half_alive,
            still_open: end.still_open,
        })
        .collect();
    let decided_from = holds_from(snapshots, |s| decided(s.rows.iter().filter(|r| r.module == module && stays(r.row))));
    let last_two_agree = last_two_agree(snapshots, &rows, module);
    Settled { module, same_units_from: latest(&rows), decided_from, last_two_agree, rows }
}

fn last_two_agree(snapshots: &[Loaded], rows: &[SettledRow], module: UnitKind) -> Option<f64> {
    let [.., before, last] = snapshots else { return None };
    let stay: BTreeSet<usize> = rows.iter().filter(|row| !row.removed).map(|row| row.row).collect();
    let stays = |row: &RowState| row.module == module && stay.contains(&row.row);
    let pairs = before.rows.iter().zip(&last.rows).filter(|(_, row)| stays(row));
    pairs.map(|(before, row)| jaccard_of_bits(&before.kept, &row.kept)).reduce(f64::min)
}

/// The first step from which on `condition` holds in all snapshots; two at least, since one proves nothing.
fn holds_from(snapshots: &[Loaded], condition: impl Fn(&Loaded) -> bool) -> Option<u64> {
    let holding = snapshots.iter().rev().take_while(|snapshot| condition(snapshot)).count();
    let first = snapshots.len().checked_sub(holding).filter(|_| holding >= 2)?;
    snapshots.get(first).map(|first| first.snapshot.step)
}

/// The latest of the rows that stay; none when one of them has not settled.
fn latest(rows: &[SettledRow]) -> Option<u64> {
    let stay = rows.iter().filter(|row| !row.removed).map(|row| row.same_units_from);
    stay.collect::<Option<Vec<u64>>>()?.into_iter().max()
}

fn same(a: &RowState, b: &RowState) -> bool {
    a.module == b.module && a.row == b.row && jaccard_of_bits(&a.kept, &b.kept) >= SAME_SET
}

fn decided<'a>(rows: impl IntoIterator<Item = &'a RowState>) -> bool {
    let (open, all) = rows.into_iter().fold((0, 0), |(open, all), row| (open + row.undecided, all + row.size));
    (open as f64) < DECIDED * all as f64
}

/// |A ∩ B| / |A ∪ B|; 1 for two empty sets.
pub(super) fn jaccard_of_bits(a: &[u64], b: &[u64]) -> f64 {
    let (both, either) = a
        .iter()
        .zip(b)
        .fold((0u32, 0u32), |(both, either), (a, b)| (both + (a & b).count_ones(), either + (a | b).count_ones()));
    if either == 0 { 1.0 } else { f64::from(both) / f64::from(either) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jaccard_counts_common_bits() {
        assert_eq!(jaccard_of_bits(&[0b1100], &[0b0110]), 1.0 / 3.0);
        assert_eq!(jaccard_of_bits(&[u64::MAX, 1], &[u64::MAX, 1]), 1.0);
        assert_eq!(jaccard_of_bits(&[0], &[0]), 1.0);
    }
}
