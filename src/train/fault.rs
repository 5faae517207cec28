//! What failed between the ranks in the middle of a forward or a backward: libtorch passes an error on as text, and what is
//! to be told names the rank.

use super::Error;
use crate::dist::Error as RankError;
use std::sync::{Arc, Mutex, PoisonError};
use tch::TchError;

/// The first such failure of a run; a copy is the same place.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<RankError>>>);

impl Fault {
    /// Keeps a failure, and gives libtorch its words.
    pub(super) fn keep<T>(&self, result: Result<T, RankError>) -> Result<T, TchError> {
        result.map_err(|error| {
            let words = TchError::Torch(error.to_string());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            words
        })
    }

    /// The failure that is behind `error`, or that itself.
    pub(super) fn cause(&self, error: Error) -> Error {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.map_or(error, Error::Ranks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_cause() {
        let fault = Fault::default();
        let other = || Error::Mismatch("libtorch: something".to_string());
        assert!(matches!(fault.cause(other()), Error::Mismatch(_)));
        for reason in ["killed", "later"] {
            let words = fault.keep::<()>(Err(RankError::Garbled(reason.to_string()))).unwrap_err();
            assert!(words.to_string().contains(reason));
        }
        let found = fault.cause(other()).to_string();
        assert!(found.contains("killed"), "{found}");
    }
}
