//! Scores by the loss's own gradient (Molchanov et al. 2019, arXiv 1906.10771): the first-order estimate of what closing a unit
//! does to the loss, squared and summed over parts of the calibration rows,
//!
//! ```text
//! I_u = Σ_rows ( g_u · ∂L_row/∂g_u )²     at g = 1
//! ```
//!
//! for every kind of unit at once, through the gates that learned masks use. The weights are frozen: what is held is the
//! model in the dtype of the computation and the activations of one row.

use super::super::Error;
use super::{Calibration, Progress, micro_batches, weights};
use crate::hf::Checkpoint;
use crate::model::{Decoder, ForwardContext, ModelGates, loss};
use shearling_masks::{Gates, MaskSpec};
use tch::{Device, Kind, Tensor};

/// Scores of every unit of the masks in `spec`.
pub(super) fn scores(
    source: &Checkpoint,
    spec: &MaskSpec,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Gates, Error> {
    let (model, tokens) = (source.model(), calibration.rows.size()[1]);
    let decoder = Decoder::build(model, &mut weights(source, calibration, device))?.with_recomputation(1);
    source.release();
    let context = ForwardContext::new(model, tokens, device)?;
    let mut sums = Gates::none();
    // Row by row: the square of a mean over rows would let gradients of opposite signs cancel.
    let rows = micro_batches(&calibration.row_by_row())?;
    for (index, ids) in rows.iter().enumerate() {
        progress("scoring row", index, rows.len());
        let open = open_gates(spec, device)?;
        let (gates, links) = ModelGates::leaves(model, &open)?;
        let x = decoder.residual_stream(ids, &context, &gates)?;
        let scale = 1.0 / loss::targets_per_row(tokens as usize).max(1) as f64;
        decoder.losses(&x, ids, scale, &gates)?.objective.f_backward()?;
        links.backward()?;
        add_squares(&mut sums, spec, &open)?;
    }
    Ok(sums)
}

/// Gates of 1 that collect gradients.
fn open_gates(spec: &MaskSpec, device: Device) -> Result<Gates, Error> {
    let mut gates = Gates::none();
    for module in spec.modules() {
        let ones = Tensor::f_ones(&module.dims()[..], (Kind::Float, device))?;
        gates.set(module.module, Some(ones.f_set_requires_grad(true)?));
    }
    Ok(gates)
}

fn add_squares(sums: &mut Gates, spec: &MaskSpec, gates: &Gates) -> Result<(), Error> {
    let _no_grad = tch::no_grad_guard();
    for module in spec.modules() {
        let Some(gate) = gates.get(module.module) else { continue };
        let gradient = gate.grad();
        let squares = if gradient.defined() { gradient.f_square()? } else { gate.f_zeros_like()? };
        let sum = match sums.get(module.module) {
            Some(sum) => sum.f_add(&squares)?,
            None => squares,
        };
        sums.set(module.module, Some(sum));
    }
    Ok(())
}
