//! Which documents are held out for validation.
//!
//! The choice goes by a hash of seed, domain and text, so a text that occurs twice falls to one side both times, and no
//! document is on both. Validation gets the documents with the smallest hashes until it has its share of the text and at
//! least two documents.
//!
//! The text is counted in a first pass with bounded memory. A domain of up to [`LISTED_DOCUMENTS`] different documents
//! is listed in full and split exactly; there, a document that would take validation far beyond its share is passed
//! over, so that a few long documents do not leave one side empty. Beyond that, hashes are counted in buckets, which
//! cuts the domain to within a 65,536-th of its documents. The share is counted in bytes, which within one domain stand
//! in for tokens.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};

/// Different documents up to which a domain is listed: 24 bytes and a tree node each.
const LISTED_DOCUMENTS: usize = 1 << 16;
const BUCKET_BITS: u32 = 16;
/// Documents held out in any case.
const MIN_DOCUMENTS: u64 = 2;

/// Hash by which a document is assigned to a side; equal texts of a domain have equal hashes.
pub(super) fn document_key(seed: u64, domain: &str, text: &str) -> u64 {
    let mut digest = Sha256::new();
    digest.update(seed.to_le_bytes());
    digest.update((domain.len() as u64).to_le_bytes());
    digest.update(domain.as_bytes());
    digest.update(text.as_bytes());
    digest.finalize().iter().take(8).fold(0, |word, &byte| (word << 8) | u64::from(byte))
}

/// Documents and bytes that share a hash or a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    documents: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
    }
}

/// What the first pass learns about a domain.
#[derive(Debug)]
pub(super) struct Census {
    /// By hash, as long as there are few.
    listed: Option<BTreeMap<u64, Tally>>,
    /// By the leading bits of the hash.
    buckets: Vec<Tally>,
    pub(super) documents: u64,
    pub(super) bytes: u64,
    pub(super) empty_documents: u64,
    pub(super) broken_documents: u64,
}

impl Census {
    pub(super) fn new() -> Self {
        Self {
            listed: Some(BTreeMap::new()),
            buckets: vec![Tally::default(); 1 << BUCKET_BITS],
            documents: 0,
            bytes: 0,
            empty_documents: 0,
            broken_documents: 0,
        }
    }

    pub(super) fn count(&mut self, key: u64, bytes: u64) {
        let tally = Tally { documents: 1, bytes };
        self.documents += 1;
        self.bytes += bytes;
        self.buckets[bucket(key)].add(tally);
        if let Some(listed) = &mut self.listed {
            listed.entry(key).or_default().add(tally);
            if listed.len() > LISTED_DOCUMENTS {
                self.listed = None;
            }
        }
    }

    /// Documents with different texts, where there are few enough to be listed.
    pub(super) fn different_documents(&self) -> Option<u64> {
        self.listed.as_ref().map(|listed| listed.len() as u64)
    }

    /// Chooses about `fraction` of the text for validation. `None` when there are not three different documents to
    /// share out.
    pub(super) fn choose(&self, fraction: f64) -> Option<Chosen> {
        let wanted = (self.bytes as f64 * fraction).ceil() as u64;
        match &self.listed {
            Some(listed) => choose_listed(listed, wanted, self.bytes),
            None => Some(choose_buckets(&self.buckets, wanted)),
        }
    }
}

fn bucket(key: u64) -> usize {
    (key >> (u64::BITS - BUCKET_BITS)) as usize
}

/// The documents held out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// Those with these hashes.
    Keys(HashSet<u64>),
    /// Those whose hash falls into a bucket below this.
    Below(usize),
}

impl Chosen {
    pub(super) fn contains(&self, key: u64) -> bool {
        match self {
            Self::Keys(keys) => keys.contains(&key),
            Self::Below(limit) => bucket(key) < *limit,
        }
    }
}

fn choose_listed(listed: &BTreeMap<u64, Tally>, wanted: u64, total: u64) -> Option<Chosen> {
    if listed.len() as u64 <= MIN_DOCUMENTS {
        return None;
    }
    let mean = total / listed.len() as u64;
    let most = 2 * wanted.max(MIN_DOCUMENTS * mean);
    let mut keys = HashSet::new();
    let mut taken = 0;
    let enough = |keys: &HashSet<u64>, taken: u64| keys.len() as u64 >= MIN_DOCUMENTS && taken >= wanted;
    for (&key, tally) in listed {
        if !enough(&keys, taken) && taken + tally.bytes <= most && keys.len() + 1 < listed.len() {
            keys.insert(key);
            taken += tally.bytes;
        }
    }
    // Only long documents are left: the shortest do the least harm.
    let mut rest: Vec<(u64, u64)> = listed.iter().map(|(&key, tally)| (tally.bytes, key)).collect();
    rest.retain(|(_, key)| !keys.contains(key));
    rest.sort_unstable();
    for &(bytes, key) in &rest[..rest.len() - 1] {
        if !enough(&keys, taken) {
            keys.insert(key);
            taken += bytes;
        }
    }
    Some(Chosen::Keys(keys))
}

fn choose_buckets(buckets: &[Tally], wanted: u64) -> Chosen {
    let mut taken = Tally::default();
    let enough = |tally: &&Tally| {
        taken.add(**tally);
        taken.documents < MIN_DOCUMENTS || taken.bytes < wanted
    };
    let full = buckets.iter().take_while(enough).count();
    Chosen::Below((full + 1).min(buckets.len() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    fn census(bytes: &[u64]) -> Census {
        let mut census = Census::new();
        bytes.iter().enumerate().for_each(|(at, &bytes)| census.count(mix(at as u64 + 1), bytes));
        census
    }

    fn held_out(census: &Census, chosen: &Chosen, bytes: &[u64]) -> (u64, u64) {
        let taken = bytes.iter().enumerate().filter(|(at, _)| chosen.contains(mix(*at as u64 + 1)));
        let (documents, sum) = taken.fold((0, 0), |(documents, sum), (_, bytes)| (documents + 1, sum + bytes));
        assert!(documents < census.documents);
        (documents, sum)
    }

    #[test]
    fn takes_its_share_and_at_least_two_documents() {
        for count in [3u64, 5, 20, 1000] {
            for spread in [1, 7, 1000] {
                let bytes: Vec<u64> = (0..count).map(|at| 100 + mix(at) % (100 * spread)).collect();
                let census = census(&bytes);
                let (documents, sum) = held_out(&census, &census.choose(0.1).unwrap(), &bytes);
                assert!(documents >= 2, "{documents} of {count}");
                assert!(sum * 10 >= census.bytes, "{sum} of {}", census.bytes);
            }
        }
    }

    #[test]
    fn a_long_document_stays_in_training() {
        for at in 0..20 {
            let mut bytes = vec![100; 20];
            bytes[at] = 50_000;
            let census = census(&bytes);
            let (_, sum) = held_out(&census, &census.choose(0.02).unwrap(), &bytes);
            assert!(sum < 25_000);
        }
    }

    #[test]
    fn large_domains_are_split_by_buckets() {
        let bytes = vec![10; LISTED_DOCUMENTS + 5000];
        let census = census(&bytes);
        let chosen = census.choose(0.1).unwrap();
        assert!(matches!(chosen, Chosen::Below(_)));
        let (_, sum) = held_out(&census, &chosen, &bytes);
        assert!((0.1..0.105).contains(&(sum as f64 / census.bytes as f64)), "{sum}");
    }

    #[test]
    fn repeated_texts_count_as_one_document() {
        let mut census = Census::new();
        (0..100).for_each(|at| census.count(document_key(0, "d", ["a", "b"][at % 2]), 1));
        assert_eq!(census.choose(0.1), None);
        census.count(document_key(0, "d", "c"), 1);
        assert!(census.choose(0.1).is_some());
    }

    #[test]
    fn the_hash_tells_seed_domain_and_text_apart() {
        let keys = [document_key(0, "a", "bc"), document_key(0, "ab", "c"), document_key(1, "a", "bc")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
    }
}
