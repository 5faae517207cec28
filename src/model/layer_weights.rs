//! The weights of one layer, asked for by role: where attention and feed-forward are built from.

use super::ModelConfig;
use super::linear::Linear;
use super::parameters::Role;
use tch::Tensor;

/// The weights of a layer by role, from wherever they come.
pub(super) struct LayerWeights<'a, E> {
    pub(super) model: &'a ModelConfig,
    layer: i64,
    weight: &'a mut dyn FnMut(&str) -> Result<Tensor, E>,
}

impl<'a, E> LayerWeights<'a, E> {
    /// Of `layer`, from a source that is asked by name.
    pub(super) fn new(
        model: &'a ModelConfig,
        layer: i64,
        weight: &'a mut dyn FnMut(&str) -> Result<Tensor, E>,
    ) -> LayerWeights<'a, E> {
        LayerWeights { model, layer, weight }
    }

    /// One that every model has.
    pub(super) fn get(&mut self, role: Role) -> Result<Tensor, E> {
        (self.weight)(&role.name(Some(self.layer)))
    }

    /// One that the config may leave out.
    pub(super) fn get_if_present(&mut self, role: Role) -> Result<Option<Tensor>, E> {
        role.is_present(self.model).then(|| self.get(role)).transpose()
    }

    /// A linear map with the bias that the config says it has.
    pub(super) fn linear(&mut self, weight: Role, bias: Role) -> Result<Linear, E> {
        Ok(Linear { weight: self.get(weight)?, bias: self.get_if_present(bias)? })
    }
}
