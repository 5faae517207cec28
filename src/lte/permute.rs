//! A model with the units of an expert side by side: every weight of it, and its configuration. It computes what the source
//! computes; units of zeros that fill the last expert up add nothing to that.

use super::error::Error;
use super::experts::Experts;
use crate::files::DType;
use crate::hf::{Checkpoint, NewShape, RawConfig};
use crate::model::{ModelConfig, Parameter, Role};
use tch::{Device, Kind, Tensor};

/// F of the grouped model: the living units, and those that fill the last expert up.
pub fn padded_units(experts: &Experts) -> i64 {
    experts.experts() * experts.expert_size
}

/// The weight `parameter` of `source`, which is not grouped, in the order of `experts`: fp32, on `device`. Rows of gate and up
/// projection and columns of the down projection are permuted and padded, all others are as they were.
///
/// # Errors
/// A weight that is missing or not finite; experts of another model; libtorch's.
pub fn permuted_weight(
    source: &Checkpoint,
    experts: &Experts,
    parameter: &Parameter,
    device: Device,
) -> Result<Tensor, Error> {
    let _no_grad = tch::no_grad_guard();
    let weight = source.finite_tensor(&parameter.name, Kind::Float, device)?;
    let (Some(layer), Some(dim)) = (parameter.layer, units_dimension(parameter.role)) else { return Ok(weight) };
    let found = weight.size()[dim as usize];
    if found != experts.living_units {
        let (name, living) = (&parameter.name, experts.living_units);
        let problem = format!("`{name}` of {} has {found} units, they have {living}", source.dir().display());
        return Err(Error::Mismatch { problem });
    }
    let layers = experts.layers.len();
    let order = experts.layers.get(layer as usize).map(|layer| &layer.permutation).ok_or_else(|| Error::Mismatch {
        problem: format!("`{}` is of layer {layer}, they are of {layers} layers", parameter.name),
    })?;
    let order: Vec<i64> = order.iter().map(|unit| i64::from(*unit)).filter(|unit| *unit < found).collect();
    let permuted = weight.f_index_select(dim, &Tensor::f_from_slice(&order)?.f_to_device(device)?)?;
    let padding = padded_units(experts) - found;
    if padding == 0 {
        return Ok(permuted);
    }
    let mut shape = permuted.size();
    shape[dim as usize] = padding;
    Ok(Tensor::f_cat(&[&permuted, &Tensor::f_zeros(shape, (Kind::Float, device))?], dim)?)
}

/// Along which dimension of a weight intermediate units lie, if they do.
fn units_dimension(role: Role) -> Option<i64> {
    use Role::*;
    match role {
        GateWeight | GateBias | UpWeight | UpBias => Some(0),
        DownWeight => Some(1),
        Embedding | AttentionNorm | QueryWeight | QueryBias | KeyWeight | KeyBias | ValueWeight | ValueBias
        | QueryNorm | KeyNorm | OutputWeight | OutputBias | FeedForwardNorm | DownBias | FinalNorm | Head => None,
    }
}

/// `model` with its units grouped.
pub fn grouped_model(model: &ModelConfig, experts: &Experts) -> ModelConfig {
    ModelConfig { intermediate_size: padded_units(experts), ..model.clone() }
}

/// The `config.json` of a model with its units grouped, for weights in `dtype`.
///
/// # Errors
/// A configuration that is not supported.
pub fn grouped_config(config: &RawConfig, experts: &Experts, dtype: DType) -> Result<RawConfig, Error> {
    let model = config.model()?;
    let layers: Vec<i64> = (0..model.num_hidden_layers).collect();
    let shape = NewShape {
        hidden_size: model.hidden_size,
        intermediate_size: padded_units(experts),
        num_attention_heads: model.num_attention_heads,
        num_key_value_heads: model.num_key_value_heads,
        head_dim: model.head_dim,
        kept_layers: &layers,
    };
    Ok(config.with_shape(&shape, dtype)?)
}
