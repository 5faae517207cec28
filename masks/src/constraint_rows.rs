//! The loss of the constraint over the rows of all masks at once, as one short chain of tensor operations.
//!
//! ```text
//! e_r = 1 − open_r / size_r − t_r           L = Σ_r [ w1_r·e_r + w2_r·e_r² ],     w_r = λ_M(r) / rows_M(r)
//! ```
//!
//! which is the Lagrangian of `lagrangian` with the mean over a module's rows written as weights. What a row is called, how
//! large it is and where it is to go never changes in a run; it is put on the masks' device once. R rows, M modules.

use crate::error::Result;
use crate::spec::{MaskSpec, ModuleSpec};
use tch::{Device, Kind, Tensor};

/// The constants of every row, in the order of the spec, fp32.
#[derive(Debug)]
pub(crate) struct ConstraintRows {
    /// Units, `[R]`.
    sizes: Tensor,
    /// Final target sparsity, `[R]`.
    targets: Tensor,
    /// 1 / rows_M in the rows of module M, else 0: `[M, R]`.
    averages: Tensor,
}

impl ConstraintRows {
    /// Puts the constants on a device.
    ///
    /// # Errors
    /// libtorch's, when the device has no room.
    pub(crate) fn new(spec: &MaskSpec, device: Device) -> Result<ConstraintRows> {
        let modules = spec.modules();
        let per_row = |value: &dyn Fn(&ModuleSpec) -> f64| -> Vec<f32> {
            modules.iter().flat_map(|module| (0..module.rows).map(|_| value(module) as f32)).collect()
        };
        let averages = modules
            .iter()
            .flat_map(|own| per_row(&|module| if module.module == own.module { 1.0 / own.rows as f64 } else { 0.0 }));
        let on_device = |values: &[f32], dims: &[i64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(values)?.f_view(dims)?.f_to_device(device)?)
        };
        let (count, rows) = (modules.len() as i64, modules.iter().map(|module| module.rows).sum::<i64>());
        Ok(ConstraintRows {
            sizes: on_device(&per_row(&|module| module.size as f64), &[rows])?,
            targets: on_device(&per_row(&ModuleSpec::target_sparsity), &[rows])?,
            averages: on_device(&averages.collect::<Vec<f32>>(), &[count, rows])?,
        })
    }

    /// The loss, a scalar with graph to both arguments: `open` `[R]` is the expected number of open units of every row,
    /// `multipliers` `[2, M]` all λ1 and all λ2, `progress` the share of the targets that holds at this step.
    ///
    /// # Errors
    /// libtorch's.
    pub(crate) fn loss(&self, open: &Tensor, multipliers: &Tensor, progress: f64) -> Result<Tensor> {
        let excess = self.excess(open, progress)?;
        let powers = Tensor::f_stack(&[&excess, &excess.f_square()?], 0)?;
        let weights = multipliers.f_unsqueeze(2)?.f_mul(&self.averages)?.f_sum_dim_intlist(1, false, Kind::Float)?;
        Ok(weights.f_mul(&powers)?.f_sum(Kind::Float)?)
    }

    /// The mean of e over the rows of every module, `[M]`: the gradient of λ1.
    ///
    /// # Errors
    /// libtorch's.
    pub(crate) fn violations(&self, open: &Tensor, progress: f64) -> Result<Tensor> {
        Ok(self.averages.f_mv(&self.excess(open, progress)?)?)
    }

    /// e, `[R]`.
    fn excess(&self, open: &Tensor, progress: f64) -> Result<Tensor> {
        let sparsity = open.f_div(&self.sizes)?.f_rsub_scalar(1.0)?;
        Ok(sparsity.f_sub(&self.targets.f_mul_scalar(progress)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    /// Two rows of `kv_head` (size 4, target 3), one of `hidden` (size 10, target 5).
    fn rows() -> ConstraintRows {
        let source = Shape {
            hidden_size: 10,
            intermediate_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            head_dim: 2,
        };
        let target = Shape { hidden_size: 5, num_attention_heads: 3, num_key_value_heads: 3, ..source.clone() };
        ConstraintRows::new(&MaskSpec::new(&source, &target).unwrap(), Device::Cpu).unwrap()
    }

    #[test]
    fn the_loss_and_its_gradients_are_those_of_the_formula() {
        // Sparsities 0.5, 0.1 and 0.2; targets at 0.8 of the way: 0.2, 0.2 and 0.4; so e = 0.3, −0.1 and −0.2.
        let open = Tensor::from_slice(&[2f32, 3.6, 8.0]).set_requires_grad(true);
        let multipliers = Tensor::from_slice(&[2f32, 7.0, 3.0, 5.0]).view([2, 2]).detach().set_requires_grad(true);
        let loss = rows().loss(&open, &multipliers, 0.8).unwrap();
        loss.backward();
        let expected = 2.0 * 0.1 + 3.0 * (0.09 + 0.01) / 2.0 + 7.0 * -0.2 + 5.0 * 0.04;
        assert!((loss.double_value(&[]) - expected).abs() < 1e-6);
        let assert_gradient = |leaf: &Tensor, expected: &[f64]| {
            let found = Vec::<f32>::try_from(leaf.grad().flatten(0, -1)).unwrap();
            for (found, expected) in found.into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-6, "{found} {expected}");
            }
        };
        assert_gradient(&multipliers, &[0.1, -0.2, 0.05, 0.04]);
        // d/d open = −1/size · (λ1 + 2·λ2·e) / rows.
        assert_gradient(&open, &[-(2.0 + 6.0 * 0.3) / 8.0, -(2.0 - 6.0 * 0.1) / 8.0, -(7.0 - 10.0 * 0.2) / 10.0]);
    }
}
