//! The order of a domain's rows within an epoch.
//!
//! Rows live in row groups that must be decoded whole, so a free permutation of rows would decode a group for nearly
//! every row. Instead the groups are permuted, cut into windows of [`WINDOW_GROUPS`] consecutive ones, and the rows of a
//! window are permuted together: each row comes once per epoch, each group is decoded about once, and a domain of up to
//! one window gets a full permutation. Position `t` is found from `t` alone; only the list of groups is kept.

use crate::permutation::Permutation;
use crate::random::{key, mix};

/// Row groups that are shuffled together: 16 groups of about 1 Mi tokens, 32 MiB in memory at two bytes per token.
pub(crate) const WINDOW_GROUPS: usize = 16;

/// First row of every group, and the number of rows after the last.
pub(crate) fn group_starts(group_rows: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut starts = vec![0];
    let mut next = 0;
    for rows in group_rows {
        next += rows;
        starts.push(next);
    }
    starts
}

/// Group that holds `row`, given [`group_starts`].
pub(crate) fn group_of(starts: &[u64], row: u64) -> usize {
    starts.partition_point(|&start| start <= row) - 1
}

/// One epoch of one domain: position in the epoch to row of the domain.
#[derive(Debug, Clone)]
pub(crate) struct EpochOrder {
    /// Row groups in the order they are read.
    groups: Vec<usize>,
    /// First position of every window, and the number of positions.
    window_starts: Vec<u64>,
    key: u64,
}

impl EpochOrder {
    /// The order of `domain` in `epoch`, for rows laid out as `starts` says (see [`group_starts`]).
    pub(crate) fn new(starts: &[u64], seed: u64, domain: &str, epoch: u64) -> Self {
        let parts: [&[u8]; 2] = [domain.as_bytes(), &epoch.to_le_bytes()];
        let count = starts.len() - 1;
        let permutation = Permutation::new(count as u64, key(seed, "order of row groups", &parts));
        let groups: Vec<usize> = (0..count as u64).map(|position| permutation.at(position) as usize).collect();
        let rows_of = |window: &[usize]| window.iter().map(|&group| starts[group + 1] - starts[group]).sum();
        let window_starts = group_starts(groups.chunks(WINDOW_GROUPS).map(rows_of));
        Self { groups, window_starts, key: key(seed, "order of rows", &parts) }
    }

    /// Row of the domain at `position`, which must lie below the domain's number of rows.
    pub(crate) fn row(&self, starts: &[u64], position: u64) -> u64 {
        let window = group_of(&self.window_starts, position);
        let first = self.window_starts[window];
        let permutation = Permutation::new(self.window_starts[window + 1] - first, mix(self.key ^ mix(window as u64)));
        let mut within = permutation.at(position - first);
        for &group in &self.groups[window * WINDOW_GROUPS..] {
            let rows = starts[group + 1] - starts[group];
            if within < rows {
                return starts[group] + within;
            }
            within -= rows;
        }
        // Unreachable: `within` is below the rows of the window.
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(starts: &[u64], seed: u64, epoch: u64) -> Vec<u64> {
        let order = EpochOrder::new(starts, seed, "wiki", epoch);
        (0..*starts.last().unwrap()).map(|position| order.row(starts, position)).collect()
    }

    #[test]
    fn each_row_comes_once_per_epoch() {
        for groups in [1, 2, 5, 15, 16, 17, 33, 70] {
            for rows in [1, 3, 8] {
                let starts = group_starts((0..groups).map(|group| rows + group % 3));
                let mut seen = epoch(&starts, 3, 1);
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..*starts.last().unwrap()), "{groups} groups of {rows}");
            }
        }
    }

    #[test]
    fn epochs_seeds_and_domains_differ() {
        let starts = group_starts([50, 50, 20]);
        let first = epoch(&starts, 3, 0);
        assert_eq!(first, epoch(&starts, 3, 0));
        assert_ne!(first, epoch(&starts, 3, 1));
        assert_ne!(first, epoch(&starts, 4, 0));
        let other = EpochOrder::new(&starts, 3, "cc", 0);
        assert_ne!(first, (0..120).map(|position| other.row(&starts, position)).collect::<Vec<_>>());
    }

    #[test]
    fn a_window_touches_no_more_than_its_groups() {
        let starts = group_starts(std::iter::repeat_n(10, 100));
        for window in epoch(&starts, 1, 0).chunks(10 * WINDOW_GROUPS) {
            let groups: std::collections::HashSet<_> = window.iter().map(|&row| group_of(&starts, row)).collect();
            assert!(groups.len() <= WINDOW_GROUPS);
        }
    }
}
