//! The weights of a run: trained, with all that an optimiser keeps of them, or frozen (`masks.frozen_weights`), where there
//! is nothing but the weights themselves, in the dtype of the computation. Masks are then all that is trained.
//!
//! ```text
//! trained:         master 4 + gradient 4 + moments 8 (4 in bf16, 2 in 8 bits)     16 bytes a parameter
//! frozen, bf16:    2
//! ```
//!
//! In bf16 the upper half of a master is the number that forward uses. Weights may be sharded over ranks (`sharding`). A
//! frozen weight has no gradient; what the gates need of the product that would be one is formed weight by weight, in the
//! backward of its map.

use super::Error;
use super::fault::Fault;
use super::optimizer::{Direction, Group};
use super::setup::Setup;
use super::sharding::{Gatherer, Sharding, Shards};
use super::weight_stream::{WeightStream, decoder_over};
use crate::config::RunConfig;
use crate::files::DType;
use crate::model::Decoder;
use crate::model::ModelConfig;
use tch::{Kind, TchError, Tensor};

/// The weights of a run.
#[derive(Debug)]
pub(super) struct Weights {
    /// Those that are trained, or this rank's shard of them; empty where they are frozen.
    pub(super) group: Group,
    /// Frozen ones by Hugging Face name; empty where they are trained, or sharded.
    frozen: Vec<(String, Tensor)>,
    /// Where they are sharded.
    pub(super) shards: Option<Shards>,
}

/// In which dtype a run of `config` takes its weights from their file.
pub(super) fn stored_kind(config: &RunConfig, compute: Kind) -> Kind {
    if config.freezes_weights() { compute } else { Kind::Float }
}

/// In which dtype a checkpoint of a run of `config` has its weights.
pub(super) fn stored_dtype(config: &RunConfig, compute: Kind) -> DType {
    DType::from_kind(stored_kind(config, compute)).unwrap_or(DType::F32)
}

impl Weights {
    /// Of `tensors`, in the dtype of [`stored_kind`].
    pub(super) fn new(setup: &Setup, tensors: WeightStream, fault: &Fault) -> Result<Weights, Error> {
        let (config, compute) = (&setup.config, setup.compute_kind());
        let (train, freezes) = (&config.train, config.freezes_weights());
        if let Some(mesh) = &setup.mesh {
            let sharding = Sharding {
                model: &setup.model,
                world: &setup.world,
                mesh,
                kind: compute,
                trains: !freezes,
                device: setup.device,
                fault: fault.clone(),
            };
            let (shards, own) = Shards::load(&sharding, tensors)?;
            let group = Group::of_parts(train, own)?.seeded(config.run.seed);
            return Ok(Weights { group, frozen: Vec::new(), shards: Some(shards) });
        }
        let all = tensors.collect::<Result<Vec<_>, Error>>()?;
        let (trained, frozen) = if freezes { (Vec::new(), all) } else { (all, Vec::new()) };
        let group = Group::new("weights", train.learning_rate, Direction::Descent, train, trained, compute)?;
        let group = group.seeded(config.run.seed);
        let frozen = frozen.into_iter().map(|(name, tensor)| Ok((name, tensor.f_to_kind(compute)?)));
        Ok(Weights { group, frozen: frozen.collect::<Result<_, TchError>>()?, shards: None })
    }

    /// Sharded state as whole tensors.
    pub(super) fn gatherer(&self) -> Option<Gatherer<'_>> {
        self.shards.as_ref().map(|shards| Gatherer::new(shards, &self.group))
    }

    /// The weights as they are kept, with their names, one after the other: fp32 masters, or frozen ones; not those that are
    /// sharded.
    pub(super) fn kept(&self) -> impl Iterator<Item = Result<(&String, Tensor), TchError>> {
        let masters = self.group.slots().iter().map(|slot| Ok((&slot.name, slot.master()?)));
        masters.chain(self.frozen.iter().map(|(name, tensor)| Ok((name, tensor.f_detach()?))))
    }

    /// Those that are not trained.
    pub(super) fn frozen(&self) -> impl Iterator<Item = &Tensor> {
        self.frozen.iter().map(|(_, tensor)| tensor)
    }

    /// The network over the tensors that forward uses.
    pub(super) fn decoder(&self, model: &ModelConfig) -> Result<Decoder, Error> {
        if let Some(shards) = &self.shards {
            let leaves = shards.leaves()?;
            let named = leaves.iter().map(|(name, leaf)| (name.as_str(), leaf.shallow_clone()));
            let mut decoder = decoder_over(model, named)?;
            decoder.surround(shards.around());
            return Ok(decoder);
        }
        let leaves = self.group.slots().iter().map(|slot| (slot.name.as_str(), slot.leaf()));
        let frozen = self.frozen.iter().map(|(name, tensor)| (name.as_str(), tensor.shallow_clone()));
        decoder_over(model, leaves.chain(frozen))
    }
}
