//! Weights one after the other: from files, from memory, or as something makes them of a source; and the network over them.

use super::Error;
use crate::hf::{Checkpoint, ModelConfig};
use crate::model::{Decoder, Parameter, parameters::parameters};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// A weight by its Hugging Face name.
pub(super) type Weight = (String, Tensor);

/// Weights one after the other, in the order of the model: where they are sharded, no rank ever holds all of them.
pub(super) type WeightStream<'a> = Box<dyn Iterator<Item = Result<Weight, Error>> + 'a>;

/// Weights that are there already.
pub(super) fn given<'a>(weights: impl Iterator<Item = Result<Weight, Error>> + 'a) -> WeightStream<'a> {
    Box::new(weights)
}

/// All weights in `kind`, tensor by tensor from the mapped file to the device.
pub(super) fn stored_weights<'a>(
    source: &'a Checkpoint,
    model: &ModelConfig,
    kind: Kind,
    device: Device,
) -> WeightStream<'a> {
    let load = move |p: Parameter| Ok((p.name.clone(), source.finite_tensor(&p.name, kind, device)?));
    each_parameter(source, model, load)
}

/// What `make` makes of each weight of `source`, whose pages are released at the end: they are not needed again soon, and would
/// count as this process's memory.
pub(super) fn each_parameter<'a>(
    source: &'a Checkpoint,
    model: &ModelConfig,
    make: impl FnMut(Parameter) -> Result<Weight, Error> + 'a,
) -> WeightStream<'a> {
    let release = std::iter::from_fn(|| {
        source.release();
        None
    });
    given(parameters(model).into_iter().map(make).chain(release))
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
