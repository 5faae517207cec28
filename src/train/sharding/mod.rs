//! Weights, gradients and moments divided among ranks (`dist.strategy = "fsdp"`, or `"hybrid"`: within each machine).
//!
//! ```text
//! layout   where weights lie in a flat buffer, and which part is a rank's
//! unit     the weights of a layer: fetched, let go, their gradients given
//! gather   whole tensors again, for a checkpoint
//!
//! forward    fetch layer ─► run ─► let go           the next layer is fetched meanwhile
//! backward   fetch layer ─► run ─► let go, give     the one before is fetched, the one after given meanwhile
//! step       give what is outside of the layers ─► update own parts ─► fetch that again
//! ```
//!
//! The layers' weights are whole only while they run; embedding, final norm and head are used at both ends of a pass and stay
//! (ZeRO stage 3 for the layers, Rajbhandari et al. 2020; FSDP, Zhao et al. 2023). Gradients are summed by micro-batch for the
//! layers, once a step for the rest.

mod gather;
mod layout;
mod unit;

use super::Error;
use super::fault::Fault;
use super::optimizer::OwnPart;
use super::start::Weight;
use crate::dist::{Error as RankError, Reduction, Split, World};
use crate::model::parameters::{Parameter, layer_parameters, parameters};
use crate::model::{AroundLayer, ModelConfig};
use crate::native::ops::gradient_norm::squared_norm_reference;
pub(super) use gather::Gatherer;
use layout::{Layout, Piece};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, TchError, Tensor};
use unit::Unit;

/// The divided weights of a run.
#[derive(Debug)]
pub(super) struct Shards {
    /// Embedding, final norm, head; then the layers.
    units: Units,
    split: Split,
    /// Which of the optimiser's tensors are parts of a unit, and where in the chunk they lie.
    parts: Vec<(Range<usize>, Vec<Piece>)>,
    /// Σ w² of the whole weights as this rank has loaded them, before it took those of rank 0.
    pub(super) loaded_squares: f64,
    fault: Fault,
}

/// Tensors are used by one thread at a time: on a GPU the backward has one of its own.
type Units = Arc<Vec<Mutex<Unit>>>;

fn lock(unit: &Mutex<Unit>) -> MutexGuard<'_, Unit> {
    unit.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run needs to know to divide its weights.
pub(super) struct Dividing<'a> {
    pub(super) model: &'a ModelConfig,
    pub(super) world: &'a World,
    pub(super) split: &'a Split,
    /// Of the computation.
    pub(super) kind: Kind,
    pub(super) trains: bool,
    pub(super) device: Device,
    pub(super) fault: Fault,
}

impl Shards {
    /// Takes this rank's parts of `weights`, one after the other, as rank 0 has them; and the tensors for the optimiser.
    pub(super) fn load<'a>(
        dividing: &Dividing,
        weights: impl Iterator<Item = Result<Weight, Error>> + 'a,
    ) -> Result<(Shards, Vec<OwnPart>), Error> {
        let _no_grad = tch::no_grad_guard();
        let (block, rank) = (&dividing.split.block, dividing.split.block.rank());
        let layouts = layouts(dividing.model, block.size());
        let place = |(unit, layout): (usize, &Layout)| {
            let names = layout.tensors.iter().map(move |placed| (placed.name.clone(), unit));
            names.collect::<Vec<_>>()
        };
        let unit_of: HashMap<String, usize> = layouts.iter().enumerate().flat_map(place).collect();
        let unit = |layout| Unit::new(layout, block.clone(), dividing.kind, dividing.trains, dividing.device);
        let mut units = layouts.into_iter().map(unit).collect::<Result<Vec<Unit>, TchError>>()?;
        let pieces: Vec<Vec<Piece>> = units.iter().map(|unit| unit.layout.pieces(rank)).collect();
        let mut loaded_squares = 0.0;
        for weight in weights {
            let (name, weight) = weight?;
            let weight = weight.f_detach()?.f_contiguous()?;
            loaded_squares += squared_norm_reference(&[weight.shallow_clone()])?.f_double_value(&[])?;
            dividing.world.broadcast(&weight)?;
            let Some(at) = unit_of.get(&name) else { continue };
            let is_it = |piece: &&Piece| units[*at].layout.tensors[piece.tensor].name == name;
            pieces[*at].iter().filter(is_it).try_for_each(|piece| units[*at].fill(*piece, &weight))?;
        }
        units[0].fetch()?;
        let (mut parts, mut own) = (Vec::new(), Vec::new());
        for (unit, pieces) in units.iter().zip(pieces) {
            let begin = own.len();
            if dividing.trains {
                own.extend(pieces.iter().map(|piece| own_part(unit, *piece)).collect::<Result<Vec<_>, TchError>>()?);
            }
            parts.push((begin..own.len(), pieces));
        }
        let (split, fault) = (dividing.split.clone(), dividing.fault.clone());
        let units = Arc::new(units.into_iter().map(Mutex::new).collect());
        Ok((Shards { units, split, parts, loaded_squares, fault }, own))
    }

    /// The weights as forward uses them, by name.
    pub(super) fn leaves(&self) -> Result<Vec<(String, Tensor)>, TchError> {
        let leaves = self.units.iter().map(|unit| lock(unit).leaves()).collect::<Result<Vec<_>, _>>()?;
        Ok(leaves.into_iter().flatten().collect())
    }

    /// What is told of the passes of each layer.
    pub(super) fn around(&self) -> impl Iterator<Item = Arc<dyn AroundLayer>> {
        (1..self.units.len()).map(|at| {
            let passing = Passing { units: Arc::clone(&self.units), at, fault: self.fault.clone() };
            Arc::new(passing) as Arc<dyn AroundLayer>
        })
    }

    /// Before the first micro-batch of a step.
    pub(super) fn begin_step(&self) -> Result<(), RankError> {
        self.outside().open_gradients()
    }

    /// After the last one: each rank has the sums of its part.
    pub(super) fn finish_step(&self) -> Result<(), RankError> {
        self.outside().start_giving()?;
        self.outside().finish_giving()?;
        let sum = |unit: &Mutex<Unit>| match lock(unit).gradient() {
            Some(gradient) => self.split.replicas.all_reduce(gradient, Reduction::Sum),
            None => Ok(()),
        };
        self.units.iter().try_for_each(sum)
    }

    /// After the update: what stays whole follows the parts.
    pub(super) fn follow(&self) -> Result<(), RankError> {
        self.outside().let_go()?;
        self.outside().fetch()
    }

    /// What is outside of the layers.
    fn outside(&self) -> MutexGuard<'_, Unit> {
        lock(&self.units[0])
    }

    /// A sum over the parts of all ranks, from this rank's.
    pub(super) fn sum(&self, own: &Tensor) -> Result<(), RankError> {
        self.split.block.all_reduce(own, Reduction::Sum)
    }

    /// Whether this rank is among those whose parts make up a checkpoint.
    fn saves(&self) -> bool {
        self.split.replicas.is_first()
    }
}

/// The weights outside of the layers, then each layer.
fn layouts(model: &ModelConfig, ranks: usize) -> Vec<Layout> {
    let layout = |parameters: Vec<Parameter>| Layout::new(parameters.into_iter().map(|p| (p.name, p.shape)), ranks);
    let outside = parameters(model).into_iter().filter(|p| p.layer.is_none()).collect();
    let layers = (0..model.num_hidden_layers).map(|layer| layer_parameters(model, layer));
    std::iter::once(outside).chain(layers).map(layout).collect()
}

fn own_part(unit: &Unit, piece: Piece) -> Result<OwnPart, TchError> {
    let (placed, part) = (&unit.layout.tensors[piece.tensor], unit.part(piece)?);
    Ok(OwnPart {
        name: placed.name.clone(),
        whole: placed.shape.clone(),
        start: piece.in_tensor,
        master: part.master,
        working: part.working,
        gradient: part.gradient,
    })
}

/// A layer and its neighbours.
#[derive(Debug)]
struct Passing {
    units: Units,
    at: usize,
    fault: Fault,
}

impl Passing {
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
