//! How one weight is folded and sliced: which rows and columns stay, and which gates they are multiplied by.
//!
//! ```text
//! mask              multiplied into                              sliced from
//! hidden h          norm weights (times their gain), output rows of Wo and Wdown,   embedding, q/k/v/gate/up columns, o/down rows,
//!                   embedding columns when untied                norms, head columns (never multiplied)
//! group z^kv        value rows and bias                          q/k/v rows, o columns
//! query z^q         o columns                                    q rows, o columns
//! intermediate      up rows and bias                             gate/up rows, down columns
//! layer             o and down, rows and biases                  the layer
//! ```
//!
//! A mask is multiplied in exactly once on each path from input to output; that is what makes the pruned model
//! equal to the masked one (Sheared-LLaMA's converter counted `hidden` twice at the head).
//!
//! Here the table becomes a [`FoldPlan`] per weight; [`Fold`] does what the plan says, in one pass over the bytes.

use super::Error;
use super::exact_fold;
use super::fold_plan::{FoldPlan, Side};
use super::gather::Fold;
use crate::files::{self, DType, StoredTensor};
use crate::model::{ModelConfig, Role};
use shearling_masks::{Gates, KeepPlan, LayerKeep};
use tch::{Kind, Tensor};

/// Everything the fold of a weight depends on besides the weight itself.
#[derive(Debug)]
pub struct Folder<'a> {
    model: &'a ModelConfig,
    plan: &'a KeepPlan,
    gates: HostGates,
}

impl<'a> Folder<'a> {
    /// Prepares folding weights of the source `model`.
    ///
    /// # Errors
    /// Gates of another shape than the model's.
    pub fn new(model: &'a ModelConfig, plan: &'a KeepPlan, gates: &Gates) -> Result<Folder<'a>, Error> {
        Ok(Folder { model, plan, gates: HostGates::read(gates, model)? })
    }

    /// The pruned form of a source weight in fp64, never rounded, on the weight's device. A layer's weight needs that
    /// layer to be in the plan, at `kept`.
    ///
    /// # Errors
    /// A weight of another shape than the plan's.
    pub(super) fn fold_exactly(&self, role: Role, kept: Option<usize>, weight: &Tensor) -> Result<Tensor, Error> {
        Ok(exact_fold::fold(&self.plan_of(role, kept), weight)?)
    }

    /// The same in fp32, by the code that writes.
    #[cfg(test)]
    pub(super) fn fold(&self, role: Role, kept: Option<usize>, weight: StoredTensor) -> Result<Tensor, Error> {
        self.bind(role, kept, weight, DType::F32)?.to_tensor()
    }

    /// The fold of a weight, to be written in pieces as `target`.
    pub(super) fn bind<'w>(
        &self,
        role: Role,
        kept: Option<usize>,
        weight: StoredTensor<'w>,
        target: DType,
    ) -> Result<Fold<'w>, Error> {
        Fold::new(self.plan_of(role, kept), weight, target)
    }

    fn plan_of(&self, role: Role, kept: Option<usize>) -> FoldPlan {
        match kept.and_then(|kept| self.plan.layers.get(kept)) {
            Some(layer) => self.plan_of_layer(role, layer),
            None => self.plan_of_outer(role),
        }
    }

    fn plan_of_outer(&self, role: Role) -> FoldPlan {
        let tokens = Side::all(self.model.vocab_size);
        match role {
            // A tied embedding is the head as well: it is only sliced, as the masked forward only reads it.
            Role::Embedding if !self.model.tie_word_embeddings => FoldPlan::matrix(tokens, self.hidden_gated()),
            role if role.is_hidden_norm() => FoldPlan::vector(self.hidden_normed()),
            _ => FoldPlan::matrix(tokens, self.hidden()),
        }
    }

    fn plan_of_layer(&self, role: Role, layer: &LayerKeep) -> FoldPlan {
        use Role::*;
        match role {
            QueryNorm | KeyNorm => FoldPlan::vector(Side::all(self.model.head_dim)),
            AttentionNorm | FeedForwardNorm | FinalNorm => FoldPlan::vector(self.hidden_normed()),
            QueryWeight => FoldPlan::matrix(self.query(layer), self.hidden()),
            QueryBias => FoldPlan::vector(self.query(layer)),
            KeyWeight => FoldPlan::matrix(self.kv(layer), self.hidden()),
            KeyBias => FoldPlan::vector(self.kv(layer)),
            ValueWeight => FoldPlan::matrix(self.kv_gated(layer), self.hidden()),
            ValueBias => FoldPlan::vector(self.kv_gated(layer)),
            OutputWeight => FoldPlan::matrix(self.residual_gated(layer), self.query_gated(layer)),
            OutputBias | DownBias => FoldPlan::vector(self.residual_gated(layer)),
            GateWeight => FoldPlan::matrix(self.intermediate(layer), self.hidden()),
            GateBias => FoldPlan::vector(self.intermediate(layer)),
            UpWeight => FoldPlan::matrix(self.intermediate_gated(layer), self.hidden()),
            UpBias => FoldPlan::vector(self.intermediate_gated(layer)),
            DownWeight => FoldPlan::matrix(self.residual_gated(layer), self.intermediate(layer)),
            Embedding | Head => self.plan_of_outer(role),
        }
    }

    /// Kept dimensions of the residual stream.
    fn hidden(&self) -> Side {
        Side::kept(self.plan.hidden.iter().copied())
    }

    /// The same times h.
    fn hidden_gated(&self) -> Side {
        self.gated(self.hidden(), &self.gates.hidden, |dimension| dimension)
    }

    /// What the norms give: h times their gain.
    fn hidden_normed(&self) -> Side {
        match (&self.gates.hidden, self.gates.norm_gain) {
            (Some(_), Some(gain)) => self.hidden_gated().times(|_| gain),
            _ => self.hidden_gated(),
        }
    }

    /// What is written to the residual stream: h · z^layer.
    fn residual_gated(&self, layer: &LayerKeep) -> Side {
        let source = layer.source_index as usize;
        self.gated(self.hidden_gated(), &self.gates.layer, |_| source)
    }

    /// Rows of the kept query heads, whole heads in source order.
    fn query(&self, layer: &LayerKeep) -> Side {
        head_side(layer.query_heads(self.group()).into_iter(), self.model.head_dim)
    }

    /// The same times z^q: slot g of every group.
    fn query_gated(&self, layer: &LayerKeep) -> Side {
        let (source, head_dim, group) = (layer.source_index as usize, self.head_dim(), self.group() as usize);
        let slot = |index: usize| source * group + index / head_dim % group;
        self.gated(self.query(layer), &self.gates.query_head, slot)
    }

    /// Rows of the kept key and value heads.
    fn kv(&self, layer: &LayerKeep) -> Side {
        head_side(layer.kv_heads.iter().copied(), self.model.head_dim)
    }

    /// The same times z^kv.
    fn kv_gated(&self, layer: &LayerKeep) -> Side {
        let (source, head_dim) = (layer.source_index as usize, self.head_dim());
        let heads = self.model.num_key_value_heads as usize;
        self.gated(self.kv(layer), &self.gates.kv_head, |index| source * heads + index / head_dim)
    }

    /// Kept dimensions of the MLP.
    fn intermediate(&self, layer: &LayerKeep) -> Side {
        Side::kept(layer.intermediate.iter().copied())
    }

    /// The same times z^int.
    fn intermediate_gated(&self, layer: &LayerKeep) -> Side {
        let (source, size) = (layer.source_index as usize, self.model.intermediate_size as usize);
        self.gated(self.intermediate(layer), &self.gates.intermediate, |index| source * size + index)
    }

    /// `side` times the gate at `place(index)`; an index without a gate is beyond the weight and refused with it.
    fn gated(&self, side: Side, gates: &Option<Vec<f32>>, place: impl Fn(usize) -> usize) -> Side {
        match gates {
            Some(gates) => side.times(|index| gates.get(place(index)).copied().unwrap_or(f32::NAN)),
            None => side,
        }
    }

    fn group(&self) -> i64 {
        self.model.num_attention_heads / self.model.num_key_value_heads
    }

    fn head_dim(&self) -> usize {
        self.model.head_dim as usize
    }
}

/// All rows of the given heads.
fn head_side(heads: impl Iterator<Item = i64>, head_dim: i64) -> Side {
    Side::kept(heads.flat_map(|head| head * head_dim..(head + 1) * head_dim))
}

/// The gates as plain numbers, row-major, in the shapes that [`Gates`] documents.
#[derive(Debug)]
struct HostGates {
    layer: Option<Vec<f32>>,
    kv_head: Option<Vec<f32>>,
    query_head: Option<Vec<f32>>,
    intermediate: Option<Vec<f32>>,
    hidden: Option<Vec<f32>>,
    norm_gain: Option<f32>,
}

impl HostGates {
    fn read(gates: &Gates, model: &ModelConfig) -> Result<HostGates, Error> {
        let (layers, kv_heads) = (model.num_hidden_layers, model.num_key_value_heads);
        let group = model.num_attention_heads / kv_heads;
        Ok(HostGates {
            layer: to_host("layer", &gates.layer, &[layers])?,
            kv_head: to_host("KV head", &gates.kv_head, &[layers, kv_heads])?,
            query_head: to_host("query head", &gates.query_head, &[layers, group])?,
            intermediate: to_host("intermediate", &gates.intermediate, &[layers, model.intermediate_size])?,
            hidden: to_host("hidden", &gates.hidden, &[model.hidden_size])?,
            norm_gain: gates.norm_gain,
        })
    }
}

fn to_host(name: &str, gate: &Option<Tensor>, shape: &[i64]) -> Result<Option<Vec<f32>>, Error> {
    let Some(gate) = gate else { return Ok(None) };
    if gate.size() != shape {
        let problem = format!("{name} gates of shape {:?} for a model with {shape:?}", gate.size());
        return Err(files::Error::Shape { problem }.into());
    }
    let flat = gate.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?.f_reshape([-1])?;
    Ok(Some(Vec::<f32>::try_from(&flat)?))
}
