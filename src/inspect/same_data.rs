//! Whether two runs used the same data.

use super::history::RunHistory;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Equal for runs of the same data. A run that does not say what its data was is only like itself.
pub(super) fn data_of(history: &RunHistory) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &history.data_fingerprint {
        Some(fingerprint) => fingerprint.hash(&mut hasher),
        None => ("a run of unknown data", &history.path).hash(&mut hasher),
    }
    hasher.finish()
}

/// Whether two runs evaluated on the same data.
pub fn is_of_same_data(a: &RunHistory, b: &RunHistory) -> bool {
    data_of(a) == data_of(b)
}
