//! A random-access permutation of `0..len` in constant memory.
//!
//! A balanced Feistel network over the smallest even number of bits that holds `len` is a bijection for any round
//! function; values that fall outside of `0..len` are sent through again until they fall inside (cycle walking), which
//! keeps it a bijection of `0..len`. The network covers less than `4 * len` values, so a look-up takes less than four
//! passes on average. No list of indices is ever built, and position `t` needs no positions before it.

use crate::random::mix;

const ROUNDS: u64 = 8;

/// A permutation of `0..len`, fixed by its key.
#[derive(Debug, Clone)]
pub(crate) struct Permutation {
    len: u64,
    half_bits: u32,
    round_keys: [u64; ROUNDS as usize],
}

impl Permutation {
    pub(crate) fn new(len: u64, key: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let round_keys = std::array::from_fn(|round| mix(key ^ mix(round as u64 + 1)));
        Self { len, half_bits: bits.div_ceil(2).max(1), round_keys }
    }

    /// Where `position` goes. Positions outside of `0..len` are the caller's mistake and map to themselves.
    pub(crate) fn at(&self, position: u64) -> u64 {
        if position >= self.len {
            return position;
        }
        let mut value = self.encrypt(position);
        while value >= self.len {
            value = self.encrypt(value);
        }
        value
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.round_keys {
            // The high bits of the mixer are taken: half of them may be a single bit.
            let round = mix(right ^ key) >> (u64::BITS - self.half_bits);
            (left, right) = (right, left ^ round);
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(len: u64, key: u64) -> Vec<u64> {
        let permutation = Permutation::new(len, key);
        (0..len).map(|position| permutation.at(position)).collect()
    }

    #[test]
    fn is_a_bijection_for_every_size() {
        for len in (0..300).chain([1023, 1024, 1025, 4097, 65_536, 65_537]) {
            let mut values = image(len, 99 + len);
            values.sort_unstable();
            assert!(values.into_iter().eq(0..len), "len {len}");
        }
    }

    #[test]
    fn tiny_permutations_are_about_uniform() {
        let mut counts = std::collections::BTreeMap::new();
        for key in 0..6000 {
            *counts.entry(image(3, mix(key))).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&count| (700..1300).contains(&count)), "{counts:?}");
    }

    #[test]
    fn positions_do_not_stay_in_order() {
        let values = image(10_000, 5);
        let rising = values.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((4700..5300).contains(&rising), "{rising}");
        let near = values.iter().enumerate().filter(|&(at, &value)| at.abs_diff(value as usize) < 100).count();
        assert!(near < 300, "{near} of 10,000 positions stayed within 100 of where they were");
    }

    #[test]
    fn works_on_huge_ranges() {
        let permutation = Permutation::new(1 << 40, 3);
        assert_ne!(permutation.at(0), permutation.at(1));
        assert!((0..1000).all(|position| permutation.at(position) < 1 << 40));
    }
}
