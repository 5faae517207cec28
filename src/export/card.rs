//! The model card of a written folder: where it comes from and what was done to it.

use super::Error;
use super::held_out::held_out;
use crate::config::{HiddenBasis, RunConfig, Stage};
use crate::hf::{CardShape, ModelCard, ModelConfig};
use crate::model::count::ParameterCount;
use crate::prune::shape;
use crate::run_dir::StepDir;
use crate::train::checkpoint;

/// Provenance of a folder that `stage` writes under `config`, whose `digest` it names; `step` is where the weights of `model`
/// were trained to, if they were.
pub(super) fn card(
    config: &RunConfig,
    digest: &str,
    stage: Stage,
    model: &ModelConfig,
    step: Option<&StepDir>,
) -> Result<ModelCard, Error> {
    let source = config.model.source.as_deref().map(ModelCard::folder_name);
    let target = config.target.as_ref().filter(|_| stage == Stage::Prune);
    let own = card_shape(model);
    let target_shape = target.map(|target| {
        let source = shape::source_shape(model);
        card_shape(&shape::resized(model, &shape::target_shape(&source, target)))
    });
    let stage_name = match (stage, config.prune.method()) {
        (Stage::Pretrain, _) => "training".to_string(),
        (Stage::Lte, _) => "LTE".to_string(),
        (Stage::Prune, method) => match config.hidden_basis() {
            HiddenBasis::Units => format!("pruning ({})", method.name()),
            HiddenBasis::Principal => format!("pruning ({}, principal basis)", method.name()),
        },
    };
    let (steps, tokens) = step.map_or((0, 0), |step| (step.step(), step.manifest().tokens));
    let before = config.model.source.as_deref().map(ModelCard::read).transpose()?.flatten().unwrap_or_default();
    let mut stages = before.stages;
    stages.push((stage_name, steps, tokens));
    let (source, source_shape) = (before.source.or(source), before.source_shape.or(target.map(|_| own)));
    let target_shape = target_shape.unwrap_or(own);
    Ok(ModelCard {
        title: ModelCard::title_of(source.as_deref(), source_shape.as_ref(), &target_shape),
        source,
        source_shape,
        target_shape: Some(target_shape),
        stages,
        domains: step.map(checkpoint::shares_seen).transpose()?.unwrap_or_default(),
        held_out: step.and_then(|step| held_out(step, stage)),
        equivalence: before.equivalence,
        cut: before.cut,
        kept: before.kept,
        config_digest: Some(digest.to_string()),
        versions: vec![
            ("shearling".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            ("libtorch".to_string(), "2.11.0 (tch 0.24)".to_string()),
        ],
    })
}

/// A shape with its parameters.
pub(super) fn card_shape(model: &ModelConfig) -> CardShape {
    CardShape::of(model, Some(ParameterCount::of(model).total() as u64))
}
