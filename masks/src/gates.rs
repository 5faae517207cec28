//! The gates of one forward: an explicit argument of the model, shared by all its layers.
//!
//! Made by `mask_set` (sampled or deterministic) or `keep_plan` (a one-shot cut); read by the model and by the parameter count.

use crate::error::{Error, Result};
use crate::shape::Module;
use crate::spec::{MaskSpec, ModuleSpec};
use tch::{Device, Kind, Tensor};

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
}

impl Gates {
    /// No gates: the plain model.
    pub fn none() -> Gates {
        Gates::default()
    }

    /// The gates of one module.
    pub fn get(&self, module: Module) -> Option<&Tensor> {
        match module {
            Module::Layer => self.layer.as_ref(),
            Module::KvHead => self.kv_head.as_ref(),
            Module::QueryHead => self.query_head.as_ref(),
            Module::Intermediate => self.intermediate.as_ref(),
            Module::Hidden => self.hidden.as_ref(),
        }
    }

    /// Sets or removes the gates of one module.
    pub fn set(&mut self, module: Module, gate: Option<Tensor>) {
        match module {
            Module::Layer => self.layer = gate,
            Module::KvHead => self.kv_head = gate,
            Module::QueryHead => self.query_head = gate,
            Module::Intermediate => self.intermediate = gate,
            Module::Hidden => self.hidden = gate,
        }
    }

    /// The gates of the query heads of one layer, `[H]`: head k·G + g gets `kv_head[layer][k] · query_head[layer][g]`.
    /// `None` if neither exists.
    ///
    /// `num_attention_heads` is H and `num_key_value_heads` K of the model the gates were made for.
    pub fn heads(&self, layer: i64, num_attention_heads: i64, num_key_value_heads: i64) -> Option<Tensor> {
        let group_size = num_attention_heads / num_key_value_heads;
        let groups = self.kv_head.as_ref().map(|gate| gate.get(layer).unsqueeze(1));
        let places = self.query_head.as_ref().map(|gate| gate.get(layer).unsqueeze(0));
        let product = match (groups, places) {
            (Some(groups), Some(places)) => groups * places,
            (Some(only), None) | (None, Some(only)) => only.expand([num_key_value_heads, group_size], false),
            (None, None) => return None,
        };
        Some(product.reshape([num_attention_heads]))
    }

    /// The same tensors again, sharing storage and graph.
    pub fn shallow_clone(&self) -> Gates {
        self.map(Tensor::shallow_clone)
    }

    /// The same values without a graph.
    pub fn detach(&self) -> Gates {
        self.map(Tensor::detach)
    }

    /// The same values on another device.
    pub fn to_device(&self, device: Device) -> Gates {
        self.map(|gate| gate.to_device(device))
    }

    /// Every gate changed by the same function.
    fn map(&self, function: impl Fn(&Tensor) -> Tensor) -> Gates {
        let mut gates = Gates::none();
        for module in Module::ALL {
            gates.set(module, self.get(module).map(&function));
        }
        gates
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
    pub(crate) fn values(&self, spec: &MaskSpec, module: Module) -> Result<Vec<f32>> {
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
    let plain = tensor.detach().f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
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
            kv_head: Some(Tensor::from_slice(&[0f32, 0.0, 2.0, 3.0]).view([2, 2])),
            query_head: Some(Tensor::from_slice(&[0f32, 0.0, 0.0, 5.0, 7.0, 11.0]).view([2, 3])),
            ..Gates::none()
        }
    }

    fn heads(gates: &Gates) -> Vec<f32> {
        Vec::try_from(gates.heads(1, 6, 2).unwrap()).unwrap()
    }

    #[test]
    fn heads_are_groups_times_places() {
        assert_eq!(heads(&gates()), [10.0, 14.0, 22.0, 15.0, 21.0, 33.0]);
        assert_eq!(heads(&Gates { query_head: None, ..gates() }), [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
        assert_eq!(heads(&Gates { kv_head: None, ..gates() }), [5.0, 7.0, 11.0, 5.0, 7.0, 11.0]);
        assert!(Gates::none().heads(0, 6, 2).is_none());
    }

    #[test]
    fn clones_share_the_graph_and_detached_gates_do_not() {
        let log_alpha = Tensor::from_slice(&[1f32, 2.0]).set_requires_grad(true);
        let gates = Gates { hidden: Some(log_alpha.sigmoid()), ..Gates::none() };
        assert!(gates.shallow_clone().get(Module::Hidden).unwrap().requires_grad());
        assert!(!gates.detach().get(Module::Hidden).unwrap().requires_grad());
        assert!(gates.to_device(Device::Cpu).get(Module::Layer).is_none());
    }
}
