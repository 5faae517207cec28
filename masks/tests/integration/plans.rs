//! Keep-plans from gates and from scores.

use crate::{gqa_masks, gqa_spec, set_log_alpha, values};
use shearling_masks::{Error, Gates, KeepPlan, MaskSpec, Shape, UnitKind};
use tch::{Device, Kind, Tensor};

/// Scores that are different for every unit and not in the order of indices.
fn scores(spec: &MaskSpec) -> Gates {
    let mut scores = Gates::none();
    for module in spec.modules() {
        let values: Vec<f32> = (0..module.units()).map(|i| ((i * 37 + 11) % 101) as f32 - 50.0).collect();
        scores.set(module.module, Some(Tensor::from_slice(&values).view(&module.dims()[..])));
    }
    scores
}

fn open(gates: &Gates, module: UnitKind, row: i64, size: i64) -> Vec<i64> {
    let values = values(gates.get(module).unwrap());
    (0..size).filter(|index| values[(row * size + index) as usize] != 0.0).collect()
}

#[test]
fn a_plan_lists_the_open_units_of_the_kept_layers() {
    let masks = gqa_masks();
    let scores = scores(masks.spec());
    for module in masks.spec().modules() {
        set_log_alpha(&masks, module.module, &(scores.get(module.module).unwrap() / 20.0));
    }
    let gates = masks.target_gates().unwrap();
    let plan = KeepPlan::from_gates(masks.spec(), &gates).unwrap();
    assert_eq!(plan.hidden, open(&gates, UnitKind::Hidden, 0, 16));
    assert_eq!(plan.hidden.len(), 10);
    let layers: Vec<i64> = plan.layers.iter().map(|layer| layer.source_index).collect();
    assert_eq!(layers, open(&gates, UnitKind::Layer, 0, 4));
    assert_eq!(layers.len(), 3);
    let head_gates = gates.all_heads(12, 4).unwrap().unwrap();
    for layer in &plan.layers {
        let row = layer.source_index;
        assert_eq!(layer.kv_heads, open(&gates, UnitKind::KvHead, row, 4));
        assert_eq!(layer.query_slots, open(&gates, UnitKind::QueryHead, row, 3));
        assert_eq!(layer.intermediate, open(&gates, UnitKind::Intermediate, row, 24));
        let heads = layer.query_heads(3);
        assert_eq!(heads.len(), 6);
        let gate = values(&head_gates.get(row));
        assert_eq!(heads, (0..12).filter(|&head| gate[head as usize] != 0.0).collect::<Vec<i64>>());
    }
}

#[test]
fn dimensions_without_a_mask_are_kept_whole() {
    let source = gqa_spec().source().clone();
    let spec = MaskSpec::new(&source, &Shape { num_hidden_layers: 2, ..source.clone() }).unwrap();
    let gates = Gates { layer: Some(Tensor::from_slice(&[0f32, 0.3, 0.0, 1.0])), ..Gates::none() };
    let plan = KeepPlan::from_gates(&spec, &gates).unwrap();
    assert_eq!(plan.hidden, (0..16).collect::<Vec<i64>>());
    assert_eq!(plan.layers.iter().map(|layer| layer.source_index).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(plan.layers[1].query_heads(3), (0..12).collect::<Vec<i64>>());
    assert_eq!(plan.layers[1].intermediate.len(), 24);
}

#[test]
fn a_one_shot_cut_keeps_the_highest_scores() {
    let spec = gqa_spec();
    let scores = scores(&spec);
    let (plan, gates) = KeepPlan::from_scores(&spec, &scores).unwrap();
    assert_eq!(plan, KeepPlan::from_gates(&spec, &gates).unwrap());
    for module in spec.modules() {
        let (gate, score) = (values(gates.get(module.module).unwrap()), values(scores.get(module.module).unwrap()));
        for (gate, score) in gate.chunks(module.size as usize).zip(score.chunks(module.size as usize)) {
            assert!(gate.iter().all(|z| *z == 0.0 || *z == 1.0));
            assert_eq!(gate.iter().sum::<f32>() as i64, module.target);
            let of = |wanted: f32| gate.iter().zip(score).filter(move |(z, _)| **z == wanted).map(|(_, s)| *s);
            assert!(of(1.0).fold(f32::INFINITY, f32::min) > of(0.0).fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

#[test]
fn equal_scores_keep_the_lower_indices() {
    let spec = gqa_spec();
    let mut scores = Gates::none();
    for module in spec.modules() {
        scores.set(module.module, Some(Tensor::zeros(&module.dims()[..], (Kind::Float, Device::Cpu))));
    }
    let (plan, _) = KeepPlan::from_scores(&spec, &scores).unwrap();
    assert_eq!(plan.hidden, (0..10).collect::<Vec<i64>>());
    assert_eq!(plan.layers[2].kv_heads, [0, 1, 2]);
}

#[test]
fn gates_off_the_target_are_refused_with_the_row() {
    let spec = gqa_spec();
    let (_, gates) = KeepPlan::from_scores(&spec, &scores(&spec)).unwrap();
    let kept = KeepPlan::from_gates(&spec, &gates).unwrap().layers[1].source_index;
    let mut one_more = gates.detach().unwrap();
    one_more.kv_head = Some(Tensor::ones([4, 4], (Kind::Float, Device::Cpu)));
    let message = KeepPlan::from_gates(&spec, &one_more).unwrap_err().to_string();
    assert!(message.contains("kv_head keeps 4 units, the target is 3"), "{message}");
    let mut poisoned = gates.detach().unwrap();
    let _ = poisoned.query_head.as_mut().unwrap().get(kept).fill_(f64::NAN);
    assert!(
        KeepPlan::from_gates(&spec, &poisoned).unwrap_err().to_string().contains("query_head 0` has the value NaN")
    );
}

#[test]
fn scores_that_are_missing_misshapen_or_not_finite_are_refused() {
    let spec = gqa_spec();
    let refusal = |change: fn(&mut Gates)| {
        let mut scores = scores(&spec);
        change(&mut scores);
        KeepPlan::from_scores(&spec, &scores).unwrap_err()
    };
    assert!(matches!(refusal(|s| s.hidden = None), Error::MissingModule { module: UnitKind::Hidden, .. }));
    assert!(matches!(refusal(|s| s.layer = Some(Tensor::from(1f32))), Error::ModuleShape { .. }));
    assert!(matches!(refusal(|s| _ = s.layer.as_mut().unwrap().fill_(f64::INFINITY)), Error::NonFinite { .. }));
}

#[test]
fn plans_survive_json_and_damaged_ones_are_refused() {
    let spec = gqa_spec();
    let (plan, _) = KeepPlan::from_scores(&spec, &scores(&spec)).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(plan, serde_json::from_str(&text).unwrap());
    assert!(plan.check(&spec).is_ok());
    let refusal = |change: fn(&mut KeepPlan)| {
        let mut damaged = plan.clone();
        change(&mut damaged);
        damaged.check(&spec).unwrap_err()
    };
    assert!(matches!(refusal(|p| p.hidden.swap(0, 1)), Error::PlanIndex { .. }));
    assert!(matches!(refusal(|p| p.hidden[0] = -1), Error::PlanIndex { index: -1, .. }));
    assert!(matches!(refusal(|p| p.hidden[9] = 16), Error::PlanIndex { index: 16, size: 16, .. }));
    assert!(matches!(refusal(|p| p.layers[1].source_index = p.layers[0].source_index), Error::PlanIndex { .. }));
    assert!(matches!(refusal(|p| _ = p.layers.pop()), Error::SurvivorCount { expected: 3, found: 2, .. }));
    assert!(matches!(refusal(|p| _ = p.layers[0].intermediate.pop()), Error::SurvivorCount { .. }));
    assert!(matches!(refusal(|p| p.layers[0].query_slots[1] = 3), Error::PlanIndex { index: 3, .. }));
}
