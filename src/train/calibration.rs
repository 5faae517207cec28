//! The rows that one-shot scores are measured on: the first that the run would draw, by the mixer's initial proportions.

use super::Error;
use super::loader_config::loader_config;
use super::setup::Setup;
use crate::config::{HiddenBasis, PruneMethod};
use crate::prune::scores::Calibration;
use shearling_domains::{Loader, LoaderConfig};
use tch::Tensor;

/// `prune.calibration_rows` rows for a run of `setup`.
///
/// # Errors
/// Data that cannot be read, or has no row to draw.
pub fn calibration(setup: &Setup) -> Result<Calibration, Error> {
    let config = &setup.config;
    // Weights are scored without data.
    let unread = config.prune.method() == PruneMethod::Magnitude && config.hidden_basis() == HiddenBasis::Units;
    calibration_of(setup, if unread { 1 } else { config.prune.calibration_rows })
}

/// `needed` rows for a run of `setup`.
///
/// # Errors
/// Data that cannot be read, or has no row to draw.
pub fn calibration_of(setup: &Setup, needed: usize) -> Result<Calibration, Error> {
    let config = &setup.config;
    let draws = LoaderConfig { batch_rows: needed, prefetch: 0, ..loader_config(config) };
    let batch = Loader::new(setup.dataset.clone(), draws, &setup.proportions)?.next_batch()?;
    let ids: Vec<i64> = batch.tokens.iter().map(|id| i64::from(*id)).collect();
    let rows = Tensor::f_from_slice(&ids)?.f_view([-1, batch.sequence_length as i64])?.f_to_device(setup.device)?;
    Ok(Calibration { rows, micro_batch: config.train.scoring_batch() as i64, compute: setup.compute_kind() })
}
