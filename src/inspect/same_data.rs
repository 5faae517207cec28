//! Whether two runs used the same data.

use super::held_out::data_of_fingerprint;
use super::history::RunHistory;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Equal for runs of the same data. A run that does not say what its data was is only like itself.
pub(super) fn data_of(history: &RunHistory) -> u64 {
    if let Some(fingerprint) = &history.data_fingerprint {
        return data_of_fingerprint(fingerprint);
    }
    let mut hasher = DefaultHasher::new();
    ("a run of unknown data", &history.path).hash(&mut hasher);
    hasher.finish()
}

/// Whether two runs evaluated on the same data.
pub fn is_of_same_data(a: &RunHistory, b: &RunHistory) -> bool {
    data_of(a) == data_of(b)
}
