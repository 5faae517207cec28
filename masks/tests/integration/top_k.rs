//! Top-k masks as a set: exact at every step, hard at the end, saved and read where they are.

use crate::{gqa_spec, set_log_alpha, values};
use shearling_masks::{Gates, KeepPlan, MaskReport, MaskSet, NoiseKey, TopK};
use tch::{Device, Kind, Tensor};

fn masks(steps: u64) -> MaskSet {
    MaskSet::new(gqa_spec(), TopK::over(steps), 0, 7, Device::Cpu).unwrap()
}

fn key(step: u64) -> NoiseKey {
    NoiseKey { seed: 1, step, micro_batch: 0 }
}

#[test]
fn the_constraint_is_met_at_every_step_and_the_shape_at_the_end() {
    let mut masks = masks(20);
    for step in 0..20 {
        let lagrangian = masks.lagrangian(step).unwrap();
        assert!(!lagrangian.loss.requires_grad());
        let summary = lagrangian.summary().unwrap();
        for constraint in lagrangian.constraints_from(&values(&summary)).unwrap() {
            assert!(constraint.worst_row_violation < 1e-5, "step {step}: {constraint:?}");
            assert_eq!(constraint.loss, 0.0);
        }
        masks.finish_step(step + 1);
        let (trained, evaluated) = (masks.sample(&key(step)).unwrap(), masks.expected_gates().unwrap());
        for module in masks.spec().modules() {
            let (trained, evaluated) = (trained.get(module.module).unwrap(), evaluated.get(module.module).unwrap());
            assert!(trained.equal(evaluated), "an evaluation sees the gates that the step trained with");
        }
    }
    let report = MaskReport::new(&masks).unwrap();
    for module in &report.modules {
        assert_eq!((module.half_alive.count, module.still_open.count), (0, 0));
        assert!(module.undecided.iter().all(|count| *count == 0));
        assert!(module.survivors.iter().all(|count| *count == module.target));
    }
    let (expected, target) = (masks.expected_gates().unwrap(), masks.target_gates().unwrap());
    for module in masks.spec().modules() {
        assert!(expected.get(module.module).unwrap().equal(target.get(module.module).unwrap()));
    }
    KeepPlan::from_gates(masks.spec(), &target).unwrap();
}

#[test]
fn masks_that_start_from_scores_keep_their_order() {
    let spec = gqa_spec();
    let mut scores = Gates::none();
    for module in spec.modules() {
        let ramp = Tensor::arange(module.units(), (Kind::Float, Device::Cpu)).remainder(7.0) + 1.0;
        scores.set(module.module, Some(ramp.view(&module.dims()[..])));
    }
    let masks = MaskSet::from_scores(spec.clone(), TopK::over(9), 0, &scores, 1.5, Device::Cpu).unwrap();
    let (plan, _) = KeepPlan::from_scores(&spec, &scores).unwrap();
    assert_eq!(KeepPlan::from_gates(&spec, &masks.target_gates().unwrap()).unwrap(), plan);
}

#[test]
fn a_file_holds_the_schedule_and_where_it_is() {
    let mut masks = masks(20);
    masks.finish_step(7);
    let ramp = Tensor::arange(16, (Kind::Float, Device::Cpu)) * 0.37 - 1.1;
    set_log_alpha(&masks, shearling_masks::UnitKind::Hidden, &ramp);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.safetensors");
    masks.save(&path).unwrap();
    let read = MaskSet::load(&path, Device::Cpu).unwrap();
    assert_eq!((read.gating(), read.spec()), (masks.gating(), masks.spec()));
    for module in masks.spec().modules() {
        let (saved, read) = (masks.expected_gates().unwrap(), read.expected_gates().unwrap());
        assert!(saved.get(module.module).unwrap().equal(read.get(module.module).unwrap()));
    }
}
