//! The gates of one forward: an explicit argument of the model, shared by all its layers.
//!
//! Made by `mask_set` (sampled or deterministic) or `keep_plan` (a one-shot cut); read by the model and by the parameter count.

use crate::error::{Error, Result};
use crate::shape::UnitKind;
use crate::spec::{MaskSpec, ModuleSpec};
use tch::{Device, Kind, TchError, Tensor};

/// Over which hidden dimensions a norm takes its mean of squares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HiddenMean {
    /// Over those whose gate is not 0, each counting alike (Sheared LLaMA).
    #[default]
    Open,
    /// (1/D)·Σ h_j·x_j², of all D dimensions: follows gates that fall to 0 without a jump.
    Weighted,
}

/// Gates of one forward, fp32. `None` means that the dimension is not pruned: all of it is open.
#[derive(Debug, Default)]
pub struct Gates {
    /// `[L]`, multiplies both the attention and the MLP of a layer.
    pub layer: Option<Tensor>,
    /// `[L, K]`, multiplies a key/value head with all its queries.
    pub kv_head: Option<Tensor>,
    /// `[L, G]`, multiplies the same place of every group of a layer.
    pub query_head: Option<Tensor>,
    /// `[L, F]`, multiplies the up projection.
    pub intermediate: Option<Tensor>,
    /// `[D]`, multiplies what is read from and written to the residual stream.
    pub hidden: Option<Tensor>,
    /// Over which dimensions the norms take their mean.
    pub hidden_mean: HiddenMean,
    /// Factor on the weights of all norms over the hidden dimensions; `None` is 1. A mean over k of D dimensions that hold
    /// most of the stream's energy is about D/k times that over all: √(D/k) takes it back.
    pub norm_gain: Option<f32>,
}

impl Gates {
    /// No gates: the plain model.
    pub fn none() -> Gates {
        Gates::default()
    }

    /// The gates of one module.
    pub fn get(&self, module: UnitKind) -> Option<&Tensor> {
        match module {
            UnitKind::Layer => self.layer.as_ref(),
            UnitKind::KvHead => self.kv_head.as_ref(),
            UnitKind::QueryHead => self.query_head.as_ref(),
            UnitKind::Intermediate => self.intermediate.as_ref(),
            UnitKind::Hidden => self.hidden.as_ref(),
        }
    }

    /// Sets or removes the gates of one module.
    pub fn set(&mut self, module: UnitKind, gate: Option<Tensor>) {
        match module {
            UnitKind::Layer => self.layer = gate,
            UnitKind::KvHead => self.kv_head = gate,
            UnitKind::QueryHead => self.query_head = gate,
            UnitKind::Intermediate => self.intermediate = gate,
            UnitKind::Hidden => self.hidden = gate,
        }
    }

    /// The gates of the query heads of every layer, `[L, H]`: head k·G + g of layer l gets `kv_head[l][k] · query_head[l][g]`.
    /// `None` if neither exists.
    ///
    /// `num_attention_heads` is H and `num_key_value_heads` K of the model the gates were made for.
    ///
    /// # Errors
    /// libtorch's, if the gates are of other sizes.
    pub fn all_heads(&self, num_attention_heads: i64, num_key_value_heads: i64) -> Result<Option<Tensor>> {
        let group_size = num_attention_heads.checked_div(num_key_value_heads).unwrap_or(0);
        let spread = |gate: &Option<Tensor>, dim: i64| -> Result<Option<Tensor>> {
            let spread = |gate: &Tensor| gate.f_unsqueeze(dim)?.f_expand([-1, num_key_value_heads, group_size], false);
            Ok(gate.as_ref().map(spread).transpose()?)
        };
        let product = match (spread(&self.kv_head, 2)?, spread(&self.query_head, 1)?) {
            (Some(groups), Some(places)) => groups.f_mul(&places)?,
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => return Ok(None),
        };
        Ok(Some(product.f_reshape([-1, num_attention_heads])?))
    }

    /// The same tensors again, sharing storage and graph.
    pub fn shallow_clone(&self) -> Gates {
        let mut gates = Gates { hidden_mean: self.hidden_mean, norm_gain: self.norm_gain, ..Gates::none() };
        for module in UnitKind::ALL {
            gates.set(module, self.get(module).map(Tensor::shallow_clone));
        }
        gates
    }

    /// The same values without a graph.
    ///
    /// # Errors
    /// libtorch's.
    pub fn detach(&self) -> Result<Gates> {
        self.map(Tensor::f_detach)
    }

    /// The same values on another device.
    ///
    /// # Errors
    /// libtorch's, when the device has no room.
    pub fn to_device(&self, device: Device) -> Result<Gates> {
        self.map(|gate| gate.f_to_device(device))
    }

    /// The same values in another dtype: fp64 for a forward in fp64.
    ///
    /// # Errors
    /// libtorch's.
    pub fn to_kind(&self, kind: Kind) -> Result<Gates> {
        self.map(|gate| gate.f_to_kind(kind))
    }

    /// Every gate changed by the same function.
    fn map(&self, function: impl Fn(&Tensor) -> std::result::Result<Tensor, TchError>) -> Result<Gates> {
        let mut gates = Gates { hidden_mean: self.hidden_mean, norm_gain: self.norm_gain, ..Gates::none() };
        for module in UnitKind::ALL {
            gates.set(module, self.get(module).map(&function).transpose()?);
        }
        Ok(gates)
    }

    /// The tensor of a mask of the spec, refused if missing or of another shape.
    pub(crate) fn require(&self, spec: &ModuleSpec) -> Result<&Tensor> {
        let (module, expected) = (spec.module, spec.dims());
        match self.get(module) {
            None => Err(Error::MissingModule { module, expected }),
            Some(gate) if gate.size() != expected => Err(Error::ModuleShape { module, expected, found: gate.size() }),
            Some(gate) => Ok(gate),
        }
    }

    /// The values of a module, row by row in one vector, on the CPU and finite; ones where the module is not pruned.
    pub(crate) fn values(&self, spec: &MaskSpec, module: UnitKind) -> Result<Vec<f32>> {
        match spec.get(module) {
            None => Ok(vec![1.0; spec.layout(module).units() as usize]),
            Some(module_spec) => finite_values(module_spec, self.require(module_spec)?),
        }
    }
}

/// A tensor of the mask's shape as fp32 on the CPU, refused if any value is not finite.
pub(crate) fn finite_values(spec: &ModuleSpec, tensor: &Tensor) -> Result<Vec<f32>> {
    let values = cpu_values(tensor)?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let (row, index) = (at as i64 / spec.size, at as i64 % spec.size);
            Err(Error::NonFinite { unit: spec.module.unit_name(row, index), value: values[at] })
        }
    }
}

/// The elements of any tensor as fp32 on the CPU.
pub(crate) fn cpu_values(tensor: &Tensor) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.numel()];
    let plain = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    plain.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

/// A tensor of the mask's shape on a device.
pub(crate) fn to_tensor(spec: &ModuleSpec, values: &[f32], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_view(&spec.dims()[..])?.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates() -> Gates {
        Gates {
            kv_head: Some(Tensor::from_slice(&[1f32, 2.0, 2.0, 3.0]).view([2, 2])),
            query_head: Some(Tensor::from_slice(&[3f32, 0.0, 4.0, 5.0, 7.0, 11.0]).view([2, 3])),
            ..Gates::none()
        }
    }

    fn heads(gates: &Gates) -> Vec<f32> {
        let heads = gates.all_heads(6, 2).unwrap().unwrap();
        assert_eq!(heads.size(), [2, 6]);
        Vec::try_from(heads.flatten(0, 1)).unwrap()
    }

    #[test]
    fn heads_are_groups_times_places() {
        assert_eq!(heads(&gates()), [3.0, 0.0, 4.0, 6.0, 0.0, 8.0, 10.0, 14.0, 22.0, 15.0, 21.0, 33.0]);
        let groups = Gates { query_head: None, ..gates() };
        assert_eq!(heads(&groups), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
        let places = Gates { kv_head: None, ..gates() };
        assert_eq!(heads(&places), [3.0, 0.0, 4.0, 3.0, 0.0, 4.0, 5.0, 7.0, 11.0, 5.0, 7.0, 11.0]);
        assert!(Gates::none().all_heads(6, 2).unwrap().is_none());
    }

    #[test]
    fn the_gradient_of_a_group_is_the_sum_over_its_places() {
        let gates = gates();
        let kv_head = gates.kv_head.as_ref().unwrap().set_requires_grad(true);
        gates.all_heads(6, 2).unwrap().unwrap().sum(Kind::Float).backward();
        assert_eq!(Vec::<f32>::try_from(kv_head.grad().flatten(0, 1)).unwrap(), [7.0, 7.0, 23.0, 23.0]);
    }

    #[test]
    fn heads_of_another_model_are_refused() {
        for (heads, kv_heads) in [(6, 3), (8, 2), (6, 0), (0, 2), (9, 4)] {
            assert!(matches!(gates().all_heads(heads, kv_heads), Err(Error::Torch(_))), "{heads} {kv_heads}");
        }
    }

    #[test]
    fn clones_share_the_graph_and_detached_gates_do_not() {
        let log_alpha = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        let gates = Gates { hidden: Some(log_alpha.sigmoid()), ..Gates::none() };
        assert!(gates.shallow_clone().get(UnitKind::Hidden).unwrap().requires_grad());
        assert!(!gates.detach().unwrap().get(UnitKind::Hidden).unwrap().requires_grad());
        assert!(gates.to_device(Device::Cpu).unwrap().get(UnitKind::Layer).is_none());
    }
}
