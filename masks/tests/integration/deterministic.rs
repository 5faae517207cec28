//! Deterministic gates as a set: they start as the source, meet the constraint and decide without noise, and grow louder where
//! that pays.

use crate::toy::{Game, UNITS, play_for, toy_masks};
use crate::values;
use shearling_masks::{Deterministic, MaskReport, MaskSet, NoiseKey, UnitKind};
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 400;
/// Peak rates of units and multipliers for a game of so many steps.
const RATES: [f64; 2] = [8.0 / STEPS as f64, 20.0 / STEPS as f64];

fn game(constants: Deterministic) -> Game {
    play_for(constants, STEPS, RATES, |gates, importance| {
        (importance * (1f64 - gates).square()).sum(Kind::Float) / UNITS as f64
    })
}

fn gates(masks: &MaskSet, step: u64) -> Vec<f32> {
    values(&masks.sample(&NoiseKey { seed: 3, step, micro_batch: 0 }).unwrap().hidden.unwrap())
}

#[test]
fn gates_begin_near_one_and_know_no_noise() {
    let masks = toy_masks(Deterministic::over(STEPS), 0);
    let first = gates(&masks, 0);
    assert_eq!(first, gates(&masks, 1));
    assert!(first.iter().all(|gate| (gate - 1.0).abs() < 0.05), "{first:?}");
    assert!(first.iter().any(|gate| *gate > 1.0) && first.iter().any(|gate| *gate < 1.0));
    let limited = toy_masks(Deterministic { largest: Some(1.0), ..Deterministic::over(STEPS) }, 0);
    assert!(gates(&limited, 0).iter().all(|gate| *gate <= 1.0));
}

#[test]
fn the_constraint_is_met_and_the_important_units_stay() {
    let game = game(Deterministic::over(STEPS));
    let report = MaskReport::new(&game.masks).unwrap();
    let hidden = report.get(UnitKind::Hidden).unwrap();
    assert!((hidden.expected_sparsity - 0.5).abs() < 0.02, "{}", hidden.expected_sparsity);
    assert!(hidden.half_alive.count <= 12, "{:?}", hidden.half_alive);
    assert!(game.overshoot < 0.25, "{}", game.overshoot);
    assert!(game.kept_importance() > 0.74, "{}", game.kept_importance());
}

/// Units come in pairs that carry the same: where one of a pair goes, the other does best at 2.
#[test]
fn a_gate_above_one_takes_over_from_a_closed_unit() {
    let pairs = |constants: Deterministic| {
        let game = play_for(constants, STEPS, RATES, |gates, _| {
            let pairs = gates.view([UNITS / 2, 2]).sum_dim_intlist(-1i64, false, Kind::Float);
            (pairs - 2.0).square().mean(Kind::Float)
        });
        let cut = game.masks.target_gates().unwrap().hidden.unwrap().view([UNITS / 2, 2]);
        let cost = (cut.sum_dim_intlist(-1i64, false, Kind::Float) - 2.0).square().mean(Kind::Float);
        (cost.double_value(&[]), cut.max().double_value(&[]))
    };
    let (free, loudest) = pairs(Deterministic::over(STEPS));
    let (limited, at_most) = pairs(Deterministic { largest: Some(1.0), ..Deterministic::over(STEPS) });
    assert!(loudest > 1.5 && at_most <= 1.0, "{loudest} {at_most}");
    assert!(free < 0.5 * limited, "{free} {limited}");
}

#[test]
fn a_file_holds_the_constants_and_where_the_schedule_is() {
    let constants = Deterministic { largest: Some(3.0), ..Deterministic::over(20) };
    let mut masks = toy_masks(constants, 4);
    tch::no_grad(|| {
        for (_, mut leaf) in masks.log_alpha_parameters() {
            let ramp = Tensor::arange(UNITS, (Kind::Float, Device::Cpu)) * 0.02 - 0.1;
            leaf.copy_(&ramp);
        }
    });
    masks.finish_step(7);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.safetensors");
    masks.save(&path).unwrap();
    let read = MaskSet::load(&path, Device::Cpu).unwrap();
    assert_eq!((read.gating(), read.spec()), (masks.gating(), masks.spec()));
    for kind in [MaskSet::expected_gates, MaskSet::target_gates] {
        let [saved, read] = [&masks, &read].map(|masks| values(&kind(masks).unwrap().hidden.unwrap()));
        assert_eq!(saved, read);
    }
    assert!(gates(&read, 7).iter().any(|gate| *gate > 3.0), "a forward takes the numbers as they are");
    let mut read = read;
    read.clamp().unwrap();
    assert_eq!(gates(&read, 7).into_iter().fold(0f32, f32::max), 3.0);
}
