//! `bench step` as a user meets it: on a named shape every step has the same rows and a warm-up, so that its loss says something.

use super::support::{config, data_path, sets, succeed};
use serde_json::Value;

fn measured(arguments: &[&str]) -> Value {
    let common = ["bench", "step", "--device", "cpu", "--dtype", "fp32", "--peak-tflops", "1", "--json"];
    serde_json::from_str(&succeed(&[&common, arguments].concat())).unwrap()
}

fn losses(measured: &Value) -> Vec<f64> {
    serde_json::from_value(measured["loss"].clone()).unwrap()
}

#[test]
fn on_a_named_shape_the_loss_falls_at_every_step() {
    for masks in ["off", "on"] {
        let shape = ["--shape", "tiny", "--tokens", "64", "--masks", masks, "--warmup", "1", "--steps", "4"];
        let measured = measured(&shape);
        let losses = losses(&measured);
        assert_eq!(losses.len(), 5);
        assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "masks {masks}: {losses:?}");
        assert_eq!((&measured["same_rows"], &measured["loss_fell"]), (&Value::Bool(true), &Value::Bool(true)));
    }
}

#[test]
fn the_report_says_what_the_losses_mean() {
    let common = ["bench", "step", "--device", "cpu", "--peak-tflops", "1", "--warmup", "0"];
    let tiny = ["--shape", "tiny", "--tokens", "32", "--rows", "2", "--masks", "off"];
    let two = succeed(&[&common, &tiny[..], &["--steps", "2"]].concat());
    assert!(two.contains(": falls, as it has to (the same rows at every step"), "{two}");
    let one = succeed(&[&common, &tiny[..], &["--steps", "1"]].concat());
    assert!(!one.contains("falls") && !one.contains("FALL"), "{one}");
}

#[test]
fn a_configuration_draws_other_rows_whose_losses_are_not_judged() {
    let file = config("tiny-source.toml").display().to_string();
    let data = sets([("data.path", data_path())]);
    let data: Vec<&str> = data.iter().map(String::as_str).collect();
    let common = ["bench", "step", "--device", "cpu", "--peak-tflops", "1", "--warmup", "0", "--steps", "2"];
    let arguments = [&common[..], &["--config", &file], &data].concat();
    let text = succeed(&arguments);
    assert!(text.contains("(other rows at every step: says nothing of the gradients)"), "{text}");
    let found: Value = serde_json::from_str(&succeed(&[&arguments[..], &["--json"]].concat())).unwrap();
    assert_eq!((&found["same_rows"], &found["loss_fell"]), (&Value::Bool(false), &Value::Null));
}
