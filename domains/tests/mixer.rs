//! The mixer against golden values (`fixtures/README.md`).

use serde::Deserialize;
use shearling_domains::{Mixer, MixerConfig, MixerKind};

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
