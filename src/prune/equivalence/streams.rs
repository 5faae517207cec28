//! The models that the check runs side by side, one layer of each in memory at a time and one row in it.
//!
//! ```text
//! masked    source weights and gates, fp64                          the reference
//! folded    the exact fold, fp64                                     the arithmetic of fold and slice
//! written   the weights read back from the staged files, fp32        what writing them in their dtype costs
//! rounded   the masked model with its weights rounded as much, fp32  what that costs where nothing is cut
//! ```

use crate::model::{Block, Embedding, ForwardContext, Head, ModelConfig, ModelGates};
use crate::prune::Error;
use shearling_masks::Gates;
use tch::{Device, Kind, Tensor};

/// Hands out a model's weights by name.
pub(super) type Weights<'a> = Box<dyn FnMut(&str) -> Result<Tensor, Error> + 'a>;

/// One of the models that are compared: where its weights come from and what runs through it.
pub(super) struct Stream<'a> {
    model: ModelConfig,
    context: ForwardContext,
    gates: ModelGates,
    weight: Weights<'a>,
    /// Residual stream `[N, T, D]`.
    pub(super) x: Tensor,
}

impl<'a> Stream<'a> {
    /// `input_ids [N, T]` after the embedding. `gates` have the dtype of the weights.
    pub(super) fn start(
        model: &ModelConfig,
        gates: &Gates,
        input_ids: &Tensor,
        mut weight: Weights<'a>,
    ) -> Result<Stream<'a>, Error> {
        let (tokens, device) = (input_ids.size()[1], input_ids.device());
        let context = ForwardContext::new(model, tokens, device)?;
        let gates = ModelGates::new(model, gates)?;
        let embedding = Embedding::build(model, &mut *weight)?;
        let x = embedding.forward(input_ids, &gates)?;
        Ok(Stream { model: model.clone(), context, gates, weight, x })
    }

    /// Runs all rows through `layer`.
    pub(super) fn advance(&mut self, layer: i64) -> Result<(), Error> {
        let block = Block::build(&self.model, layer, &mut *self.weight)?;
        // Row by row: what a layer needs for itself is many times the residual stream.
        let context = self.context.layer(&self.model, &self.gates, layer, self.x.size()[1])?;
        let rows = (0..self.x.size()[0]).map(|row| block.forward(&self.x.f_narrow(0, row, 1)?, &context));
        self.x = Tensor::f_cat(&rows.collect::<Result<Vec<_>, _>>()?, 0)?;
        Ok(())
    }

    /// Final norm and head.
    pub(super) fn head(&mut self) -> Result<Head, Error> {
        Head::build(&self.model, None, &mut *self.weight)
    }

    /// Logits `[t, V]` in fp64 of positions `from..from + count` of one row.
    pub(super) fn logits(&self, head: &Head, row: i64, from: i64, count: i64) -> Result<Tensor, Error> {
        let x = self.x.f_narrow(0, row, 1)?.f_narrow(1, from, count)?;
        Ok(head.forward(&self.model, &x, &self.gates)?.f_squeeze_dim(0)?.f_to_kind(Kind::Double)?)
    }
}

/// Gates where and as a stream needs them.
pub(super) fn placed(gates: &Gates, kind: Kind, device: Device) -> Result<Gates, Error> {
    Ok(gates.to_device(device)?.to_kind(kind)?)
}
