//! Ranks in two directions, for a run whose state is sharded over the ranks of a machine and replicated on every machine.
//!
//! ```text
//! ranks 0 1 2 3 | 4 5 6 7        of rank 5:  shard 4 5 6 7 (its machine)  ·  replicate 1 5
//! ```

use super::{Error, World};
use crate::native::c10d::ProcessGroup;
use std::time::Duration;

/// The ranks around one of them.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Those over which the state is sharded; consecutive ones.
    pub shard: World,
    /// Those that have the same shard.
    pub replicate: World,
}

impl Mesh {
    /// Of a process that has all of the state.
    pub fn alone() -> Mesh {
        Mesh { shard: World::alone(), replicate: World::alone() }
    }
}

impl World {
    /// These ranks with the state sharded over `ranks` consecutive ones. All of them or one need no further connections.
    ///
    /// # Errors
    /// A number of ranks that is no multiple of `ranks`; a rank that is gone or late.
    pub fn mesh(&self, ranks: usize, timeout: Duration) -> Result<Mesh, Error> {
        let (rank, size) = (self.rank(), self.size());
        if ranks == 0 || !size.is_multiple_of(ranks) {
            let problem = format!("{size} ranks are not a multiple of {ranks}");
            return Err(Error::Environment { launcher: "dist.strategy", problem });
        }
        if ranks == size {
            return Ok(Mesh { shard: self.clone(), replicate: World::alone() });
        }
        let (machine, place) = (rank / ranks, rank % ranks);
        let shard = self.subgroup(place, ranks, |store, device| {
            ProcessGroup::connect(&store.under(&format!("shard/{machine}"))?, place, ranks, device, timeout)
        })?;
        let replicate = self.subgroup(machine, size / ranks, |store, device| {
            ProcessGroup::connect(&store.under(&format!("replicate/{place}"))?, machine, size / ranks, device, timeout)
        })?;
        Ok(Mesh { shard, replicate })
    }
}
