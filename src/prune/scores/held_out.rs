//! What the source itself loses on some rows, one layer of weights in memory at a time: the number that a cut at once is
//! told beside.

use super::super::Error;
use super::walk::{Visitor, walk};
use super::{Calibration, Progress, micro_batches, weights};
use crate::hf::Checkpoint;
use crate::model::loss::targets_per_row;
use crate::model::probe::Site;
use crate::model::{Embedding, Head, ModelGates};
use tch::{Device, Kind, TchError, Tensor};

/// Looks at nothing inside.
struct Unseen;

impl Visitor for Unseen {
    fn inside(&mut self, _layer: i64, _site: Site, _seen: &Tensor) -> Result<(), TchError> {
        Ok(())
    }
}

/// Mean cross entropy of `source` on `rows`, nats per target token.
///
/// # Errors
/// Weights that are missing or not finite; libtorch's.
pub fn held_out_loss(
    source: &Checkpoint,
    rows: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<f64, Error> {
    let streams = walk(source, rows, device, &mut Unseen, "loss of the source, layer", progress)?;
    let _no_grad = tch::no_grad_guard();
    let (model, mut weight) = (source.model(), weights(source, rows, device));
    let embedding = Embedding::build(model, &mut weight)?;
    let head = Head::build(model, Some(&embedding), &mut weight)?;
    let (mut sum, mut targets) = (0.0, 0.0);
    for (x, ids) in streams.iter().zip(micro_batches(rows)?) {
        let losses = head.losses(model, x, &ids, 1.0, &ModelGates::none())?.rows()?;
        sum += losses.f_sum(Kind::Double)?.f_double_value(&[])?;
        let [count, tokens] = [0, 1].map(|dim| ids.size()[dim] as usize);
        targets += (count * targets_per_row(tokens)) as f64;
    }
    source.release();
    Ok(sum / targets)
}
