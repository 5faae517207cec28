//! Gradients of a deep model, weight by weight, as transformers computes them (fixtures/hf/deep): in fp32 and bf16, kept and
//! recomputed, by the CPU's own kernels and as a GPU computes. What a loss that rises in a run must not be blamed on.

use super::support::fixture;
use serde::Deserialize;
use shearling::config::Train;
use shearling::hf::{Checkpoint, ModelConfig};
use shearling::model::parameters::parameters;
use shearling::model::{Decoder, ForwardContext, ModelGates, Parameter};
use shearling::native::kernels::{Path, compute_by};
use shearling::train::optimizer::{Direction, Group};
use shearling::train::schedule::Schedule;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

const PATHS: [Path; 3] = [Path::Own, Path::DeviceKernels, Path::Composed];

#[derive(Deserialize)]
struct Expected {
    input_ids: Vec<Vec<i64>>,
    fp32: Measured,
    bf16: Measured,
}

/// Loss, and the L2 norm of every weight's gradient with its component along cos(0), cos(1), ..
#[derive(Deserialize)]
struct Measured {
    loss: f64,
    gradients: BTreeMap<String, [f64; 2]>,
}

/// How far two gradients of a weight are apart, relative to the norm of the expected one.
struct Off {
    weight: String,
    norm: f64,
    component: f64,
}

impl Measured {
    /// Relative difference of the loss, and those of all weights, from `exact`.
    fn off(&self, exact: &Measured) -> (f64, Vec<Off>) {
        assert_eq!(self.gradients.len(), exact.gradients.len());
        let off = exact.gradients.iter().map(|(weight, [norm, component])| {
            let found = self.gradients.get(weight).unwrap_or_else(|| panic!("no gradient of {weight}"));
            let relative = |difference: f64| difference.abs() / norm;
            Off { weight: weight.clone(), norm: relative(found[0] - norm), component: relative(found[1] - component) }
        });
        ((self.loss - exact.loss).abs() / exact.loss, off.collect())
    }
}

fn expected() -> Expected {
    serde_json::from_str(&std::fs::read_to_string(fixture("hf/deep/expected.json")).unwrap()).unwrap()
}

/// The fixture's model as a run trains it: fp32 masters, and fp32 gradients of what the forward uses.
struct Trained {
    model: ModelConfig,
    weights: Group,
    decoder: Decoder,
}

impl Trained {
    /// Computing in `kind`, with every `recomputed`-th block recomputed (0: none).
    fn new(kind: Kind, recomputed: usize, learning_rate: f64) -> Trained {
        let checkpoint = Checkpoint::open(&fixture("hf/deep")).unwrap();
        let model = checkpoint.model().clone();
        let weight = |weight: Parameter| {
            let tensor = checkpoint.tensor(&weight.name, Kind::Float, Device::Cpu).unwrap();
            (weight.name, tensor)
        };
        let tensors = parameters(&model).into_iter().map(weight).collect();
        let weights =
            Group::new("weights", learning_rate, Direction::Descent, &Train::default(), tensors, kind).unwrap();
        let leaf = |name: &str| -> Result<Tensor, String> {
            let slot = weights.slots().iter().find(|slot| slot.name == name);
            slot.map(|slot| slot.leaf()).ok_or_else(|| format!("no weight {name}"))
        };
        let decoder = Decoder::build(&model, &mut |name| leaf(name)).unwrap().with_recomputation(recomputed);
        Trained { model, weights, decoder }
    }

    /// Mean loss of `rows`, whose gradients are added in micro-batches of `micro` rows.
    fn backward(&self, rows: &[Vec<i64>], micro: i64) -> f64 {
        let ids = Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]);
        let tokens = ids.size()[1];
        let context = ForwardContext::new(&self.model, tokens, Device::Cpu).unwrap();
        let (gates, scale) = (ModelGates::none(), 1.0 / (rows.len() as i64 * (tokens - 1)) as f64);
        let mut loss = 0.0;
        for ids in ids.split(micro, 0) {
            let x = self.decoder.residual_stream(&ids, &context, &gates).unwrap();
            let losses = self.decoder.losses(&x, &ids, scale, &gates).unwrap();
            losses.objective.backward();
            loss += losses.rows().unwrap().sum(Kind::Double).double_value(&[]) * scale;
        }
        loss
    }

    fn gradients(&self) -> BTreeMap<String, [f64; 2]> {
        let measured = |gradient: &Tensor| {
            let gradient = gradient.to_kind(Kind::Double).view([-1]);
            let wave = Tensor::arange(gradient.size()[0], (Kind::Double, Device::Cpu)).cos();
            [gradient.norm().double_value(&[]), gradient.dot(&wave).double_value(&[])]
        };
        self.weights.slots().iter().map(|slot| (slot.name.clone(), measured(slot.gradient()))).collect()
    }

    /// Clips to a norm of 1 and updates as the training step does.
    fn update(&mut self, factor: f64) {
        let scale = self.weights.squared_norm().unwrap().sqrt().reciprocal().clamp_max(1.0).to_kind(Kind::Float);
        let applied = Tensor::zeros([], (Kind::Float, Device::Cpu));
        self.weights.update(&scale, &applied, factor).unwrap();
        self.weights.finish(true);
    }
}

/// What the training step computes, in two micro-batches.
fn computed(expected: &Expected, kind: Kind, recomputed: usize) -> Measured {
    let trained = Trained::new(kind, recomputed, 1e-4);
    let loss = trained.backward(&expected.input_ids, expected.input_ids.len() as i64 / 2);
    Measured { loss, gradients: trained.gradients() }
}

/// Calls `check` with what every path computes, recomputed and not, and what that is called.
fn every_way(expected: &Expected, kind: Kind, check: impl Fn(&str, Measured)) {
    for path in PATHS {
        let _path = compute_by(path);
        for recomputed in [0, 1] {
            check(&format!("{path:?}, recomputed {recomputed}"), computed(expected, kind, recomputed));
        }
    }
}

fn largest(off: &[Off], of: impl Fn(&Off) -> f64) -> f64 {
    off.iter().map(of).fold(0.0, f64::max)
}

fn middle(off: &[Off], of: impl Fn(&Off) -> f64) -> f64 {
    let mut sorted: Vec<f64> = off.iter().map(of).collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn every_gradient_of_a_deep_model_is_that_of_transformers_in_fp32() {
    const BOUND: f64 = 1e-4;
    let expected = expected();
    every_way(&expected, Kind::Float, |way, found| {
        let (loss, off) = found.off(&expected.fp32);
        assert!(loss < 1e-5, "{way}: loss {}, expected {}", found.loss, expected.fp32.loss);
        let (norm, component) = (largest(&off, |off| off.norm), largest(&off, |off| off.component));
        println!("{way}: loss {loss:.1e}, norm {norm:.1e}, component {component:.1e}");
        for Off { weight, norm, component } in off {
            assert!(
                norm < BOUND && component < BOUND,
                "{way}, {weight}: norm {norm:.1e}, component {component:.1e} off"
            );
        }
    });
}

/// What bf16 costs is what it costs transformers: against its fp32, no weight is further away than twice its bf16's furthest
/// one, and the middle one no further than one and a half times its middle one.
#[test]
fn every_gradient_of_a_deep_model_is_as_near_in_bf16_as_transformers_is() {
    let expected = expected();
    let (their_loss, theirs) = expected.bf16.off(&expected.fp32);
    type Quantity = (&'static str, fn(&Off) -> f64);
    let quantities: [Quantity; 2] = [("norm", |off| off.norm), ("component", |off| off.component)];
    every_way(&expected, Kind::BFloat16, |way, found| {
        let (loss, off) = found.off(&expected.fp32);
        println!("{way}: loss {loss:.1e} off, transformers {their_loss:.1e}");
        // One number has no spread to compare with: a rounding of bf16 is 2⁻⁸.
        assert!(loss < 2f64.powi(-8), "{way}: loss {}, expected {}", found.loss, expected.fp32.loss);
        for (what, of) in quantities {
            let (most, their_most) = (largest(&off, of), largest(&theirs, of));
            let (half, their_half) = (middle(&off, of), middle(&theirs, of));
            println!(
                "{way}: {what} {most:.1e} ({their_most:.1e}) at most, {half:.1e} ({their_half:.1e}) in the middle"
            );
            for off in &off {
                assert!(of(off) < 2.0 * their_most, "{way}, {}: {what} {:.1e} off", off.weight, of(off));
            }
            assert!(half < 1.5 * their_half, "{way}: {what} of half of the weights {half:.1e} off");
        }
    });
}

/// The comparison sees one weight of one layer that is a little off, and says which.
#[test]
fn a_gradient_that_is_off_is_named() {
    let mut expected = expected();
    let weight = "model.layers.17.mlp.up_proj.weight";
    let found = Measured { loss: expected.fp32.loss, gradients: expected.fp32.gradients.clone() };
    if let Some([norm, _]) = expected.fp32.gradients.get_mut(weight) {
        *norm *= 1.001;
    }
    let (_, off) = found.off(&expected.fp32);
    let named: Vec<&str> = off.iter().filter(|off| off.norm > 1e-4).map(|off| off.weight.as_str()).collect();
    assert_eq!(named, [weight]);
}

/// Losses of steps of torch's AdamW on transformers' model.
#[derive(Deserialize)]
struct Curves {
    /// `[S, B, T]`.
    batches: Vec<Vec<Vec<i64>>>,
    learning_rate: f64,
    warmup_steps: u64,
    /// Other rows at every step, no warm-up.
    new: Vec<f64>,
    /// The rows of the first step, with a warm-up.
    same: Vec<f64>,
}

fn rises(losses: &[f64]) -> usize {
    losses.windows(2).filter(|pair| pair[1] > pair[0]).count()
}

/// From the same weights on the same rows, the losses of our steps are those of PyTorch's. Where rows change and the rate does
/// not warm up both rise several times; on the same rows, with a warm-up, both fall at every step. What rises is no gradient.
#[test]
fn a_loss_rises_where_it_rises_in_pytorch_and_falls_on_the_same_rows() {
    let text = std::fs::read_to_string(fixture("hf/deep/curves.json")).unwrap();
    let curves: Curves = serde_json::from_str(&text).unwrap();
    for (what, expected, repeats) in [("new", &curves.new, false), ("same", &curves.same, true)] {
        for path in PATHS {
            let _path = compute_by(path);
            let mut trained = Trained::new(Kind::Float, 1, curves.learning_rate);
            let warmup_steps = if repeats { curves.warmup_steps } else { 0 };
            let schedule = Schedule { warmup_steps, steps: u64::MAX, final_fraction: 1.0 };
            let losses = expected.iter().enumerate().map(|(step, expected)| {
                let rows = &curves.batches[if repeats { 0 } else { step }];
                let loss = trained.backward(rows, 2);
                trained.update(schedule.factor(step as u64));
                let off = (loss - expected).abs() / expected;
                assert!(off < 1e-4, "{what}, {path:?}, step {}: loss {loss}, expected {expected}", step + 1);
                loss
            });
            let losses: Vec<f64> = losses.collect();
            let furthest = losses.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            println!("{what}, {path:?}: {losses:.4?}, at most {furthest:.1e} off");
            match repeats {
                true => assert_eq!(rises(&losses), 0),
                false => assert!(rises(&losses) >= 3 && rises(expected) >= 3),
            }
        }
    }
}
