//! Sharded state as whole tensors, for a checkpoint in the layout of one process. All ranks whose shards it takes go through the
//! same sequence of all-gathers; rank 0 writes what it is asked for by name, the others only take part. So that a failure to
//! write does not leave the others waiting, whoever gathers goes through the rest of the sequence too.

use super::layout::{Layout, Placed};
use super::shards::Shards;
use super::unit::lock;
use crate::dist::Error as RankError;
use crate::train::Error;
use crate::train::optimizer::{Group, Moment};
use std::collections::{BTreeMap, VecDeque};
use tch::{TchError, Tensor};

/// What of a unit is gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Masters, or frozen weights.
    Weights,
    Moment(Moment),
}

/// Goes through the units of a checkpoint.
pub(in crate::train) struct Gatherer<'a> {
    shards: &'a Shards,
    group: &'a Group,
    /// Still to come: what, of which unit.
    rest: VecDeque<(What, usize)>,
    /// Whole tensors of the unit outside of the layers, and of the layer that came last.
    held: Vec<(What, usize, BTreeMap<String, Tensor>)>,
}

impl<'a> Gatherer<'a> {
    /// Of all weights, then of both moments of each.
    pub(in crate::train) fn new(shards: &'a Shards, group: &'a Group) -> Gatherer<'a> {
        let units = 0..shards.units.len();
        let weights = units.clone().map(|unit| (What::Weights, unit));
        let moments = Moment::BOTH.map(What::Moment);
        let moments = units.flat_map(|unit| moments.map(|moment| (moment, unit)));
        let trained = shards.outside().gradient().is_some();
        let rest = if shards.saves() { weights.chain(moments.filter(|_| trained)).collect() } else { VecDeque::new() };
        Gatherer { shards, group, rest, held: Vec::new() }
    }

    /// A weight as it is kept. Weights come in the order of the model, before moments.
    pub(in crate::train) fn weight(&mut self, name: &str) -> Result<Tensor, Error> {
        self.take(What::Weights, name)
    }

    /// A moment of a weight.
    pub(in crate::train) fn moment(&mut self, moment: Moment, name: &str) -> Result<Tensor, Error> {
        self.take(What::Moment(moment), name)
    }

    /// Takes part in what the others still wait for.
    pub(in crate::train) fn finish(mut self) -> Result<(), RankError> {
        while self.next()? {}
        Ok(())
    }

    fn take(&mut self, what: What, name: &str) -> Result<Tensor, Error> {
        loop {
            let found = self.held.iter().find_map(|(held, _, tensors)| tensors.get(name).filter(|_| *held == what));
            if let Some(tensor) = found {
                return Ok(tensor.shallow_clone());
            }
            if !self.next()? {
                return Err(Error::Mismatch(format!("{name} is not among the sharded weights")));
            }
        }
    }

    /// Gathers the next unit; false at the end.
    fn next(&mut self) -> Result<bool, RankError> {
        let Some((what, at)) = self.rest.pop_front() else { return Ok(false) };
        // What is outside of the layers comes first in a file and last, and is held between.
        let of_file = |held: What| (held == What::Weights) == (what == What::Weights);
        self.held.retain(|(held, unit, _)| *unit == at || (*unit == 0 && of_file(*held)));
        let own = self.own(what, at).map_err(failed)?;
        let all = self.shards.mesh.shard.all_gather(&own)?;
        let tensors = whole(&lock(&self.shards.units[at]).layout, &all).map_err(failed)?;
        self.held.push((what, at, tensors));
        Ok(true)
    }

    /// This rank's chunk `[chunk]`.
    fn own(&self, what: What, at: usize) -> Result<Tensor, TchError> {
        let unit = lock(&self.shards.units[at]);
        let What::Moment(moment) = what else { return unit.kept() };
        let chunk = Tensor::f_zeros([unit.layout.chunk], (self.group.moment_dtype(moment), unit.device()))?;
        // The optimiser has the pieces of all units, one after the other.
        let before: usize = self.shards.units[..at].iter().map(|unit| lock(unit).pieces.len()).sum();
        for (slot, piece) in self.group.slots()[before..].iter().zip(&unit.pieces) {
            chunk.f_narrow(0, piece.in_chunk, piece.length)?.f_copy_(slot.moment(moment))?;
        }
        Ok(chunk)
    }
}

/// The tensors of a buffer `[ranks, chunk]`.
fn whole(layout: &Layout, all: &Tensor) -> Result<BTreeMap<String, Tensor>, TchError> {
    let all = all.f_view([-1])?;
    let tensor = |placed: &Placed| {
        let part = all.f_narrow(0, placed.start, placed.elements())?;
        Ok((placed.name.clone(), part.f_view(&placed.shape[..])?))
    };
    layout.tensors.iter().map(tensor).collect()
}

fn failed(problem: TchError) -> RankError {
    RankError::Tensor { what: "gathering a checkpoint", problem: problem.to_string() }
}
