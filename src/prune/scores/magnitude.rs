//! Scores by weight magnitude: the L2 norm of all weights that disappear with a unit. Needs no data; on real models the
//! weakest of the scores, kept as the baseline that it is.
//!
//! ```text
//! hidden j        every row or column that reads or writes residual dimension j
//! group k         rows of q, k, v and columns of o of the group
//! query slot g    rows of q and columns of o of slot g in every group
//! intermediate i  rows of gate and up, column of down
//! layer l         o and down: what the layer writes to the residual stream
//! ```

use super::super::Error;
use crate::hf::Checkpoint;
use crate::model::{ModelConfig, Parameter, Role, parameters::parameters};
use shearling_masks::{Gates, MaskSpec, UnitKind};
use tch::{Device, Kind, TchError, Tensor};

/// Scores of every unit of the masks in `spec`: one fp32 tensor per mask in the place of its gate, on `device`.
///
/// # Errors
/// Weights that are missing or not finite; libtorch's.
pub fn scores(checkpoint: &Checkpoint, spec: &MaskSpec, device: Device) -> Result<Gates, Error> {
    let _no_grad = tch::no_grad_guard();
    let model = checkpoint.model();
    let mut sums = SumsOfSquares::new(model, device)?;
    for parameter in parameters(model) {
        let weight = checkpoint.finite_tensor(&parameter.name, Kind::Float, device)?;
        sums.add(&parameter, &weight.f_square()?)?;
        checkpoint.stored(&parameter.name)?.release();
    }
    Ok(sums.into_scores(spec))
}

/// Sums of squares per unit.
struct SumsOfSquares {
    model: ModelConfig,
    layer: Tensor,
    kv_head: Tensor,
    query_head: Tensor,
    intermediate: Tensor,
    hidden: Tensor,
}

impl SumsOfSquares {
    fn new(model: &ModelConfig, device: Device) -> Result<SumsOfSquares, TchError> {
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Float, device));
        let layers = model.num_hidden_layers;
        let group = model.num_attention_heads / model.num_key_value_heads;
        Ok(SumsOfSquares {
            layer: zeros(&[layers])?,
            kv_head: zeros(&[layers, model.num_key_value_heads])?,
            query_head: zeros(&[layers, group])?,
            intermediate: zeros(&[layers, model.intermediate_size])?,
            hidden: zeros(&[model.hidden_size])?,
            model: model.clone(),
        })
    }

    /// Adds the squared weights of one parameter wherever it counts.
    fn add(&mut self, parameter: &Parameter, squares: &Tensor) -> Result<(), TchError> {
        use Role::*;
        let layer = parameter.layer.unwrap_or(0);
        match parameter.role {
            Embedding | Head | AttentionNorm | FeedForwardNorm | FinalNorm => self.add_hidden(squares, -1)?,
            QueryWeight => {
                self.add_hidden(squares, 1)?;
                self.add_heads(layer, &sum(squares, 1)?, true)?;
            }
            KeyWeight | ValueWeight => {
                self.add_hidden(squares, 1)?;
                self.add_heads(layer, &sum(squares, 1)?, false)?;
            }
            OutputWeight => {
                self.add_hidden(squares, 0)?;
                self.add_heads(layer, &sum(squares, 0)?, true)?;
                self.add_layer(layer, squares)?;
            }
            GateWeight | UpWeight => {
                self.add_hidden(squares, 1)?;
                accumulate(&self.intermediate, layer, &sum(squares, 1)?)?;
            }
            DownWeight => {
                self.add_hidden(squares, 0)?;
                accumulate(&self.intermediate, layer, &sum(squares, 0)?)?;
                self.add_layer(layer, squares)?;
            }
            QueryBias | KeyBias | ValueBias | QueryNorm | KeyNorm | OutputBias | GateBias | UpBias | DownBias => {}
        }
        Ok(())
    }

    /// `dim` is the residual dimension of `squares`.
    fn add_hidden(&mut self, squares: &Tensor, dim: i64) -> Result<(), TchError> {
        let per_unit =
            if squares.dim() == 1 { squares.shallow_clone() } else { sum(squares, if dim == 0 { 1 } else { 0 })? };
        let _ = self.hidden.f_add_(&per_unit)?;
        Ok(())
    }

    /// `per_row [heads*E]` of query heads (`queries`) or of key/value heads.
    fn add_heads(&mut self, layer: i64, per_row: &Tensor, queries: bool) -> Result<(), TchError> {
        let per_head = sum(&per_row.f_view([-1, self.model.head_dim])?, 1)?;
        if !queries {
            return accumulate(&self.kv_head, layer, &per_head);
        }
        let grouped = per_head.f_view([self.model.num_key_value_heads, -1])?;
        accumulate(&self.kv_head, layer, &sum(&grouped, 1)?)?;
        accumulate(&self.query_head, layer, &sum(&grouped, 0)?)
    }

    fn add_layer(&mut self, layer: i64, squares: &Tensor) -> Result<(), TchError> {
        let _ = self.layer.f_select(0, layer)?.f_add_(&squares.f_sum(Kind::Float)?)?;
        Ok(())
    }

    fn into_scores(self, spec: &MaskSpec) -> Gates {
        let wanted = |module: UnitKind, scores: Tensor| spec.get(module).map(|_| scores.sqrt());
        Gates {
            layer: wanted(UnitKind::Layer, self.layer),
            kv_head: wanted(UnitKind::KvHead, self.kv_head),
            query_head: wanted(UnitKind::QueryHead, self.query_head),
            intermediate: wanted(UnitKind::Intermediate, self.intermediate),
            hidden: wanted(UnitKind::Hidden, self.hidden),
            ..Gates::none()
        }
    }
}

fn sum(x: &Tensor, dim: i64) -> Result<Tensor, TchError> {
    x.f_sum_dim_intlist(&[dim][..], false, Kind::Float)
}

fn accumulate(rows: &Tensor, row: i64, values: &Tensor) -> Result<(), TchError> {
    let _ = rows.f_select(0, row)?.f_add_(values)?;
    Ok(())
}
