//! When a layer with sharded weights is unsharded, resharded and reduced: around its passes, its neighbours meanwhile.

use super::unit::{Unit, Units, lock};
use crate::dist::Error as RankError;
use crate::model::AroundLayer;
use crate::train::fault::Fault;
use tch::TchError;

/// A layer and its neighbours.
#[derive(Debug)]
pub(super) struct ShardedLayer {
    pub(super) units: Units,
    /// Its place there; what is outside of the layers comes before the first.
    pub(super) at: usize,
    pub(super) fault: Fault,
}

impl ShardedLayer {
    fn here(&self, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        self.layer(self.at, act)
    }

    /// Of the next layer, if there is one.
    fn next(&self, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        self.layer(self.at + 1, act)
    }

    /// Of the previous layer, if there is one.
    fn previous(&self, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        self.layer(self.at - 1, act)
    }

    fn layer(&self, at: usize, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        match self.units.get(at).filter(|_| at > 0) {
            Some(unit) => self.fault.keep(act(&mut lock(unit))),
            None => Ok(()),
        }
    }
}

impl AroundLayer for ShardedLayer {
    fn before_forward(&self) -> Result<(), TchError> {
        self.here(Unit::unshard)?;
        self.next(Unit::start_unshard)
    }

    fn after_forward(&self) -> Result<(), TchError> {
        self.here(Unit::reshard)
    }

    fn before_backward(&self) -> Result<(), TchError> {
        self.here(Unit::unshard)?;
        self.here(Unit::allocate_gradients)?;
        self.previous(Unit::start_unshard)
    }

    fn after_backward(&self) -> Result<(), TchError> {
        self.here(Unit::reshard)?;
        self.next(Unit::finish_reduce)?;
        self.here(Unit::start_reduce)?;
        // Nothing comes after the first layer that would finish it.
        if self.at > 1 { Ok(()) } else { self.here(Unit::finish_reduce) }
    }
}
