//! A toy to play the min-max game on: 256 units, target one half, importances instead of a model, the published schedule.

use crate::values;
use shearling_masks::{Gating, MaskSet, MaskSpec, NoiseKey, Shape};
use tch::{Device, Kind, Tensor};

pub const UNITS: i64 = 256;

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
fn rate(step: u64, steps: u64) -> f64 {
    let (step, warmup, steps) = (step as f64, steps as f64 / 10.0, steps as f64);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * (step - warmup) / (steps - warmup)).cos());
    if step < warmup { step / warmup } else { 0.1 + 0.9 * cosine }
}

pub fn toy_masks(gating: impl Into<Gating>, warmup_steps: u64) -> MaskSet {
    let source = Shape {
        hidden_size: UNITS,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 8,
    };
    let target = Shape { hidden_size: UNITS / 2, ..source.clone() };
    MaskSet::new(MaskSpec::new(&source, &target).unwrap(), gating, warmup_steps, 3, Device::Cpu).unwrap()
}

fn optimisers(masks: &MaskSet) -> Vec<Adam> {
    let descent = masks.log_alpha_parameters().into_iter().map(|(_, leaf)| Adam::new(leaf, -1.0));
    descent.chain(masks.multiplier_parameters().into_iter().map(|(_, leaf)| Adam::new(leaf, 1.0))).collect()
}

/// A finished game.
pub struct Game {
    pub masks: MaskSet,
    /// What each unit is worth, in a shuffled order, so that it is not that of ties.
    pub importance: Tensor,
    /// Largest expected sparsity above the target of the step.
    pub overshoot: f64,
}

/// Plays `steps` with the published rates times `factor`: closing a unit costs its importance.
pub fn play(gating: impl Into<Gating>, steps: u64, factor: f64) -> Game {
    let cost = |gates: &Tensor, importance: &Tensor| (importance * (1f64 - gates)).sum(Kind::Float) / UNITS as f64;
    play_for(gating, steps, [factor, factor], cost)
}

/// Plays `steps` for any cost of gates `[U]` and importances `[U]`, at peak rates of the units and of the multipliers.
pub fn play_for(
    gating: impl Into<Gating>,
    steps: u64,
    rates: [f64; 2],
    cost: impl Fn(&Tensor, &Tensor) -> Tensor,
) -> Game {
    let mut masks = toy_masks(gating, steps / 5);
    let mut optimisers = optimisers(&masks);
    let importance: Vec<f32> = (0..UNITS).map(|i| ((i * 97) % UNITS) as f32 / UNITS as f32).collect();
    let importance = Tensor::from_slice(&importance);
    let mut overshoot = 0f64;
    for step in 0..steps {
        let gates = masks.sample(&NoiseKey { seed: 3, step, micro_batch: 0 }).unwrap();
        let task_loss = cost(&gates.hidden.unwrap(), &importance);
        let constraint = masks.lagrangian(step).unwrap();
        (task_loss + &constraint.loss).backward();
        let state = &constraint.constraints_from(&values(&constraint.summary().unwrap())).unwrap()[0];
        overshoot = overshoot.max(state.violation);
        for adam in &mut optimisers {
            let peak = if adam.direction < 0.0 { rates[0] } else { rates[1] };
            adam.step(step, peak * rate(step, steps));
        }
        masks.clamp().unwrap();
        masks.unwind(&constraint).unwrap();
        masks.finish_step(step + 1);
    }
    Game { masks, importance, overshoot }
}

impl Game {
    /// Mean importance of the kept units: 0.5 by chance, 0.75 at best.
    pub fn kept_importance(&self) -> f64 {
        let kept = values(&self.masks.target_gates().unwrap().hidden.unwrap());
        let kept: Vec<usize> = kept.iter().enumerate().filter(|(_, z)| **z > 0.0).map(|(index, _)| index).collect();
        assert_eq!(kept.len() as i64, UNITS / 2);
        kept.iter().map(|&index| self.importance.double_value(&[index as i64])).sum::<f64>() / kept.len() as f64
    }
}
