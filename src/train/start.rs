//! What a run begins with: the weights of its source, in its own basis or the principal one, masks that know nothing or
//! start from scores. Under `[lte]` it is `start_routed`. A resumed run takes both from its checkpoint.

use super::Error;
use super::calibration::calibration;
use super::setup::Setup;
use super::weight_stream::{WeightStream, each_parameter, given, stored_weights};
use super::weights::stored_kind;
use crate::config::{HiddenBasis, MaskInit, PruneMethod};
use crate::hf::Checkpoint;
use crate::lte::Experts;
use crate::model::{Parameter, init};
use crate::prune::principal::{Basis, basis, rotated_weight};
use crate::prune::scores::{Calibration, Progress, Scoring, scores};
use shearling_masks::{MaskSet, MaskSpec, UnitKind};
use tch::Kind;

/// A run at step 0.
pub(super) struct Start<'a> {
    /// fp32 masters, or frozen weights, on the run's device.
    pub(super) weights: WeightStream<'a>,
    /// Masks of a prune run.
    pub(super) masks: Option<MaskSet>,
    /// Grouping and routers of an `lte` run.
    pub(super) experts: Option<Experts>,
}

/// Reads the source and measures what the configuration asks for.
pub(super) fn start<'a>(setup: &'a Setup, progress: &mut Progress) -> Result<Start<'a>, Error> {
    let rows = calibration_rows(setup)?;
    let basis = principal_basis(setup, rows.as_ref(), progress)?;
    let kind = stored_kind(&setup.config, setup.compute_kind());
    let masks = setup.spec.as_ref().map(|spec| initial_masks(setup, spec, rows.as_ref(), basis.as_ref(), progress));
    let masks = masks.transpose()?;
    let weights = match (&setup.source, basis) {
        (None, _) => random_weights(setup)?,
        (Some(source), None) => stored_weights(source, &setup.model, kind, setup.device),
        (Some(source), Some(basis)) => rotated_weights(source, basis, setup, kind),
    };
    Ok(Start { weights, masks, experts: None })
}

/// Masks at step 0, in the source's own basis.
pub(super) fn masks_alone(setup: &Setup) -> Result<Option<MaskSet>, Error> {
    let rows = calibration_rows(setup)?;
    let masks = |spec| initial_masks(setup, spec, rows.as_ref(), None, &mut |_, _, _| ());
    setup.spec.as_ref().map(masks).transpose()
}

/// What basis and scores are measured on, if either is.
fn calibration_rows(setup: &Setup) -> Result<Option<Calibration>, Error> {
    let config = &setup.config;
    let measured = config.hidden_basis() == HiddenBasis::Principal || config.masks.start() == MaskInit::Scores;
    (setup.spec.is_some() && measured).then(|| calibration(setup)).transpose()
}

/// The basis that the run prunes in, if it is another than the source's own.
fn principal_basis(setup: &Setup, rows: Option<&Calibration>, progress: &mut Progress) -> Result<Option<Basis>, Error> {
    let prunes_hidden = setup.spec.as_ref().is_some_and(|spec| spec.get(UnitKind::Hidden).is_some());
    match (&setup.source, rows, setup.config.hidden_basis()) {
        (Some(source), Some(rows), HiddenBasis::Principal) if prunes_hidden => {
            Ok(Some(basis(source, rows, setup.device, progress)?))
        }
        _ => Ok(None),
    }
}

fn initial_masks(
    setup: &Setup,
    spec: &MaskSpec,
    rows: Option<&Calibration>,
    basis: Option<&Basis>,
    progress: &mut Progress,
) -> Result<MaskSet, Error> {
    let (table, steps) = (&setup.config.masks, setup.config.train.steps);
    let (gating, warmup) = (table.gating(steps), table.target_warmup(steps));
    let (MaskInit::Scores, Some(source), Some(rows)) = (table.start(), &setup.source, rows) else {
        return Ok(MaskSet::new(spec.clone(), gating, warmup, setup.config.run.seed, setup.device)?);
    };
    let scoring = Scoring { method: PruneMethod::Activations, layers: setup.config.prune.layer_score };
    let mut scores = scores(scoring, source, spec, rows, setup.device, progress)?;
    if let Some(basis) = basis {
        scores.hidden = Some(basis.energy.shallow_clone());
    }
    Ok(MaskSet::from_scores(spec.clone(), gating, warmup, &scores, table.init_strength, setup.device)?)
}

fn random_weights(setup: &Setup) -> Result<WeightStream<'_>, Error> {
    let weights = init::random_weights(&setup.model, setup.config.run.seed)?;
    Ok(given(weights.into_iter().map(|(name, weight)| Ok((name, weight.f_to_device(setup.device)?)))))
}

/// The same in the principal basis.
fn rotated_weights<'a>(source: &'a Checkpoint, basis: Basis, setup: &'a Setup, kind: Kind) -> WeightStream<'a> {
    let rotate = move |p: Parameter| -> Result<_, Error> {
        let weight = rotated_weight(source, &basis, &p, setup.device)?.f_to_kind(kind)?;
        Ok((p.name.clone(), weight))
    };
    each_parameter(source, &setup.model, rotate)
}
