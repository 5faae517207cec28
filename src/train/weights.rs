//! The weights of a run: trained, with all that an optimiser keeps of them, or frozen (`masks.frozen_weights`), where there
//! is nothing but the weights themselves, in the dtype of the computation. Masks are then all that is trained.
//!
//! ```text
//! trained, bf16:   master 4 + working copy 2 + gradient 4 + moments 8 (4 in bf16)     18 bytes a parameter
//! frozen, bf16:    2
//! ```
//!
//! A frozen weight has no gradient; what the gates need of the product that would be one is formed weight by weight, in
//! the backward of its map.

use super::Error;
use super::optimizer::{Direction, Group};
use crate::config::RunConfig;
use crate::files::DType;
use crate::model::Decoder;
use crate::model::ModelConfig;
use std::collections::HashMap;
use tch::{Kind, TchError, Tensor};

/// The weights of a run.
#[derive(Debug)]
pub(super) struct Weights {
    /// Those that are trained; empty where they are frozen.
    pub(super) group: Group,
    /// Frozen ones by Hugging Face name; empty where they are trained.
    frozen: Vec<(String, Tensor)>,
}

/// In which dtype a run of `config` takes its weights from their file.
pub(super) fn stored_kind(config: &RunConfig, compute: Kind) -> Kind {
    if config.freezes_weights() { compute } else { Kind::Float }
}

impl Weights {
    /// Of `tensors` by Hugging Face name, in the dtype of [`stored_kind`].
    pub(super) fn new(config: &RunConfig, tensors: Vec<(String, Tensor)>, compute: Kind) -> Result<Weights, TchError> {
        let (trained, frozen) = if config.freezes_weights() { (Vec::new(), tensors) } else { (tensors, Vec::new()) };
        let train = &config.train;
        let group = Group::new("weights", train.learning_rate, Direction::Descent, train, trained, compute)?;
        let frozen = frozen.into_iter().map(|(name, tensor)| Ok((name, tensor.f_to_kind(compute)?)));
        Ok(Weights { group, frozen: frozen.collect::<Result<_, TchError>>()? })
    }

    /// The weights as they are kept, with their names: fp32 masters, or frozen ones.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        let masters = self.group.slots().iter().map(|slot| (&slot.name, &slot.master));
        masters.chain(self.frozen.iter().map(|(name, tensor)| (name, tensor)))
    }

    /// Those that are not trained.
    pub(super) fn frozen(&self) -> impl Iterator<Item = &Tensor> {
        self.frozen.iter().map(|(_, tensor)| tensor)
    }

    /// The dtype that they are kept in.
    pub(super) fn dtype(&self) -> DType {
        let kept = self.kept().next().and_then(|(_, tensor)| DType::from_kind(tensor.kind()));
        kept.unwrap_or(DType::F32)
    }

    /// The network over the tensors that forward uses.
    pub(super) fn decoder(&self, model: &ModelConfig) -> Result<Decoder, Error> {
        let leaves = self.group.slots().iter().map(|slot| (slot.name.as_str(), slot.leaf()));
        let frozen = self.frozen.iter().map(|(name, tensor)| (name.as_str(), tensor.shallow_clone()));
        decoder_over(model, leaves.chain(frozen))
    }
}

/// The network over tensors by Hugging Face name.
pub(super) fn decoder_over<'a>(
    model: &ModelConfig,
    tensors: impl Iterator<Item = (&'a str, Tensor)>,
) -> Result<Decoder, Error> {
    let all: HashMap<&str, Tensor> = tensors.collect();
    Decoder::build(model, &mut |name| {
        let weight = all.get(name).map(Tensor::shallow_clone);
        weight.ok_or_else(|| Error::Mismatch(format!("the model asks for a weight {name} that was not loaded")))
    })
}
