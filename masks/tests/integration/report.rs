//! The report on what masks have decided.

use crate::{gqa_masks, set_log_alpha};
use shearling_masks::{MaskReport, Module};
use tch::{Device, Kind, Tensor};

fn names(units: &[shearling_masks::UnitValue]) -> Vec<&str> {
    units.iter().map(|unit| unit.name.as_str()).collect()
}

#[test]
fn fresh_masks_are_open_and_what_the_cut_removes_is_named() {
    let report = MaskReport::new(&gqa_masks()).unwrap();
    assert_eq!(report.modules.len(), 5);
    assert_eq!(names(&report.removed_layers), ["layer 3"]);
    assert!(report.removed_layers[0].value > 0.99);
    let kv_head = report.get(Module::KvHead).unwrap();
    assert_eq!((kv_head.rows, kv_head.size, kv_head.target), (4, 4, 3));
    assert_eq!(kv_head.survivors, [4; 4]);
    assert_eq!(kv_head.undecided, [0; 4]);
    assert!(kv_head.half_alive.is_empty());
    assert_eq!(names(&kv_head.still_open), [0, 1, 2, 3].map(|l| format!("layer {l} kv_head 3")));
    assert_eq!(kv_head.histogram, [0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
    assert!(kv_head.expected_sparsity < 0.003 && kv_head.target_sparsity == 0.25);
}

#[test]
fn half_alive_undecided_and_still_open_units() {
    let masks = gqa_masks();
    // soft values: 0.004, 0.5 + , 0.917, 0.996 in row 0; all closed but one in row 1; the rest open.
    let (low, high) = (-4.6f32, 4.6);
    let kv_head = [[low, 0.1, 2.0, high], [low, low, high, low], [high; 4], [high, low, high, high]];
    set_log_alpha(&masks, Module::KvHead, &Tensor::from_slice(&kv_head.concat()).view([4, 4]));
    set_log_alpha(&masks, Module::Layer, &Tensor::from_slice(&[high, low, high, high]));
    let report = MaskReport::new(&masks).unwrap();
    let kv_head = report.get(Module::KvHead).unwrap();
    assert_eq!(names(&kv_head.half_alive), ["layer 1 kv_head 0", "layer 1 kv_head 1"]);
    assert!(kv_head.half_alive.iter().all(|unit| (unit.value - 0.004).abs() < 1e-3));
    assert_eq!(names(&kv_head.still_open), ["layer 2 kv_head 3"]);
    assert_eq!(kv_head.undecided, [2, 0, 0, 0]);
    assert_eq!(kv_head.survivors, [3, 1, 4, 3]);
    assert_eq!(kv_head.histogram, [5, 0, 0, 0, 0, 1, 0, 0, 0, 10]);
    assert_eq!(names(&report.removed_layers), ["layer 1"]);
    assert!(report.removed_layers[0].value < 0.01);
}

#[test]
fn reports_are_plain_data_and_refuse_masks_that_diverged() {
    let masks = gqa_masks();
    let report = MaskReport::new(&masks).unwrap();
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("\"module\":\"query_head\""));
    let back: MaskReport = serde_json::from_str(&text).unwrap();
    assert_eq!(names(&report.removed_layers), names(&back.removed_layers));
    set_log_alpha(&masks, Module::Hidden, &Tensor::full([16], f64::NAN, (Kind::Float, Device::Cpu)));
    assert!(MaskReport::new(&masks).unwrap_err().to_string().contains("`hidden 0`"));
}
