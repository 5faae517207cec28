//! One-shot scores: how much a unit matters, measured on the source without training it. The best of each row stay, by the
//! same keep-plan, fold and export as learned masks, so that a comparison differs in the choice of units alone; learned
//! masks may also start from them.
//!
//! ```text
//! magnitude     L2 norm of the weights that go with the unit                         no data
//! activations   size of what the unit computes on calibration rows (Minitron)        forward, one layer in memory
//! taylor        squared gradient of the loss in the unit's gate (Molchanov et al.)    forward and backward
//! layer_loss    loss of the model without the layer, layers taken out one by one      forwards; for layers alone
//! held_out      no score: the loss of the source, which the cut's is told beside      forward, one layer in memory
//! ```
//!
//! Scores of different kinds of unit, and of different rows, are never compared with each other: only their order within
//! a row counts.

mod activations;
mod held_out;
mod layer_loss;
pub mod magnitude;
mod taylor;
pub mod walk;

pub use held_out::held_out_loss;

use super::Error;
use crate::config::{LayerScore, Prune, PruneMethod};
use crate::hf::Checkpoint;
use shearling_masks::{Gates, MaskSpec, UnitKind};
use tch::{Device, Kind, Tensor};

/// What scores are measured on.
#[derive(Debug)]
pub struct Calibration {
    /// Token ids `[N, T]` (int64), on the device of the work.
    pub rows: Tensor,
    /// Rows per forward.
    pub micro_batch: i64,
    /// Dtype of forward and backward.
    pub compute: Kind,
}

impl Calibration {
    /// The same rows, each in a forward of its own.
    fn row_by_row(&self) -> Calibration {
        Calibration { rows: self.rows.shallow_clone(), micro_batch: 1, compute: self.compute }
    }
}

/// How units are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// The score of every kind of unit.
    pub method: PruneMethod,
    /// The score of layers under `activations`.
    pub layers: LayerScore,
}

impl Scoring {
    /// As a configuration asks.
    pub fn of(table: &Prune) -> Scoring {
        Scoring { method: table.method(), layers: table.layer_score }
    }
}

/// Told each finished part of the work: what, how many, of how many.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// Scores of every unit of the masks in `spec`: one fp32 tensor per mask in the place of its gate, on `device`. Higher
/// is more important.
///
/// # Errors
/// Weights that are missing or not finite; a score that is not finite, which is said of the unit; libtorch's.
pub fn scores(
    scoring: Scoring,
    source: &Checkpoint,
    spec: &MaskSpec,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Gates, Error> {
    let mut scores = match scoring.method {
        PruneMethod::Magnitude => return magnitude::scores(source, spec, device),
        PruneMethod::Taylor => taylor::scores(source, spec, calibration, device, progress)?,
        PruneMethod::Activations | PruneMethod::Learned => {
            activations::scores(source, spec, calibration, device, progress)?
        }
    };
    if let (LayerScore::Loss, Some(layers)) = (scoring.layers, spec.get(UnitKind::Layer)) {
        scores.layer = Some(layer_loss::scores(source, layers.target, calibration, device, progress)?);
    }
    Ok(scores)
}

/// Finite weights of a checkpoint by name, in the dtype of the computation.
fn weights<'a>(
    source: &'a Checkpoint,
    calibration: &Calibration,
    device: Device,
) -> impl FnMut(&str) -> Result<Tensor, Error> + 'a {
    let compute = calibration.compute;
    move |name| Ok(source.finite_tensor(name, compute, device)?)
}

/// `rows [N, T]` in parts of a micro-batch.
fn micro_batches(calibration: &Calibration) -> Result<Vec<Tensor>, Error> {
    let count = calibration.rows.size()[0];
    let step = calibration.micro_batch.max(1);
    let part = |start: i64| calibration.rows.f_narrow(0, start, step.min(count - start));
    Ok((0..count).step_by(step as usize).map(part).collect::<Result<_, _>>()?)
}
