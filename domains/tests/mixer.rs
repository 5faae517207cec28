//! The mixer against golden values (`fixtures/README.md`).

use serde::Deserialize;
use shearling_domains::{Bound, MAX_CHANGE, MAX_DRIFT, Measured, Mixer, MixerConfig, MixerKind};

#[derive(Deserialize)]
struct Golden {
    initial: Vec<f64>,
    reference_loss: Vec<f64>,
    updates: Vec<Update>,
}

#[derive(Deserialize)]
struct Update {
    losses: Vec<f64>,
    proportion: Vec<f64>,
}

fn golden(section: &str) -> Golden {
    let mut all: serde_json::Value = serde_json::from_str(include_str!("fixtures/mixer.json")).unwrap();
    serde_json::from_value(all[section].take()).unwrap()
}

fn check(section: &str, kind: MixerKind, smoothing: f64) {
    let golden = golden(section);
    assert_eq!(golden.updates.len(), 6);
    let config = MixerConfig { kind, smoothing, ..MixerConfig::default() };
    let mut mixer = Mixer::new(config, &golden.initial, &golden.reference_loss).unwrap();
    for (number, update) in golden.updates.iter().enumerate() {
        let losses: Vec<Option<f64>> = update.losses.iter().copied().map(Some).collect();
        let found = mixer.update(&losses).proportions;
        for (found, expected) in found.iter().zip(&update.proportion) {
            assert!((found - expected).abs() < 1e-6, "{section}, update {number}: {found} instead of {expected}");
        }
    }
}

#[test]
fn signed_is_the_released_code() {
    check("doremi", MixerKind::Signed, 1e-4);
}

#[test]
fn dynamic_is_algorithm_1_of_the_paper() {
    check("paper_algorithm_1", MixerKind::Dynamic, 0.0);
}

#[test]
fn dynamic_smooths_like_the_released_code() {
    check("paper_smoothed", MixerKind::Dynamic, 1e-4);
}

#[test]
fn static_keeps_the_proportions() {
    check("constant", MixerKind::Static, 1e-4);
}

// A simulated run: four domains that began alike, measured with a standard error.

const REFERENCES: [f64; 4] = [2.0, 2.4, 1.1, 2.9];

fn simulated(kind: MixerKind) -> Mixer {
    Mixer::new(MixerConfig { kind, ..MixerConfig::default() }, &[0.25; 4], &REFERENCES).unwrap()
}

fn measured(excess: [f64; 4], standard_error: f64) -> Vec<Option<Measured>> {
    let of = |(excess, reference)| Measured { loss: excess + reference, standard_error: Some(standard_error) };
    excess.into_iter().zip(REFERENCES).map(|pair| Some(of(pair))).collect()
}

fn odds(weight: f64) -> f64 {
    weight / (1.0 - weight)
}

/// What pruning does to a source that is at its references: the masks cost nats, and not every domain as many; then the
/// weights make it good.
fn hurt_by_masks(update: u32) -> [f64; 4] {
    let height = 4.5 * (1.0 - f64::from(update.abs_diff(8)) / 8.0).max(0.0);
    [1.0, 0.55, 0.4, 0.45].map(|share| 0.05 + height * share)
}

#[test]
fn what_masks_do_to_all_domains_runs_away_with_dynamic_and_not_with_bounded() {
    let (mut dynamic, mut bounded) = (simulated(MixerKind::Dynamic), simulated(MixerKind::Bounded));
    let mut least = 1.0f64;
    for update in 1..=16 {
        let losses = measured(hurt_by_masks(update), 0.05);
        let before = bounded.proportions().to_vec();
        dynamic.update(&losses);
        let after = bounded.update(&losses).proportions;
        assert!((after.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        for (before, after) in before.iter().zip(&after) {
            let change = odds(*after) / odds(*before);
            assert!((1.0 / MAX_CHANGE - 1e-9..=MAX_CHANGE + 1e-9).contains(&change), "update {update}: {change}");
        }
        least = after.iter().copied().fold(least, f64::min);
    }
    assert!(dynamic.proportions()[0] > 0.99, "{:?}", dynamic.proportions());
    assert!(bounded.proportions()[0] < 0.45 && least > 0.15, "{:?}", bounded.proportions());
}

#[test]
fn an_excess_that_stays_after_the_others_recovered_is_followed() {
    let mut mixer = simulated(MixerKind::Bounded);
    let mut shares = vec![0.25];
    for _ in 0..12 {
        shares.push(mixer.update(&measured([0.4, 0.05, 0.05, 0.05], 0.05)).proportions[0]);
    }
    assert!(shares.is_sorted() && shares[12] > 0.45, "{shares:?}");
    // And back, when another one lags behind.
    for _ in 0..20 {
        mixer.update(&measured([0.05, 0.4, 0.05, 0.05], 0.05));
    }
    assert!(mixer.proportions()[1] > mixer.proportions()[0] + 0.1, "{:?}", mixer.proportions());
}

#[test]
fn the_drift_bound_holds_however_long_an_excess_lasts() {
    let mut mixer = simulated(MixerKind::Bounded);
    let mut held = Vec::new();
    for _ in 0..200 {
        held = mixer.update(&measured([3.0, 0.0, 0.0, 0.0], 0.01)).held;
    }
    let most = odds(mixer.proportions()[0]) / odds(0.25);
    assert!((most - MAX_DRIFT).abs() < 1e-6, "{most}");
    assert_eq!(held[0], Some(Bound::MaxDrift));
}

#[test]
fn what_cannot_be_told_from_noise_moves_little() {
    let share = |standard_error| {
        let mut mixer = simulated(MixerKind::Bounded);
        (0..5).for_each(|_| drop(mixer.update(&measured([0.08, 0.0, 0.0, 0.0], standard_error))));
        mixer.proportions()[0] - 0.25
    };
    let (known, noisy) = (share(0.005), share(0.3));
    assert!(known > 0.03 && noisy < 0.1 * known, "{known} {noisy}");
}

#[test]
fn an_excess_that_all_share_moves_nothing() {
    let mut mixer = simulated(MixerKind::Bounded);
    for proportion in mixer.update(&measured([4.0; 4], 0.1)).proportions {
        assert!((proportion - 0.25).abs() < 1e-12);
    }
}

#[test]
fn what_was_not_measured_keeps_its_proportion_exactly() {
    let mut mixer = simulated(MixerKind::Bounded);
    let mut losses = measured([2.0, 0.1, 0.2, 0.0], 0.01);
    losses[1] = None;
    let update = mixer.update(&losses);
    assert_eq!(update.proportions[1], 0.25);
    assert!(update.proportions[0] > 0.25 && update.excess[1].is_none());
}

#[test]
fn what_a_mixer_can_reach_holds_for_any_losses() {
    let extremes = [[9.0, 0.0, 0.0, 0.0], [0.0, 9.0, 9.0, 9.0]];
    for (kind, updates) in [(MixerKind::Bounded, 3), (MixerKind::Bounded, 100), (MixerKind::Static, 5)] {
        let reach = simulated(kind).reach(updates);
        for extreme in extremes {
            let mut mixer = simulated(kind);
            (0..updates).for_each(|_| drop(mixer.update(&measured(extreme, 0.0))));
            for (weight, (low, high)) in mixer.proportions().iter().zip(&reach) {
                assert!((low - 1e-9..=high + 1e-9).contains(weight), "{kind:?}: {weight} outside of {low} to {high}");
            }
        }
    }
    let dynamic = simulated(MixerKind::Dynamic).reach(1);
    assert_eq!(dynamic, [(0.0, 1.0); 4]);
    assert_eq!(simulated(MixerKind::Bounded).reach(0), [(0.25, 0.25); 4]);
}

#[test]
fn a_state_of_before_these_bounds_is_still_read_and_goes_on_bit_for_bit() {
    let state: shearling_domains::MixerState =
        serde_json::from_str(r#"{ "version": 1, "proportions": [0.4, 0.3, 0.2, 0.1], "updates": 3 }"#).unwrap();
    for kind in [MixerKind::Dynamic, MixerKind::Bounded] {
        let config = MixerConfig { kind, ..MixerConfig::default() };
        let mut whole = Mixer::resume(config.clone(), &[0.25; 4], &REFERENCES, state.clone()).unwrap();
        whole.update(&measured([0.4, 0.3, 0.2, 0.1], 0.02));
        let saved = serde_json::from_str(&serde_json::to_string(whole.state()).unwrap()).unwrap();
        let mut resumed = Mixer::resume(config, &[0.25; 4], &REFERENCES, saved).unwrap();
        let losses = measured([0.1, 0.3, 0.2, 2.0], 0.02);
        assert_eq!(whole.update(&losses), resumed.update(&losses));
    }
}
