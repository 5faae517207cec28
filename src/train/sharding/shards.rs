//! The sharded weights of a run: loaded, stepped with, summed.

use super::layer::ShardedLayer;
use super::layout::Layout;
use super::unit::{Unit, Units, lock};
use crate::dist::{Error as RankError, Mesh, Reduction, World};
use crate::model::parameters::{Parameter, layer_parameters, parameters};
use crate::model::{AroundLayer, ModelConfig};
use crate::native::ops::gradient_norm::squared_norm_reference;
use crate::train::Error;
use crate::train::fault::Fault;
use crate::train::optimizer::OwnPart;
use crate::train::weight_stream::Weight;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tch::{Device, Kind, TchError, Tensor};

/// The sharded weights of a run.
#[derive(Debug)]
pub(in crate::train) struct Shards {
    /// Embedding, final norm, head; then the layers.
    pub(super) units: Units,
    pub(super) mesh: Mesh,
    /// Σ w² of the whole weights as this rank has loaded them, before it took those of rank 0.
    pub(in crate::train) loaded_squares: f64,
    fault: Fault,
}

/// Which weights are sharded, and among whom.
pub(in crate::train) struct Sharding<'a> {
    pub(in crate::train) model: &'a ModelConfig,
    pub(in crate::train) world: &'a World,
    pub(in crate::train) mesh: &'a Mesh,
    /// Of the computation.
    pub(in crate::train) kind: Kind,
    pub(in crate::train) trains: bool,
    pub(in crate::train) device: Device,
    pub(in crate::train) fault: Fault,
}

impl Shards {
    /// Takes this rank's shard of `weights`, one after the other, as rank 0 has them; and what of it the optimiser updates.
    pub(in crate::train) fn load<'a>(
        sharding: &Sharding,
        weights: impl Iterator<Item = Result<Weight, Error>> + 'a,
    ) -> Result<(Shards, Vec<OwnPart>), Error> {
        let _no_grad = tch::no_grad_guard();
        let ranks = &sharding.mesh.shard;
        let unit = |layout| Unit::new(layout, ranks.clone(), sharding.kind, sharding.trains, sharding.device);
        let units = layouts(sharding.model, ranks.size()).into_iter().map(unit);
        let mut units = units.collect::<Result<Vec<Unit>, TchError>>()?;
        let loaded_squares = fill(&units, weights, sharding.world)?;
        units[0].unshard()?;
        let own = units.iter().map(Unit::own_parts).collect::<Result<Vec<_>, _>>()?;
        let (mesh, fault) = (sharding.mesh.clone(), sharding.fault.clone());
        let units = Arc::new(units.into_iter().map(Mutex::new).collect());
        Ok((Shards { units, mesh, loaded_squares, fault }, own.into_iter().flatten().collect()))
    }

    /// The weights as forward uses them, by name.
    pub(in crate::train) fn leaves(&self) -> Result<Vec<(String, Tensor)>, TchError> {
        let leaves = self.units.iter().map(|unit| lock(unit).leaves()).collect::<Result<Vec<_>, _>>()?;
        Ok(leaves.into_iter().flatten().collect())
    }

    /// What is told of the passes of each layer.
    pub(in crate::train) fn around(&self) -> impl Iterator<Item = Arc<dyn AroundLayer>> {
        (1..self.units.len()).map(|at| {
            let layer = ShardedLayer { units: Arc::clone(&self.units), at, fault: self.fault.clone() };
            Arc::new(layer) as Arc<dyn AroundLayer>
        })
    }

    /// Before the first micro-batch of a step.
    pub(in crate::train) fn begin_step(&self) -> Result<(), RankError> {
        self.outside().allocate_gradients()
    }

    /// After the last one: each rank has the sums of its shard.
    pub(in crate::train) fn finish_step(&self) -> Result<(), RankError> {
        self.outside().start_reduce()?;
        self.outside().finish_reduce()?;
        let sum = |unit: &Mutex<Unit>| match lock(unit).gradient() {
            Some(gradient) => self.mesh.replicate.all_reduce(gradient, Reduction::Sum),
            None => Ok(()),
        };
        self.units.iter().try_for_each(sum)
    }

    /// After the update: what stays unsharded is gathered again, unless it is frozen.
    pub(in crate::train) fn follow_update(&self) -> Result<(), RankError> {
        let mut outside = self.outside();
        if outside.gradient().is_none() {
            return Ok(());
        }
        outside.reshard()?;
        outside.unshard()
    }

    /// What is outside of the layers.
    pub(super) fn outside(&self) -> MutexGuard<'_, Unit> {
        lock(&self.units[0])
    }

    /// Sums a number of each shard over all shards.
    pub(in crate::train) fn sum(&self, own: &Tensor) -> Result<(), RankError> {
        self.mesh.shard.all_reduce(own, Reduction::Sum)
    }

    /// Whether this rank's shard goes into a checkpoint: one replica is enough.
    pub(super) fn saves(&self) -> bool {
        self.mesh.replicate.is_first()
    }
}

/// Gives each unit its weights, which all ranks take from rank 0; Σ w² of what this rank had.
fn fill<'a>(
    units: &[Unit],
    weights: impl Iterator<Item = Result<Weight, Error>> + 'a,
    world: &World,
) -> Result<f64, Error> {
    let mut places: HashMap<&str, (&Unit, usize)> = HashMap::new();
    for unit in units {
        let tensors = unit.layout.tensors.iter().enumerate();
        places.extend(tensors.map(|(tensor, placed)| (placed.name.as_str(), (unit, tensor))));
    }
    let mut squares = 0.0;
    for weight in weights {
        let (name, weight) = weight?;
        let weight = weight.f_detach()?.f_contiguous()?;
        squares += squared_norm_reference(&[weight.shallow_clone()])?.f_double_value(&[])?;
        world.broadcast(&weight)?;
        if let Some((unit, tensor)) = places.remove(name.as_str()) {
            unit.fill(tensor, &weight)?;
        }
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
