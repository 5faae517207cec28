//! One-shot scores: those of transformers on the fixtures, gradients by finite differences, layers taken out by hand.

use super::support::{fixture, load, tensors, trained_loss};
use shearling::config::{LayerScore, PruneMethod, Target};
use shearling::hf::Checkpoint;
use shearling::prune::scores::{Calibration, Scoring, held_out_loss, scores};
use shearling::prune::shape;
use shearling_masks::{Gates, KeepPlan, MaskSpec, UnitKind};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

struct Fixture {
    source: Checkpoint,
    spec: MaskSpec,
    expected: BTreeMap<String, Tensor>,
    rows: Tensor,
}

impl Fixture {
    fn open(name: &str) -> Fixture {
        let folder = fixture(&format!("hf/{name}"));
        let source = Checkpoint::open(&folder).unwrap();
        let kv = source.model().num_key_value_heads;
        let target = Target {
            hidden_size: Some(20),
            intermediate_size: Some(30),
            num_hidden_layers: Some(2),
            num_attention_heads: Some(kv / 2),
            num_key_value_heads: Some(kv / 2),
            head_dim: None,
        };
        let spec = shape::mask_spec(source.model(), &target).unwrap();
        let rows = tensors(&folder.join("expected.safetensors")).remove("input_ids").unwrap().to_kind(Kind::Int64);
        Fixture { source, spec, expected: tensors(&folder.join("scores.safetensors")), rows }
    }

    fn calibration(&self, micro_batch: i64) -> Calibration {
        Calibration { rows: self.rows.shallow_clone(), micro_batch, compute: Kind::Float }
    }

    fn scores(&self, method: PruneMethod, layers: LayerScore, micro_batch: i64) -> Gates {
        let scoring = Scoring { method, layers };
        scores(scoring, &self.source, &self.spec, &self.calibration(micro_batch), Device::Cpu, &mut |_, _, _| ())
            .unwrap()
    }
}

/// Largest difference, relative to the largest expected score.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let scale = expected.abs().max().double_value(&[]);
    (found - expected).abs().max().double_value(&[]) / scale
}

#[test]
fn activations_and_gradients_score_as_computed_with_transformers() {
    for name in ["llama3-gqa-tied", "llama2-mha"] {
        let fixture = Fixture::open(name);
        for (prefix, method) in [("activations", PruneMethod::Activations), ("taylor", PruneMethod::Taylor)] {
            for micro_batch in [1, 2] {
                let found = fixture.scores(method, LayerScore::Cosine, micro_batch);
                for module in fixture.spec.modules() {
                    let unit = module.module;
                    let expected = &fixture.expected[&format!("{prefix}.{unit}")];
                    let apart = difference(found.get(unit).unwrap(), expected);
                    assert!(apart < 2e-5, "{name} {prefix} {unit}: {apart}");
                }
            }
        }
    }
}

#[test]
fn the_loss_of_the_source_is_the_loss_of_its_whole_model() {
    for name in ["llama3-gqa-tied", "llama2-mha"] {
        let fixture = Fixture::open(name);
        let expected = trained_loss(&load(fixture.source.dir()), &fixture.rows, &Gates::none());
        for micro_batch in [1, 2, 8] {
            let rows = fixture.calibration(micro_batch);
            let found = held_out_loss(&fixture.source, &rows, Device::Cpu, &mut |_, _, _| ()).unwrap();
            assert!((found - expected).abs() < 1e-5 * expected, "{name}: {found} {expected}");
        }
    }
}

#[test]
fn scores_are_made_for_pruned_kinds_of_unit_alone() {
    let mut fixture = Fixture::open("llama3-gqa-tied");
    let target = Target { intermediate_size: Some(16), ..Target::default() };
    fixture.spec = shape::mask_spec(fixture.source.model(), &target).unwrap();
    for method in [PruneMethod::Activations, PruneMethod::Taylor, PruneMethod::Magnitude] {
        let found = fixture.scores(method, LayerScore::Loss, 2);
        let made: Vec<UnitKind> = UnitKind::ALL.into_iter().filter(|unit| found.get(*unit).is_some()).collect();
        assert_eq!(made, [UnitKind::Intermediate], "{method:?}");
    }
}

#[test]
fn a_gradient_score_is_the_squared_slope_of_the_loss_in_the_gate() {
    let fixture = Fixture::open("llama3-gqa-tied");
    let found = fixture.scores(PruneMethod::Taylor, LayerScore::Cosine, 2);
    let loaded = load(fixture.source.dir());
    let ones = || {
        let mut gates = Gates::none();
        for module in fixture.spec.modules() {
            gates.set(module.module, Some(Tensor::ones(&module.dims()[..], (Kind::Float, Device::Cpu))));
        }
        gates
    };
    let step = 2e-2;
    for module in fixture.spec.modules() {
        let unit = module.units() / 2;
        let loss = |row: &Tensor, change: f64| {
            let gates = ones();
            let _ = gates.get(module.module).unwrap().view([-1]).get(unit).g_add_scalar_(change);
            trained_loss(&loaded, row, &gates)
        };
        let slope = |row: i64| {
            let row = fixture.rows.narrow(0, row, 1);
            (loss(&row, step) - loss(&row, -step)) / (2.0 * step)
        };
        let expected: f64 = (0..fixture.rows.size()[0]).map(|row| slope(row).powi(2)).sum();
        let score = found.get(module.module).unwrap().view([-1]).double_value(&[unit]);
        assert!((score - expected).abs() < 0.03 * expected + 1e-9, "{}: {score} {expected}", module.module);
    }
}

#[test]
fn the_layer_whose_absence_costs_least_goes_first() {
    for name in ["llama3-gqa-tied", "llama2-mha"] {
        let fixture = Fixture::open(name);
        let layers = fixture.scores(PruneMethod::Activations, LayerScore::Loss, 1).layer.unwrap();
        let layers: Vec<f32> = layers.try_into().unwrap();
        // One of three goes; the other two are ordered by what leaving next would cost.
        let cost: Vec<f32> = fixture.expected["loss_without"].shallow_clone().try_into().unwrap();
        let first = (0..3).min_by(|a, b| cost[*a].total_cmp(&cost[*b])).unwrap();
        assert_eq!(layers[first], 0.0, "{cost:?} {layers:?}");
        let mut sorted = layers.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, [0.0, 1.0, 2.0]);

        let loaded = load(fixture.source.dir());
        let left: Vec<usize> = (0..3).filter(|layer| *layer != first).collect();
        let without = |gone: usize| {
            let open: Vec<f32> = (0..3).map(|layer| f32::from(u8::from(layer != first && layer != gone))).collect();
            trained_loss(&loaded, &fixture.rows, &Gates { layer: Some(Tensor::from_slice(&open)), ..Gates::none() })
        };
        let cheaper = if without(left[0]) < without(left[1]) { left[0] } else { left[1] };
        assert_eq!(layers[cheaper], 1.0);
    }
}

#[test]
fn a_one_shot_cut_keeps_the_best_of_each_row() {
    let fixture = Fixture::open("llama2-mha");
    let scores = fixture.scores(PruneMethod::Activations, LayerScore::Cosine, 2);
    let (plan, gates) = KeepPlan::from_scores(&fixture.spec, &scores).unwrap();
    let best = |scores: &Tensor, count: i64| {
        let mut best = Vec::<i64>::try_from(scores.topk(count, 0, true, true).1).unwrap();
        best.sort_unstable();
        best
    };
    assert_eq!(plan.hidden, best(&fixture.expected["activations.hidden"], 20));
    for layer in &plan.layers {
        let row = fixture.expected["activations.intermediate"].get(layer.source_index);
        assert_eq!(layer.intermediate, best(&row, 30));
    }
    let open: Vec<f32> = gates.hidden.unwrap().try_into().unwrap();
    assert!(open.iter().all(|gate| *gate == 0.0 || *gate == 1.0));
}
