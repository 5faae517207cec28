//! Fold and slice one weight: gates are multiplied in, removed rows and columns dropped, all in fp32.
//!
//! ```text
//! mask              multiplied into                              sliced from
//! hidden h          norm weights, output rows of Wo and Wdown,   embedding, q/k/v/gate/up columns, o/down rows,
//!                   embedding columns when untied                norms, head columns (never multiplied)
//! group z^kv        value rows and bias                          q/k/v rows, o columns
//! query z^q         o columns                                    q rows, o columns
//! intermediate      up rows and bias                             gate/up rows, down columns
//! layer             o and down, rows and biases                  the layer
//! ```
//!
//! A mask is multiplied in exactly once on each path from input to output; that is what makes the pruned model
//! equal to the masked one (Sheared-LLaMA's converter counted `hidden` twice at the head).

use crate::model::{HfModel, Parameter, Role};
use shearling_masks::{Gates, KeepPlan, LayerKeep};
use tch::{Device, Kind, TchError, Tensor};

/// Everything the fold of a weight depends on besides the weight itself.
#[derive(Debug)]
pub struct Folder<'a> {
    model: &'a HfModel,
    plan: &'a KeepPlan,
    gates: &'a Gates,
    hidden: Tensor,
    device: Device,
}

impl<'a> Folder<'a> {
    /// Prepares folding weights of the source `model` on `device`.
    pub fn new(model: &'a HfModel, plan: &'a KeepPlan, gates: &'a Gates, device: Device) -> Folder<'a> {
        let hidden = Tensor::from_slice(&plan.hidden).to_device(device);
        Folder { model, plan, gates, hidden, device }
    }

    /// The pruned form of a source weight. `weight` is the source's tensor of `parameter` (named and placed as in
    /// the source); a layer's weight needs that layer to be in the plan, at `kept`.
    pub fn fold(&self, parameter: &Parameter, kept: Option<usize>, weight: &Tensor) -> Result<Tensor, TchError> {
        let weight = weight.f_to_device(self.device)?.f_to_kind(Kind::Float)?;
        let layer = kept.and_then(|kept| self.plan.layers.get(kept));
        match layer {
            Some(layer) => self.fold_layer(parameter.role, layer, &weight),
            None => self.fold_outer(parameter.role, &weight),
        }
    }

    fn fold_outer(&self, role: Role, weight: &Tensor) -> Result<Tensor, TchError> {
        match role {
            // A tied embedding is the head as well: it is only sliced, as the masked forward only reads it.
            Role::Embedding if !self.model.tie_word_embeddings => {
                self.columns(&scale(weight, self.gates.hidden.as_ref(), 1)?)
            }
            Role::HiddenNorm => self.rows(&scale(weight, self.gates.hidden.as_ref(), 0)?),
            _ => self.columns(weight),
        }
    }

    fn fold_layer(&self, role: Role, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        use Role::*;
        match role {
            HeadNorm => Ok(weight.shallow_clone()),
            HiddenNorm => self.rows(&scale(weight, self.gates.hidden.as_ref(), 0)?),
            QueryWeight => select(&self.columns(weight)?, 0, &self.query_rows(layer)),
            QueryBias => select(weight, 0, &self.query_rows(layer)),
            KeyWeight => select(&self.columns(weight)?, 0, &self.kv_rows(layer)),
            KeyBias => select(weight, 0, &self.kv_rows(layer)),
            ValueWeight => select(&self.columns(&self.group_gated(layer, weight)?)?, 0, &self.kv_rows(layer)),
            ValueBias => select(&self.group_gated(layer, weight)?, 0, &self.kv_rows(layer)),
            OutputWeight => {
                let gated = self.residual_gated(layer, &self.query_gated(layer, weight)?)?;
                select(&self.rows(&gated)?, 1, &self.query_rows(layer))
            }
            OutputBias | DownBias => self.rows(&self.residual_gated(layer, weight)?),
            GateWeight => select(&self.columns(weight)?, 0, &layer.intermediate),
            GateBias => select(weight, 0, &layer.intermediate),
            UpWeight => select(&self.columns(&self.intermediate_gated(layer, weight)?)?, 0, &layer.intermediate),
            UpBias => select(&self.intermediate_gated(layer, weight)?, 0, &layer.intermediate),
            DownWeight => select(&self.rows(&self.residual_gated(layer, weight)?)?, 1, &layer.intermediate),
            Embedding | Head => self.columns(weight),
        }
    }

    /// Kept hidden dimensions as rows.
    fn rows(&self, weight: &Tensor) -> Result<Tensor, TchError> {
        weight.f_index_select(0, &self.hidden)
    }

    /// Kept hidden dimensions as columns.
    fn columns(&self, weight: &Tensor) -> Result<Tensor, TchError> {
        weight.f_index_select(1, &self.hidden)
    }

    /// Rows of the kept query heads, whole heads in source order.
    fn query_rows(&self, layer: &LayerKeep) -> Vec<i64> {
        head_rows(layer.query_heads(self.group()).into_iter(), self.model.head_dim)
    }

    /// Rows of the kept key and value heads.
    fn kv_rows(&self, layer: &LayerKeep) -> Vec<i64> {
        head_rows(layer.kv_heads.iter().copied(), self.model.head_dim)
    }

    fn group(&self) -> i64 {
        self.model.num_attention_heads / self.model.num_key_value_heads
    }

    /// z^kv on value rows.
    fn group_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        match &self.gates.kv_head {
            Some(gates) => {
                let per_row = gates.f_select(0, layer.source_index)?.f_repeat_interleave_self_int(
                    self.model.head_dim,
                    0,
                    None,
                )?;
                scale(weight, Some(&per_row), 0)
            }
            None => Ok(weight.shallow_clone()),
        }
    }

    /// z^q on output columns: slot g of every group.
    fn query_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        match &self.gates.query_head {
            Some(gates) => {
                let per_head = gates.f_select(0, layer.source_index)?.f_repeat([self.model.num_key_value_heads])?;
                let per_column = per_head.f_repeat_interleave_self_int(self.model.head_dim, 0, None)?;
                scale(weight, Some(&per_column), 1)
            }
            None => Ok(weight.shallow_clone()),
        }
    }

    /// z^int on up rows.
    fn intermediate_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        let gates = self.gates.intermediate.as_ref().map(|gates| gates.f_select(0, layer.source_index)).transpose()?;
        scale(weight, gates.as_ref(), 0)
    }

    /// z^layer · h on what is written to the residual stream.
    fn residual_gated(&self, layer: &LayerKeep, weight: &Tensor) -> Result<Tensor, TchError> {
        let gated = scale(weight, self.gates.hidden.as_ref(), 0)?;
        match &self.gates.layer {
            Some(gates) => gated.f_mul(&gates.f_select(0, layer.source_index)?.f_to_device(self.device)?),
            None => Ok(gated),
        }
    }
}

/// `weight` with `gate` multiplied along `dim`; unchanged without a gate.
fn scale(weight: &Tensor, gate: Option<&Tensor>, dim: i64) -> Result<Tensor, TchError> {
    let Some(gate) = gate else { return Ok(weight.shallow_clone()) };
    let gate = gate.f_to_device(weight.device())?;
    match (weight.dim(), dim) {
        (2, 0) => weight.f_mul(&gate.f_unsqueeze(1)?),
        _ => weight.f_mul(&gate),
    }
}

fn select(weight: &Tensor, dim: i64, kept: &[i64]) -> Result<Tensor, TchError> {
    weight.f_index_select(dim, &Tensor::f_from_slice(kept)?.f_to_device(weight.device())?)
}

fn head_rows(heads: impl Iterator<Item = i64>, head_dim: i64) -> Vec<i64> {
    heads.flat_map(|head| head * head_dim..(head + 1) * head_dim).collect()
}
