//! Ranks in two directions, for a run whose state is divided among the ranks of a machine and repeated on every machine.
//!
//! ```text
//! ranks 0 1 2 3 | 4 5 6 7        block of rank 5: 4 5 6 7 (its machine)        its replicas: 1 5
//! ```

use super::{Error, World};
use crate::native::c10d::ProcessGroup;
use std::time::Duration;

/// The ranks around one of them.
#[derive(Clone, Debug)]
pub struct Split {
    /// Those that divide the state among them; this rank's block of consecutive ones.
    pub block: World,
    /// Those of all blocks that have the same part of the state.
    pub replicas: World,
}

impl World {
    /// Divides the ranks into blocks of `block` consecutive ones. A block of all or of one needs no further connections.
    ///
    /// # Errors
    /// A number of ranks that is no multiple of `block`; a rank that is gone or late.
    pub fn split(&self, block: usize, timeout: Duration) -> Result<Split, Error> {
        let (rank, size) = (self.rank(), self.size());
        if block == 0 || !size.is_multiple_of(block) {
            let problem = format!("{size} ranks cannot be divided into blocks of {block}");
            return Err(Error::Environment { launcher: "dist.strategy", problem });
        }
        if block == size {
            return Ok(Split { block: self.clone(), replicas: World::alone() });
        }
        let (at, inside) = (rank / block, rank % block);
        let blocks = self.some(inside, block, |store, device| {
            ProcessGroup::connect(&store.under(&format!("block/{at}"))?, inside, block, device, timeout)
        })?;
        let replicas = self.some(at, size / block, |store, device| {
            ProcessGroup::connect(&store.under(&format!("replicas/{inside}"))?, at, size / block, device, timeout)
        })?;
        Ok(Split { block: blocks, replicas })
    }
}
