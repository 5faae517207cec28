//! A basis for the residual stream in which little is lost by dropping dimensions: its principal components.
//!
//! The units of the residual stream are the only ones that a model does not choose: RMSNorm without its weight commutes with
//! any rotation Q, so that
//!
//! ```text
//! E ← E·Q       W_q,k,v,gate,up ← W·diag(w/c)·Q       W_o,down ← Qᵀ·W       head ← head·diag(w/c)·Q       w ← c = rms(w)
//! ```
//!
//! is the same function (Ashkboos et al. 2024, SliceGPT, arXiv 2401.15024). SliceGPT turns every block by its own Q and
//! pays with a matrix on every residual path; here one Q serves all blocks, so that the cut is a plain model of its
//! architecture. Dimensions are then kept by the energy they hold, and the mask, the fold and the proof are those of any
//! other cut of this rotated source.
//!
//! ```text
//! source + calibration rows ─► covariance (one layer in memory) ─► Basis ─► rotate (streamed) ─► rotated source ─► cut
//! ```

mod basis;
mod covariance;
mod rotate;

pub use basis::Basis;
pub use rotate::{rotate, rotated_weight};

use super::Error;
use super::scores::{Calibration, Progress};
use crate::hf::Checkpoint;
use tch::{Device, Kind};

/// The principal basis of `source`, measured on `calibration`.
///
/// # Errors
/// Weights that are missing or not finite; a covariance that is not finite; libtorch's.
pub fn basis(
    source: &Checkpoint,
    calibration: &Calibration,
    device: Device,
    progress: &mut Progress,
) -> Result<Basis, Error> {
    let covariance = covariance::covariance(source, calibration, device, progress)?;
    let tied = source.model().tie_word_embeddings;
    let norm = tied.then(|| source.finite_tensor(&crate::model::Role::FinalNorm.name(None), Kind::Double, device));
    Basis::new(&covariance, norm.transpose()?.as_ref())
}
