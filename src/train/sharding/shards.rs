//! The divided weights of a run: loaded, stepped with, summed.

use super::layout::{Layout, Piece};
use super::passing::Passing;
use super::unit::{Unit, Units, lock};
use crate::dist::{Error as RankError, Reduction, Split, World};
use crate::model::parameters::{Parameter, layer_parameters, parameters};
use crate::model::{AroundLayer, ModelConfig};
use crate::native::ops::gradient_norm::squared_norm_reference;
use crate::train::Error;
use crate::train::fault::Fault;
use crate::train::optimizer::OwnPart;
use crate::train::weight_stream::Weight;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use tch::{Device, Kind, TchError, Tensor};

/// The divided weights of a run.
#[derive(Debug)]
pub(in crate::train) struct Shards {
    /// Embedding, final norm, head; then the layers.
    pub(super) units: Units,
    pub(super) split: Split,
    /// Which of the optimiser's tensors are parts of a unit, and where in the chunk they lie.
    pub(super) parts: Vec<(Range<usize>, Vec<Piece>)>,
    /// Σ w² of the whole weights as this rank has loaded them, before it took those of rank 0.
    pub(in crate::train) loaded_squares: f64,
    fault: Fault,
}

/// What a run needs to know to divide its weights.
pub(in crate::train) struct Dividing<'a> {
    pub(in crate::train) model: &'a ModelConfig,
    pub(in crate::train) world: &'a World,
    pub(in crate::train) split: &'a Split,
    /// Of the computation.
    pub(in crate::train) kind: Kind,
    pub(in crate::train) trains: bool,
    pub(in crate::train) device: Device,
    pub(in crate::train) fault: Fault,
}

impl Shards {
    /// Takes this rank's parts of `weights`, one after the other, as rank 0 has them; and the tensors for the optimiser.
    pub(in crate::train) fn load<'a>(
        dividing: &Dividing,
        weights: impl Iterator<Item = Result<Weight, Error>> + 'a,
    ) -> Result<(Shards, Vec<OwnPart>), Error> {
        let _no_grad = tch::no_grad_guard();
        let block = &dividing.split.block;
        let unit = |layout| Unit::new(layout, block.clone(), dividing.kind, dividing.trains, dividing.device);
        let units = layouts(dividing.model, block.size()).into_iter().map(unit);
        let mut units = units.collect::<Result<Vec<Unit>, TchError>>()?;
        let pieces: Vec<Vec<Piece>> = units.iter().map(|unit| unit.layout.pieces(block.rank())).collect();
        let loaded_squares = fill(&units, &pieces, weights, dividing.world)?;
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
    pub(in crate::train) fn leaves(&self) -> Result<Vec<(String, Tensor)>, TchError> {
        let leaves = self.units.iter().map(|unit| lock(unit).leaves()).collect::<Result<Vec<_>, _>>()?;
        Ok(leaves.into_iter().flatten().collect())
    }

    /// What is told of the passes of each layer.
    pub(in crate::train) fn around(&self) -> impl Iterator<Item = Arc<dyn AroundLayer>> {
        (1..self.units.len())
            .map(|at| Arc::new(Passing::of(Arc::clone(&self.units), at, self.fault.clone())) as Arc<dyn AroundLayer>)
    }

    /// Before the first micro-batch of a step.
    pub(in crate::train) fn begin_step(&self) -> Result<(), RankError> {
        self.outside().open_gradients()
    }

    /// After the last one: each rank has the sums of its part.
    pub(in crate::train) fn finish_step(&self) -> Result<(), RankError> {
        self.outside().start_giving()?;
        self.outside().finish_giving()?;
        let sum = |unit: &Mutex<Unit>| match lock(unit).gradient() {
            Some(gradient) => self.split.replicas.all_reduce(gradient, Reduction::Sum),
            None => Ok(()),
        };
        self.units.iter().try_for_each(sum)
    }

    /// After the update: what stays whole follows the parts.
    pub(in crate::train) fn follow(&self) -> Result<(), RankError> {
        self.outside().let_go()?;
        self.outside().fetch()
    }

    /// What is outside of the layers.
    pub(super) fn outside(&self) -> MutexGuard<'_, Unit> {
        lock(&self.units[0])
    }

    /// A sum over the parts of all ranks, from this rank's.
    pub(in crate::train) fn sum(&self, own: &Tensor) -> Result<(), RankError> {
        self.split.block.all_reduce(own, Reduction::Sum)
    }

    /// Whether this rank is among those whose parts make up a checkpoint.
    pub(super) fn saves(&self) -> bool {
        self.split.replicas.is_first()
    }
}

/// Gives each unit its `pieces` of `weights`, which all take from rank 0; Σ w² of what this rank had.
fn fill<'a>(
    units: &[Unit],
    pieces: &[Vec<Piece>],
    weights: impl Iterator<Item = Result<Weight, Error>> + 'a,
    world: &World,
) -> Result<f64, Error> {
    let mut places: HashMap<&str, (usize, usize)> = HashMap::new();
    for (at, unit) in units.iter().enumerate() {
        places.extend(
            unit.layout.tensors.iter().enumerate().map(|(tensor, placed)| (placed.name.as_str(), (at, tensor))),
        );
    }
    let mut squares = 0.0;
    for weight in weights {
        let (name, weight) = weight?;
        let weight = weight.f_detach()?.f_contiguous()?;
        squares += squared_norm_reference(&[weight.shallow_clone()])?.f_double_value(&[])?;
        world.broadcast(&weight)?;
        let Some((at, tensor)) = places.remove(name.as_str()) else { continue };
        let mut own = pieces[at].iter().filter(|piece| piece.tensor == tensor);
        own.try_for_each(|piece| units[at].fill(*piece, &weight))?;
    }
    match places.into_keys().next() {
        Some(name) => Err(Error::Mismatch(format!("the model asks for a weight {name} that was not loaded"))),
        None => Ok(squares),
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
