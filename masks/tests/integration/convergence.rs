//! The min-max game on a toy: 256 units, target one half, importances instead of a model, the published schedule.

use crate::values;
use shearling_masks::{HardConcrete, MaskReport, MaskSet, MaskSpec, NoiseKey, Shape, UnitKind};
use tch::{Device, Kind, Tensor};

const STEPS: u64 = 3200;
const UNITS: i64 = 256;

/// Adam with betas 0.9 and 0.95 on one leaf.
struct Adam {
    leaf: Tensor,
    mean: Tensor,
    square: Tensor,
    direction: f64,
}

impl Adam {
    fn new(leaf: Tensor, direction: f64) -> Adam {
        Adam { mean: leaf.zeros_like().detach(), square: leaf.zeros_like().detach(), leaf, direction }
    }

    fn step(&mut self, step: u64, rate: f64) {
        let gradient = self.leaf.grad();
        self.mean = &self.mean * 0.9 + &gradient * 0.1;
        self.square = &self.square * 0.95 + gradient.square() * 0.05;
        let at = (step + 1) as i32;
        let (mean, square) = (&self.mean / (1.0 - 0.9f64.powi(at)), &self.square / (1.0 - 0.95f64.powi(at)));
        let update = mean / (square.sqrt() + 1e-8) * (self.direction * rate);
        tch::no_grad(|| _ = self.leaf.g_add_(&update));
        self.leaf.zero_grad();
    }
}

/// Linear warm-up over a tenth of the run, then a cosine down to a tenth.
fn rate(step: u64) -> f64 {
    let (step, warmup, steps) = (step as f64, STEPS as f64 / 10.0, STEPS as f64);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * (step - warmup) / (steps - warmup)).cos());
    if step < warmup { step / warmup } else { 0.1 + 0.9 * cosine }
}

fn toy_masks() -> MaskSet {
    let source = Shape {
        hidden_size: UNITS,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 8,
    };
    let target = Shape { hidden_size: UNITS / 2, ..source.clone() };
    MaskSet::new(MaskSpec::new(&source, &target).unwrap(), HardConcrete::llm_shearing(), 640, 3, Device::Cpu).unwrap()
}

fn optimisers(masks: &MaskSet) -> Vec<Adam> {
    let descent = masks.log_alpha_parameters().into_iter().map(|(_, leaf)| Adam::new(leaf, -1.0));
    descent.chain(masks.multiplier_parameters().into_iter().map(|(_, leaf)| Adam::new(leaf, 1.0))).collect()
}

#[test]
fn the_constraint_is_met_and_the_half_alive_units_are_reported() {
    let mut masks = toy_masks();
    let mut optimisers = optimisers(&masks);
    // Closing unit i costs importance[i]; the order is shuffled so that it is not the order of ties.
    let importance: Vec<f32> = (0..UNITS).map(|i| ((i * 97) % UNITS) as f32 / UNITS as f32).collect();
    let importance = Tensor::from_slice(&importance);
    for step in 0..STEPS {
        let gates = masks.sample(&NoiseKey { seed: 3, step, micro_batch: 0 }).unwrap();
        let task_loss = (&importance * (1f64 - gates.hidden.unwrap())).sum(Kind::Float) / UNITS as f64;
        (task_loss + masks.lagrangian(step).unwrap().loss).backward();
        optimisers.iter_mut().for_each(|adam| adam.step(step, rate(step)));
        masks.clamp().unwrap();
    }
    let report = MaskReport::new(&masks).unwrap();
    let hidden = report.get(UnitKind::Hidden).unwrap();
    assert!((hidden.expected_sparsity - 0.5).abs() < 0.02, "{}", hidden.expected_sparsity);
    assert!((hidden.survivors[0] - UNITS / 2).abs() <= 4, "{:?}", hidden.survivors);
    assert!(hidden.undecided[0] <= 12, "{:?}", hidden.undecided);

    // Every closed unit still scores at least 0.047, so fewer than the target can be open: some kept ones are not.
    assert!((1..=16).contains(&hidden.half_alive.count), "{:?}", hidden.half_alive);
    assert!(hidden.still_open.count == 0, "{:?}", hidden.still_open);

    let kept = values(&masks.target_gates().unwrap().hidden.unwrap());
    let kept: Vec<usize> = kept.iter().enumerate().filter(|(_, z)| **z > 0.0).map(|(index, _)| index).collect();
    assert_eq!(kept.len() as i64, UNITS / 2);
    let mean = kept.iter().map(|&index| importance.double_value(&[index as i64])).sum::<f64>() / kept.len() as f64;
    assert!(mean > 0.6, "the kept units are the important ones: mean importance {mean}, by chance 0.5, at best 0.75");
}
