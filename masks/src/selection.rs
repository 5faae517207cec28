//! Which units of a row survive: the k with the highest values, ties going to the lower index.
//!
//! The original leaves ties to its sorting library, although many units end exactly at a clamp; here the result is defined.

use crate::spec::ModuleSpec;

/// Marks the `k` largest of a row; of equal values the ones with the lower index.
pub(crate) fn top_k(row: &[f32], k: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    // Adding 0.0 makes −0.0 equal to 0.0 under the total order.
    let key = |index: usize| row[index] + 0.0;
    order.sort_unstable_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    let mut kept = vec![false; row.len()];
    for &index in order.iter().take(k) {
        kept[index] = true;
    }
    kept
}

/// The marks of every row of a mask, `counts[row]` per row.
pub(crate) fn top_k_per_row(spec: &ModuleSpec, values: &[f32], counts: &[i64]) -> Vec<bool> {
    let rows = values.chunks_exact(spec.size as usize).zip(counts);
    rows.flat_map(|(row, &count)| top_k(row, count.max(0) as usize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(row: &[f32], k: usize) -> Vec<usize> {
        top_k(row, k).into_iter().enumerate().filter(|(_, kept)| *kept).map(|(index, _)| index).collect()
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(kept(&[4.6, -1.0, 4.6, 4.6, 2.0], 2), [0, 2]);
        assert_eq!(kept(&[-4.6, 4.6, -4.6, -4.6], 3), [0, 1, 2]);
        assert_eq!(kept(&[-0.0, 0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(kept(&[1.0; 100], 7), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn any_count_is_met_or_exhausts_the_row() {
        let row = [0.3f32, -2.0, 9.0];
        assert_eq!(kept(&row, 0), Vec::<usize>::new());
        assert_eq!(kept(&row, 1), [2]);
        assert_eq!(kept(&row, 9), [0, 1, 2]);
    }
}
