//! The min-max game of hard-concrete masks and their multipliers, on a toy, as published and with each option.

use crate::toy::{UNITS, play, toy_masks};
use shearling_masks::{GateNoise, HardConcrete, MaskReport, MaskSet, NoiseKey, OpenCount, Options, UnitKind};
use tch::Device;

const STEPS: u64 = 3200;

#[test]
fn the_constraint_is_met_and_the_half_alive_units_are_reported() {
    let game = play(HardConcrete::llm_shearing(), STEPS, 1.0);
    let report = MaskReport::new(&game.masks).unwrap();
    let hidden = report.get(UnitKind::Hidden).unwrap();
    assert!((hidden.expected_sparsity - 0.5).abs() < 0.02, "{}", hidden.expected_sparsity);
    assert!((hidden.survivors[0] - UNITS / 2).abs() <= 4, "{:?}", hidden.survivors);
    assert!(hidden.undecided[0] <= 12, "{:?}", hidden.undecided);

    // Every closed unit still scores at least 0.047, so fewer than the target can be open: some kept ones are not.
    assert!((1..=16).contains(&hidden.half_alive.count), "{:?}", hidden.half_alive);
    assert!(hidden.still_open.count == 0, "{:?}", hidden.still_open);
    let mean = game.kept_importance();
    assert!(mean > 0.6, "the kept units are the important ones: mean importance {mean}, by chance 0.5, at best 0.75");
}

fn with(options: Options) -> HardConcrete {
    HardConcrete { options, ..HardConcrete::llm_shearing() }
}

#[test]
fn multipliers_that_unwind_overshoot_a_third_as_far() {
    let published = play(HardConcrete::llm_shearing(), 400, 0.3);
    let unwound = play(with(Options { anti_windup: true, ..Options::default() }), 400, 0.3);
    assert!(published.overshoot > 0.25, "{}", published.overshoot);
    assert!(unwound.overshoot < published.overshoot / 3.0, "{} {}", unwound.overshoot, published.overshoot);
    // It finds the important units no worse.
    assert!(unwound.kept_importance() > 0.7, "{}", unwound.kept_importance());
}

#[test]
fn an_unbiased_count_leaves_no_unit_half_alive() {
    let half_alive = |constants: HardConcrete| {
        let game = play(constants, 400, 0.3);
        MaskReport::new(&game.masks).unwrap().get(UnitKind::Hidden).unwrap().half_alive.count
    };
    let unbiased = Options { count: OpenCount::Unbiased, ..Options::default() };
    assert!(half_alive(HardConcrete::llm_shearing()) >= 6, "the published count is biased");
    assert_eq!(half_alive(with(Options { anti_windup: true, ..unbiased })), 0);
}

#[test]
fn gates_without_noise_or_with_less_and_less_meet_the_constraint_too() {
    for noise in [GateNoise::Annealed, GateNoise::None] {
        let noise_steps = if noise == GateNoise::Annealed { 300 } else { 0 };
        let game = play(with(Options { noise, noise_steps, ..Options::default() }), 400, 0.3);
        let key = |step| NoiseKey { seed: 3, step, micro_batch: 0 };
        let gates = |step| game.masks.sample(&key(step)).unwrap().hidden.unwrap();
        assert!(gates(399).equal(&gates(398)), "{noise:?}: the last gates are functions of the log-odds");
        assert_eq!(gates(0).equal(&gates(1)), noise == GateNoise::None);
        let report = MaskReport::new(&game.masks).unwrap();
        let hidden = report.get(UnitKind::Hidden).unwrap();
        assert!((hidden.expected_sparsity - 0.5).abs() < 0.02, "{noise:?}: {}", hidden.expected_sparsity);
        assert!(game.kept_importance() > 0.64, "{noise:?}: {}", game.kept_importance());
    }
}

#[test]
fn a_file_holds_the_options_and_an_older_program_sees_another_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.safetensors");
    let version = || {
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        [1, 2].into_iter().find(|version| text.contains(&format!("\\\"version\\\":{version}"))).unwrap()
    };
    toy_masks(HardConcrete::llm_shearing(), 9).save(&path).unwrap();
    assert_eq!(version(), 1);
    let options = Options { noise: GateNoise::Annealed, noise_steps: 30, anti_windup: true, ..Options::default() };
    toy_masks(with(options), 9).save(&path).unwrap();
    assert_eq!(version(), 2);
    let read = MaskSet::load(&path, Device::Cpu).unwrap();
    assert_eq!(*read.gating(), with(options).into());
}
