//! The min-max game on a toy: 256 units, target one half, importances instead of a model, the published schedule.

use crate::values;
use shearling_masks::{
    GateNoise, HardConcrete, MaskReport, MaskSet, MaskSpec, NoiseKey, OpenCount, Options, Shape, UnitKind,
};
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
fn rate(step: u64, steps: u64) -> f64 {
    let (step, warmup, steps) = (step as f64, steps as f64 / 10.0, steps as f64);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * (step - warmup) / (steps - warmup)).cos());
    if step < warmup { step / warmup } else { 0.1 + 0.9 * cosine }
}

fn toy_masks(constants: HardConcrete, warmup_steps: u64) -> MaskSet {
    let source = Shape {
        hidden_size: UNITS,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 8,
    };
    let target = Shape { hidden_size: UNITS / 2, ..source.clone() };
    MaskSet::new(MaskSpec::new(&source, &target).unwrap(), constants, warmup_steps, 3, Device::Cpu).unwrap()
}

fn optimisers(masks: &MaskSet) -> Vec<Adam> {
    let descent = masks.log_alpha_parameters().into_iter().map(|(_, leaf)| Adam::new(leaf, -1.0));
    descent.chain(masks.multiplier_parameters().into_iter().map(|(_, leaf)| Adam::new(leaf, 1.0))).collect()
}

/// A finished game.
struct Game {
    masks: MaskSet,
    importance: Tensor,
    /// Largest expected sparsity above the target of the step.
    overshoot: f64,
}

/// Plays `steps` with the published rates times `factor`.
fn play(constants: HardConcrete, steps: u64, factor: f64) -> Game {
    let mut masks = toy_masks(constants, steps / 5);
    let mut optimisers = optimisers(&masks);
    // Closing unit i costs importance[i]; the order is shuffled so that it is not the order of ties.
    let importance: Vec<f32> = (0..UNITS).map(|i| ((i * 97) % UNITS) as f32 / UNITS as f32).collect();
    let importance = Tensor::from_slice(&importance);
    let mut overshoot = 0f64;
    for step in 0..steps {
        let gates = masks.sample(&NoiseKey { seed: 3, step, micro_batch: 0 }).unwrap();
        let task_loss = (&importance * (1f64 - gates.hidden.unwrap())).sum(Kind::Float) / UNITS as f64;
        let constraint = masks.lagrangian(step).unwrap();
        (task_loss + &constraint.loss).backward();
        let state = &constraint.constraints_from(&values(&constraint.summary().unwrap())).unwrap()[0];
        overshoot = overshoot.max(state.violation);
        optimisers.iter_mut().for_each(|adam| adam.step(step, factor * rate(step, steps)));
        masks.clamp().unwrap();
        masks.unwind(&constraint).unwrap();
    }
    Game { masks, importance, overshoot }
}

impl Game {
    /// Mean importance of the kept units: 0.5 by chance, 0.75 at best.
    fn kept_importance(&self) -> f64 {
        let kept = values(&self.masks.target_gates().unwrap().hidden.unwrap());
        let kept: Vec<usize> = kept.iter().enumerate().filter(|(_, z)| **z > 0.0).map(|(index, _)| index).collect();
        assert_eq!(kept.len() as i64, UNITS / 2);
        kept.iter().map(|&index| self.importance.double_value(&[index as i64])).sum::<f64>() / kept.len() as f64
    }
}

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
