//! The report on what masks have decided.

use crate::{gqa_masks, set_log_alpha};
use shearling_masks::{HardConcrete, MaskReport, MaskSet, MaskSpec, Shape, UnitKind};
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
    let kv_head = report.get(UnitKind::KvHead).unwrap();
    assert_eq!((kv_head.rows, kv_head.size, kv_head.target), (4, 4, 3));
    assert_eq!(kv_head.survivors, [4; 4]);
    assert_eq!(kv_head.undecided, [0; 4]);
    assert!(kv_head.half_alive.worst.is_empty() && kv_head.half_alive.count == 0);
    // Layer 3 goes: what its own heads are is no matter.
    assert_eq!(names(&kv_head.still_open.worst), [0, 1, 2].map(|l| format!("layer {l} kv_head 3")));
    assert_eq!(kv_head.kept, 9);
    assert_eq!(kv_head.histogram, [0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
    assert!(kv_head.expected_sparsity < 0.003 && kv_head.target_sparsity == 0.25);
}

#[test]
fn half_alive_undecided_and_still_open_units() {
    let masks = gqa_masks();
    // soft values: 0.004, 0.5 + , 0.917, 0.996 in row 0; all closed but one in row 1; the rest open.
    let (low, high) = (-4.6f32, 4.6);
    let kv_head = [[low, 0.1, 2.0, high], [low, low, high, low], [high; 4], [high, low, high, high]];
    set_log_alpha(&masks, UnitKind::KvHead, &Tensor::from_slice(&kv_head.concat()).view([4, 4]));
    set_log_alpha(&masks, UnitKind::Layer, &Tensor::from_slice(&[high, high, high, low]));
    let report = MaskReport::new(&masks).unwrap();
    let kv_head = report.get(UnitKind::KvHead).unwrap();
    assert_eq!(names(&kv_head.half_alive.worst), ["layer 1 kv_head 0", "layer 1 kv_head 1"]);
    assert!(kv_head.half_alive.worst.iter().all(|unit| (unit.value - 0.004).abs() < 1e-3));
    assert_eq!(names(&kv_head.still_open.worst), ["layer 2 kv_head 3"]);
    assert_eq!(kv_head.undecided, [2, 0, 0, 0]);
    assert_eq!(kv_head.survivors, [3, 1, 4, 3]);
    assert_eq!(kv_head.histogram, [5, 0, 0, 0, 0, 1, 0, 0, 0, 10]);
    assert_eq!(names(&report.removed_layers), ["layer 3"]);
    assert!(report.removed_layers[0].value < 0.01);

    set_log_alpha(&masks, UnitKind::Layer, &Tensor::from_slice(&[high, low, high, high]));
    let report = MaskReport::new(&masks).unwrap();
    let kv_head = report.get(UnitKind::KvHead).unwrap();
    assert_eq!(names(&report.removed_layers), ["layer 1"]);
    assert_eq!((kv_head.kept, kv_head.half_alive.count), (9, 0), "a removed layer has no kept heads");
    assert_eq!(names(&kv_head.still_open.worst), ["layer 2 kv_head 3"]);
}

#[test]
fn reports_are_plain_data_and_refuse_masks_that_diverged() {
    let masks = gqa_masks();
    let report = MaskReport::new(&masks).unwrap();
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("\"module\":\"query_head\""));
    let back: MaskReport = serde_json::from_str(&text).unwrap();
    assert_eq!(names(&report.removed_layers), names(&back.removed_layers));
    set_log_alpha(&masks, UnitKind::Hidden, &Tensor::full([16], f64::NAN, (Kind::Float, Device::Cpu)));
    assert!(MaskReport::new(&masks).unwrap_err().to_string().contains("`hidden 0`"));
}

#[test]
fn long_lists_are_counted_in_full_and_named_worst_first() {
    let shape = |intermediate_size| Shape {
        hidden_size: 1,
        intermediate_size,
        num_hidden_layers: 2,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 1,
    };
    let spec = MaskSpec::new(&shape(3000), &shape(1500)).unwrap();
    let masks = MaskSet::new(spec, HardConcrete::default(), 0, 0, Device::Cpu).unwrap();
    let mut log_alpha = vec![3f32; 6000];
    log_alpha[2999] = 2.0;
    log_alpha[1700] = 2.5;
    set_log_alpha(&masks, UnitKind::Intermediate, &Tensor::from_slice(&log_alpha).view([2, 3000]));
    let report = MaskReport::new(&masks).unwrap();
    let still_open = &report.get(UnitKind::Intermediate).unwrap().still_open;
    assert_eq!((still_open.count, still_open.worst.len()), (3000, 1000));
    assert_eq!(still_open.worst[0].name, "layer 0 intermediate 1500");
    assert!(still_open.worst.iter().all(|unit| unit.name != "layer 0 intermediate 1700"));
}
