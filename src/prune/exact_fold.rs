//! The fold of one weight in fp64 by whole-tensor operators: what the check compares masked model and written files
//! with.
//!
//! It follows the same [`FoldPlan`] as the one pass over the bytes ([`super::gather`]) and shares no other code with it,
//! so a fault of either is seen by the other. Weights and gates of 32 bits or less are exact in fp64, and so is the
//! product of two gates.

use super::fold_plan::{FoldPlan, Side};
use tch::{Device, Kind, TchError, Tensor};

/// The pruned form of `weight` in fp64, on its device.
pub(super) fn fold(plan: &FoldPlan, weight: &Tensor) -> Result<Tensor, TchError> {
    let weight = weight.f_to_kind(Kind::Double)?;
    match plan.dimensions {
        1 => side(&weight, &plan.columns, 0),
        _ => side(&side(&weight, &plan.rows, 0)?, &plan.columns, 1),
    }
}

/// The kept indices of dimension `dim`, each times its factor.
fn side(weight: &Tensor, side: &Side, dim: i64) -> Result<Tensor, TchError> {
    let device = weight.device();
    let indices: Vec<i64> = side.indices().iter().map(|index| *index as i64).collect();
    let kept = weight.f_index_select(dim, &Tensor::f_from_slice(&indices)?.f_to_device(device)?)?;
    let Some(factors) = side.factors() else { return Ok(kept) };
    kept.f_mul(&along(factors, dim, kept.dim(), device)?)
}

/// Factors that broadcast along dimension `dim` of a weight with `dimensions`.
fn along(factors: &[f64], dim: i64, dimensions: usize, device: Device) -> Result<Tensor, TchError> {
    let factors = Tensor::f_from_slice(factors)?.f_to_device(device)?;
    if dimensions == 2 && dim == 0 { factors.f_unsqueeze(1) } else { Ok(factors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_kept_and_scaled() {
        let weight = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([3, 4]);
        let plan = FoldPlan::matrix(Side::kept([2, 0]).times(|row| row as f32), Side::kept([1, 3]).times(|_| 0.5));
        let folded = fold(&plan, &weight).unwrap();
        assert_eq!(folded, Tensor::from_slice(&[9.0f64, 11.0, 0.0, 0.0]).view([2, 2]));
        let vector = fold(&FoldPlan::vector(Side::kept([1, 2]).times(|_| 3.0)), &weight.get(1)).unwrap();
        assert_eq!(vector, Tensor::from_slice(&[15.0f64, 18.0]));
    }
}
