//! Statistics and determinism of sampled gates, and the behaviour of masks without a reference.

use crate::{gqa_masks, gqa_spec, set_log_alpha, values};
use shearling_masks::{Gates, HardConcrete, MaskSet, MaskSpec, NoiseKey, Shape, UnitKind};
use tch::{Device, Kind, Tensor};

const KEY: NoiseKey = NoiseKey { seed: 11, step: 2, micro_batch: 0 };

/// One hidden mask of 4,096 units.
fn wide_masks() -> MaskSet {
    let source = Shape {
        hidden_size: 4096,
        intermediate_size: 1,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 1,
    };
    let target = Shape { hidden_size: 2048, ..source.clone() };
    MaskSet::new(MaskSpec::new(&source, &target).unwrap(), HardConcrete::llm_shearing(), 0, 0, Device::Cpu).unwrap()
}

#[test]
fn frequencies_of_zero_and_one_and_the_mean_agree_with_the_distribution() {
    // a, P(z=0), P(z=1), E[z] of the distribution.
    let table = [
        [-4.60517, 0.95287, 0.00202, 0.01312],
        [-2.0, 0.59902, 0.02663, 0.14268],
        [-1.59860, 0.5, 0.03927, 0.19431],
        [0.0, 0.16818, 0.16818, 0.5],
        [2.0, 0.02663, 0.59902, 0.85732],
        [4.60517, 0.00202, 0.95287, 0.98688],
    ];
    let masks = wide_masks();
    for [log_alpha, zero, one, mean] in table {
        set_log_alpha(&masks, UnitKind::Hidden, &Tensor::full([4096], log_alpha, (Kind::Float, Device::Cpu)));
        let draws: Vec<f32> = (0..50)
            .flat_map(|step| values(masks.sample(&NoiseKey { step, ..KEY }).unwrap().hidden.as_ref().unwrap()))
            .collect();
        let share = |wanted: f32| draws.iter().filter(|z| **z == wanted).count() as f64 / draws.len() as f64;
        let found = [share(0.0), share(1.0), draws.iter().map(|z| f64::from(*z)).sum::<f64>() / draws.len() as f64];
        for (found, expected) in found.into_iter().zip([zero, one, mean]) {
            // 204,800 draws: a standard deviation is at most 0.0011.
            assert!((found - expected).abs() < 0.005, "a = {log_alpha}: {found} {expected}");
        }
        assert!(draws.iter().all(|z| (0.0..=1.0).contains(z)));
    }
}

fn bits(gates: &Gates) -> Vec<Vec<u32>> {
    let of = |module| gates.get(module).map_or(Vec::new(), |gate| values(gate).iter().map(|z| z.to_bits()).collect());
    UnitKind::ALL.map(of).to_vec()
}

#[test]
fn the_same_key_gives_the_same_gates_and_another_key_others() {
    let masks = gqa_masks();
    for module in masks.spec().modules() {
        set_log_alpha(&masks, module.module, &Tensor::zeros(&module.dims()[..], (Kind::Float, Device::Cpu)));
    }
    let base = bits(&masks.sample(&KEY).unwrap());
    assert_eq!(base, bits(&masks.sample(&KEY).unwrap()));
    for key in [NoiseKey { seed: 12, ..KEY }, NoiseKey { step: 3, ..KEY }, NoiseKey { micro_batch: 1, ..KEY }] {
        let other = bits(&masks.sample(&key).unwrap());
        assert!(base.iter().zip(&other).all(|(a, b)| a != b), "{key:?}");
    }
}

#[test]
fn gates_have_the_shapes_of_the_spec_and_a_graph_to_their_leaves() {
    let masks = gqa_masks();
    let gates = masks.sample(&KEY).unwrap();
    let mut sum = Tensor::from(0f32);
    for module in masks.spec().modules() {
        let gate = gates.get(module.module).unwrap();
        assert_eq!((gate.size(), gate.kind()), (module.dims(), Kind::Float));
        sum += gate.sum(Kind::Float);
    }
    sum.backward();
    for (name, leaf) in masks.log_alpha_parameters() {
        assert!(leaf.is_leaf() && leaf.grad().defined(), "{name}");
    }
}

#[test]
fn noise_of_another_shape_is_refused() {
    let masks = gqa_masks();
    let mut noise = masks.sample(&KEY).unwrap();
    noise.layer = None;
    assert!(masks.gates_for_uniform(&noise).unwrap_err().to_string().contains("`layer`"));
    noise.layer = Some(Tensor::ones([5], (Kind::Float, Device::Cpu)));
    assert!(masks.gates_for_uniform(&noise).unwrap_err().to_string().contains("[5]"));
}

#[test]
fn the_original_constants_start_every_unit_at_the_clamp_and_wider_ones_keep_the_noise() {
    let start = |constants: HardConcrete, seed| {
        let masks = MaskSet::new(gqa_spec(), constants, 0, seed, Device::Cpu).unwrap();
        masks.log_alpha_parameters().iter().flat_map(|(_, leaf)| values(leaf)).collect::<Vec<f32>>()
    };
    let clamped = start(HardConcrete::llm_shearing(), 1);
    assert!(clamped.iter().all(|a| *a == 100f32.ln()));
    let wide = HardConcrete { clamp_high: 6.0, ..HardConcrete::llm_shearing() };
    let free = start(wide.clone(), 1);
    let mean = free.iter().sum::<f32>() / free.len() as f32;
    assert!((mean - 5.0).abs() < 0.005 && free.iter().any(|a| *a != free[0]));
    assert_eq!(free, start(wide.clone(), 1));
    assert_ne!(free, start(wide, 2));
}

#[test]
fn clamping_acts_on_the_leaves_in_place() {
    let mut masks = gqa_masks();
    set_log_alpha(&masks, UnitKind::Layer, &Tensor::from_slice(&[-300f32, -1.0, 2.0, 600.0]));
    let clones = masks.log_alpha_parameters();
    masks.clamp().unwrap();
    assert_eq!(values(&clones[0].1), [0.01f32.ln(), -1.0, 2.0, 100f32.ln()]);
    assert!(clones[0].1.requires_grad() && clones[0].1.is_leaf());
}

#[test]
fn ties_keep_the_lower_index_and_kept_units_are_never_zero() {
    let masks = gqa_masks();
    let gates = masks.target_gates().unwrap();
    for module in masks.spec().modules() {
        for row in values(gates.get(module.module).unwrap()).chunks(module.size as usize) {
            let kept: Vec<bool> = row.iter().map(|z| *z > 0.0).collect();
            assert!((0..module.size).all(|index| kept[index as usize] == (index < module.target)), "{row:?}");
        }
    }
    set_log_alpha(&masks, UnitKind::Layer, &Tensor::from_slice(&[-1e9f32, 1.0, -2e9, -1e9]));
    let layer = values(&masks.target_gates().unwrap().layer.unwrap());
    assert!(layer[0] > 0.0 && layer[1] > 0.5 && layer[2] == 0.0 && layer[3] > 0.0, "{layer:?}");
}

#[test]
fn expected_gates_follow_the_scores_and_never_close_all_of_hidden() {
    let masks = gqa_masks();
    let open = masks.expected_gates().unwrap();
    assert!(values(open.hidden.as_ref().unwrap()).iter().all(|z| *z > 0.99), "nothing is closed at the start");
    for module in [UnitKind::Hidden, UnitKind::Layer] {
        let size = masks.spec().get(module).unwrap().size;
        set_log_alpha(&masks, module, &Tensor::full([size], -20.0, (Kind::Float, Device::Cpu)));
    }
    let closed = masks.expected_gates().unwrap();
    assert_eq!(values(closed.hidden.as_ref().unwrap()).iter().filter(|z| **z > 0.0).count(), 1);
    assert!(values(closed.layer.as_ref().unwrap()).iter().all(|z| *z == 0.0));
}

#[test]
fn log_odds_that_are_not_finite_are_named() {
    let masks = gqa_masks();
    let mut kv_head = vec![0f32; 16];
    kv_head[3 * 4 + 1] = f32::NAN;
    set_log_alpha(&masks, UnitKind::KvHead, &Tensor::from_slice(&kv_head).view([4, 4]));
    for error in [masks.target_gates().unwrap_err(), masks.expected_gates().unwrap_err()] {
        assert!(error.to_string().contains("`layer 3 kv_head 1` has the value NaN"), "{error}");
    }
    assert!(masks.expected_size().unwrap_err().to_string().contains("`layer 3 kv_head 1`"));
}

#[test]
fn modules_that_are_not_pruned_count_as_open() {
    let source = gqa_spec().source().clone();
    let target = Shape { num_hidden_layers: 3, ..source.clone() };
    let spec = MaskSpec::new(&source, &target).unwrap();
    let masks = MaskSet::new(spec, HardConcrete::default(), 20, 1, Device::Cpu).unwrap();
    assert_eq!(masks.expected_score(UnitKind::KvHead).unwrap().size(), [4, 4]);
    assert_eq!(values(&masks.expected_sparsity(UnitKind::Intermediate).unwrap()), [0.0; 4]);
    assert_eq!(masks.target_sparsity(UnitKind::Hidden, 100), 0.0);
    let nothing = MaskSpec::new(&source, &source).unwrap();
    let nothing = MaskSet::new(nothing, HardConcrete::default(), 20, 1, Device::Cpu).unwrap();
    assert!(nothing.sample(&KEY).unwrap().get(UnitKind::Hidden).is_none());
    assert_eq!(nothing.expected_size().unwrap().overall_sparsity, 0.0);
}

#[test]
fn expected_totals_follow_the_scores() {
    let masks = gqa_masks();
    // d_h 4, H 12, K 4, D 16, F 24, L 4, V 50.
    let prunable = 4.0 * 16.0 * (2.0 * 4.0 * 16.0 + 3.0 * 24.0);
    let size = masks.expected_size().unwrap();
    let (tied, untied) = (size.total_params(50, true), size.total_params(50, false));
    let hidden = 16.0 * f64::from(values(&masks.expected_score(UnitKind::Hidden).unwrap())[0]);
    assert!((untied - tied - 50.0 * hidden).abs() < 1e-6);
    let full = prunable + 50.0 * 16.0 + 16.0 * 9.0;
    assert!(tied < full && tied > 0.98 * full, "{tied} {full}");
}
