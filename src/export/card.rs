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
        // What the cut before this one did is not what this one does.
        cut: before.cut.filter(|_| stage != Stage::Prune),
        kept: before.kept.filter(|_| stage != Stage::Prune),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::hf::{CutLoss, KeptLayer, RawConfig};
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn what_a_cut_did_goes_with_the_model_until_the_next_cut() {
        let folder = tempfile::tempdir().unwrap();
        let cut = CutLoss { rows: 4, source: 2.0, cut: 5.0 };
        let kept = vec![KeptLayer { source_layer: 3, heads: vec![0, 2] }];
        let before = ModelCard { cut: Some(cut), kept: Some(kept.clone()), ..ModelCard::default() };
        before.write(folder.path()).unwrap();
        let text =
            format!("[run]\ndirectory = 'a'\n[model]\nsource = '{}'\n[data]\npath = 'd'\n", folder.path().display());
        let config = config::parse(&text, "test", &[]).unwrap();
        let of = |stage: Stage| card(&config, "digest", stage, &model(), None).unwrap();
        let trained = of(Stage::Pretrain);
        assert_eq!((trained.cut, trained.kept), (Some(cut), Some(kept)));
        let again = of(Stage::Prune);
        assert_eq!((again.cut, again.kept), (None, None));
    }

    fn model() -> ModelConfig {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        RawConfig::from_raw(raw, Path::new("llama2-7b.json")).model().unwrap()
    }
}
