//! What happens around the passes of a layer whose weights are divided: it is fetched and let go, its neighbours are fetched ahead,
//! its gradients given.

use super::unit::{Unit, Units, lock};
use crate::dist::Error as RankError;
use crate::model::AroundLayer;
use crate::train::fault::Fault;
use tch::TchError;

/// A layer and its neighbours.
#[derive(Debug)]
pub(super) struct Passing {
    units: Units,
    at: usize,
    fault: Fault,
}

impl Passing {
    /// Of the layer that is `units[at]`; what is outside of the layers comes before the first.
    pub(super) fn of(units: Units, at: usize, fault: Fault) -> Passing {
        Passing { units, at, fault }
    }

    fn here(&self, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        self.act(Some(self.at), act)
    }

    /// Of the next layer, if there is one.
    fn next(&self, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        self.act(Some(self.at + 1).filter(|at| *at < self.units.len()), act)
    }

    /// Of the layer before, if there is one.
    fn before(&self, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        self.act(Some(self.at - 1).filter(|at| *at > 0), act)
    }

    fn act(&self, at: Option<usize>, act: impl FnOnce(&mut Unit) -> Result<(), RankError>) -> Result<(), TchError> {
        at.map_or(Ok(()), |at| self.fault.keep(act(&mut lock(&self.units[at]))))
    }
}

impl AroundLayer for Passing {
    fn before_forward(&self) -> Result<(), TchError> {
        self.here(Unit::fetch)?;
        self.next(Unit::start_fetch)
    }

    fn after_forward(&self) -> Result<(), TchError> {
        self.here(Unit::let_go)
    }

    fn before_backward(&self) -> Result<(), TchError> {
        self.here(Unit::fetch)?;
        self.here(Unit::open_gradients)?;
        self.before(Unit::start_fetch)
    }

    fn after_backward(&self) -> Result<(), TchError> {
        self.here(Unit::let_go)?;
        self.next(Unit::finish_giving)?;
        self.here(Unit::start_giving)?;
        // Nothing comes after the first layer that would.
        if self.at > 1 { Ok(()) } else { self.here(Unit::finish_giving) }
    }
}
