//! Random numbers as pure functions of what they are for.
//!
//! Every stream starts from a [`key`]: a hash of the run's seed, a purpose and the parts that tell one use from another
//! (domain, epoch, batch). There is no generator to save or restore, and two uses never share a stream.

use sha2::{Digest, Sha256};

/// SplitMix64's increment: 2^64 divided by the golden ratio, made odd.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// Key of one use of randomness: the first 64 bits of SHA-256 over seed, purpose and length-prefixed parts.
pub(crate) fn key(seed: u64, purpose: &str, parts: &[&[u8]]) -> u64 {
    let mut digest = Sha256::new();
    digest.update(seed.to_le_bytes());
    for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let hash = digest.finalize();
    hash.iter().take(8).rev().fold(0, |word, &byte| (word << 8) | u64::from(byte))
}

/// A bijection of 64 bits in which every input bit moves every output bit (SplitMix64's finaliser).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Numbers drawn one after the other from a key (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    state: u64,
}

impl Sequence {
    pub(crate) fn new(key: u64) -> Self {
        Self { state: key }
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(INCREMENT);
        mix(self.state)
    }

    /// A number in `0..count`; 0 for a count of 0. The bias of at most `count / 2^64` is of no account here.
    pub(crate) fn below(&mut self, count: u64) -> u64 {
        ((u128::from(self.word()) * u128::from(count)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, which must not be empty.
    pub(crate) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// `count` different numbers of `0..total`, in random order.
    pub(crate) fn distinct(&mut self, count: usize, total: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..total).collect();
        for at in 0..count.min(total) {
            let other = at + self.below((total - at) as u64) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_parts_apart() {
        let keys = [
            key(1, "a", &[b"bc"]),
            key(1, "ab", &[b"c"]),
            key(1, "a", &[b"b", b"c"]),
            key(2, "a", &[b"bc"]),
            key(1, "a", &[]),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key));
        }
    }

    #[test]
    fn numbers_stay_in_range_and_cover_it() {
        let mut numbers = Sequence::new(key(7, "test", &[]));
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[numbers.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1150).contains(&count)), "{seen:?}");
        assert!((0..100).all(|_| (3..=5).contains(&numbers.between(3, 5))));
        let mut picked = numbers.distinct(5, 5);
        picked.sort_unstable();
        assert_eq!(picked, [0, 1, 2, 3, 4]);
    }
}
