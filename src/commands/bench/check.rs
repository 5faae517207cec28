//! `shearling bench check`: every fast operation of a forward and backward on a device against plain operators in fp64
//! on the CPU, and three steps of pruning and decoding with a cache against the same on the CPU; and what ranks exchange, with one rank. The tests compare the
//! CPU's kernels with plain operators; this carries the comparison to a device that has no tests.

use super::subject::Subject;
use crate::cli::Printer;
use crate::cli::arguments::BenchCheck;
use crate::cli::table::Table;
use crate::commands::ExitStatus;
use crate::commands::place::dtype_name;
use crate::dist::Mesh;
use crate::model::{Decoder, ForwardContext, KvCache, ModelGates};
use crate::native::c10d::{ProcessGroup, Reduction, Store};
use crate::native::kernels;
use crate::native::ops::adamw::{AdamwRule, AdamwTensor, adamw, adamw_reference};
use crate::native::ops::halves;
use crate::native::ops::sparse_feed_forward::{PackedExperts, sparse_feed_forward, sparse_feed_forward_reference};
use crate::native::ops::{
    attention, autograd, cross_entropy, distillation, embedding, projection, recompute, rms_norm, rope, swiglu,
};
use crate::native::runtime::device;
use crate::train::Trainer;
use crate::train::setup::Device;
use serde_json::json;
use std::time::Duration;
use tch::{Kind, TchError, Tensor};

/// Steps of pruning that are compared.
const STEPS: usize = 3;
/// How long a group of one rank may take to connect.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tokens that are decoded.
const DECODED: i64 = 40;

/// `shearling bench check`
pub(super) fn run(arguments: &BenchCheck) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    let device = device::parse(&arguments.device)?;
    let mut results = Vec::new();
    // One that fails is no reason not to see the others.
    let mut compared = |name: String, error: anyhow::Result<f64>, tolerance: f64| {
        let error = error.unwrap_or_else(|problem| {
            printer.warn(format!("{name}: {problem:#}"));
            f64::NAN
        });
        results.push(Compared { name, error, tolerance });
    };
    for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::BFloat16, 2e-2)] {
        let dtype = dtype_name(kind);
        for case in cases()? {
            compared(format!("{} {dtype}", case.name), case.compare(kind, device).map_err(Into::into), tolerance);
        }
        let error = experts_error(kind, device).map_err(Into::into);
        compared(format!("sparse_feed_forward {dtype}"), error, tolerance);
        compared(format!("adamw, moments in {dtype}"), adamw_error([kind; 2], device).map_err(Into::into), tolerance);
    }
    let error = adamw_error([Kind::Int8, Kind::Uint8], device).map_err(Into::into);
    compared("adamw, moments in 8 bits".into(), error, 2e-2);
    compared("gate noise".into(), noise_error(device), 0.0);
    for (name, sharded) in [("three steps of pruning fp32", false), ("the same, weights gathered by layer", true)] {
        compared(name.into(), steps_error(device, sharded), 1e-3);
    }
    compared("decoding with a cache fp32".into(), decoding_error(device), 1e-4);
    let by = if device == Device::Cpu { "Gloo" } else { "NCCL" };
    compared(format!("collectives of one rank ({by})"), collectives_error(device), 0.0);
    let passed = results.iter().all(Compared::passed);
    if device != Device::Cpu {
        let by = if kernels::compute_on(device) { "kernels of ours" } else { "operators composed of libtorch's" };
        printer.note(format!("compared on {}: {by}", device::name(device)));
    }
    printer.data(table(&results), || to_json(&results, passed));
    Ok(if passed { ExitStatus::Done } else { ExitStatus::CheckFailed })
}

/// One comparison.
struct Compared {
    name: String,
    /// Largest difference over outputs and gradients, each relative to its largest value.
    error: f64,
    tolerance: f64,
}

impl Compared {
    /// A NaN never passes.
    fn passed(&self) -> bool {
        self.error <= self.tolerance
    }
}

fn table(results: &[Compared]) -> Table {
    let mut table = Table::new(["what", "difference", "bound", ""]);
    for result in results {
        let verdict = if result.passed() { "ok" } else { "DIFFERS" };
        let numbers = [result.error, result.tolerance].map(|number| format!("{number:.1e}"));
        table.row([result.name.clone(), numbers[0].clone(), numbers[1].clone(), verdict.to_string()]);
    }
    table
}

fn to_json(results: &[Compared], passed: bool) -> serde_json::Value {
    let result = |result: &Compared| json!({ "name": result.name, "difference": result.error, "bound": result.tolerance, "passed": result.passed() });
    json!({ "passed": passed, "checks": results.iter().map(result).collect::<Vec<_>>() })
}

type Outputs = Result<Vec<Tensor>, TchError>;
type Function = dyn Fn(&[Tensor]) -> Outputs;

/// A function with inputs to compare it on; all inputs are differentiable.
struct Case {
    name: &'static str,
    inputs: Vec<Tensor>,
    function: Box<Function>,
}

impl Case {
    fn new(
        name: &'static str,
        shapes: &[&[i64]],
        function: impl Fn(&[Tensor]) -> Outputs + 'static,
    ) -> Result<Case, TchError> {
        let input = |shape: &&[i64]| Tensor::f_randn(*shape, (Kind::Float, Device::Cpu));
        Ok(Case { name, inputs: shapes.iter().map(input).collect::<Result<_, _>>()?, function: Box::new(function) })
    }

    /// Largest relative difference of outputs and gradients between plain operators in fp64 on the CPU (no kernel
    /// takes that kind) and `kind` on `device`.
    fn compare(&self, kind: Kind, device: Device) -> Result<f64, TchError> {
        let (expected, found) = (self.run(kind, Kind::Double, Device::Cpu)?, self.run(kind, kind, device)?);
        let mut worst: f64 = 0.0;
        for (expected, found) in expected.iter().zip(&found) {
            worst = larger(worst, relative(expected, found)?);
        }
        Ok(worst)
    }

    /// Outputs, then the gradients of the inputs, in fp32 on the CPU: of inputs rounded to `kind`, computed in
    /// `computed`.
    fn run(&self, kind: Kind, computed: Kind, device: Device) -> Outputs {
        let leaf = |input: &Tensor| {
            let rounded = input.f_to_kind(kind)?.f_to_kind(computed)?;
            rounded.f_to_device(device)?.f_detach()?.f_set_requires_grad(true)
        };
        let leaves = self.inputs.iter().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let outputs = (self.function)(&leaves)?;
        let gradient = |output: &Tensor| {
            // Cosines: a scalar has one that is not 0.
            let waves = Tensor::f_arange(output.numel() as i64, (Kind::Float, Device::Cpu))?.f_cos()?;
            waves.f_view(&output.size()[..])?.f_to_kind(kind)?.f_to_kind(output.f_kind()?)?.f_to_device(device)
        };
        let gradients = outputs.iter().map(gradient).collect::<Result<Vec<_>, _>>()?;
        autograd::backward(&outputs, &gradients)?;
        let host = |tensor: &Tensor| tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float);
        outputs.iter().map(host).chain(leaves.iter().map(|leaf| host(&leaf.grad()))).collect()
    }
}

fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn relative(expected: &Tensor, found: &Tensor) -> Result<f64, TchError> {
    let largest = |tensor: &Tensor| tensor.f_abs()?.f_max()?.f_double_value(&[]);
    Ok(largest(&expected.f_sub(found)?)? / largest(expected)?.max(f64::MIN_POSITIVE))
}

fn cases() -> Result<Vec<Case>, TchError> {
    tch::manual_seed(1);
    let ids = Tensor::f_randint(50, [2, 37], (Kind::Int64, Device::Cpu))?;
    let targets = Tensor::f_randint(50, [37], (Kind::Int64, Device::Cpu))?;
    let its_targets = targets.shallow_clone();
    let waves =
        |shape: [i64; 2]| Tensor::f_arange(shape[0] * shape[1], (Kind::Float, Device::Cpu))?.f_sin()?.f_view(shape);
    let taught = [waves([37, 24])?, waves([50, 24])?];
    let half = Tensor::f_rand([40, 8], (Kind::Float, Device::Cpu))?;
    let angles = Tensor::f_cat(&[&half, &half], 1)?;
    let mean_weights = Tensor::f_full([48], 1.0 / 48.0, (Kind::Float, Device::Cpu))?;
    Ok(vec![
        Case::new("rms_norm", &[&[2, 37, 48], &[48]], |x| {
            let (normed, again) = rms_norm::rms_norm(&x[0], &x[1], None, 1e-5)?;
            Ok(vec![normed, again])
        })?,
        Case::new("rms_norm under a mask", &[&[2, 37, 48], &[48]], move |x| {
            let weights = mean_weights.f_to_device(x[0].device())?;
            Ok(vec![rms_norm::rms_norm(&x[0], &x[1], Some(&weights), 1e-5)?.0])
        })?,
        Case::new("swiglu", &[&[2, 37, 48], &[2, 37, 48], &[48]], |x| {
            Ok(vec![swiglu::swiglu(&x[0], &x[1], Some(&x[2].f_to_kind(Kind::Float)?))?])
        })?,
        Case::new("rope", &[&[2, 37, 3, 16]], move |x| {
            let angles = angles.f_to_device(x[0].device())?;
            Ok(vec![rope::rope(&x[0], &angles.f_cos()?, &angles.f_sin()?)?])
        })?,
        Case::new("embedding", &[&[50, 48], &[48]], move |x| {
            let gate = x[1].f_to_kind(Kind::Float)?;
            Ok(vec![embedding::embedding(&ids.f_to_device(x[0].device())?, &x[0], Some(&gate))?])
        })?,
        Case::new("project", &[&[2, 37, 48], &[64, 48], &[64], &[32, 48]], |x| {
            projection::project(&x[0], &[(&x[1], Some(&x[2])), (&x[3], None)])
        })?,
        Case::new("project_gated", &[&[2, 37, 48], &[64, 48], &[64], &[48], &[2, 37, 64]], |x| {
            let (row, column) = (x[2].f_to_kind(Kind::Float)?, x[3].f_to_kind(Kind::Float)?);
            Ok(vec![projection::project_gated(&x[0], &x[1], Some(&row), Some(&column), None, &x[4])?])
        })?,
        Case::new("linear_cross_entropy", &[&[37, 48], &[50, 48]], move |x| {
            let targets = targets.f_to_device(x[0].device())?;
            Ok(vec![cross_entropy::linear_cross_entropy(&x[0], &x[1], &targets, 1.0 / 37.0, 16)?.objective])
        })?,
        Case::new("linear_distillation", &[&[37, 48], &[50, 48]], move |x| {
            let device = x[0].device();
            let [hidden, weight] = [&taught[0], &taught[1]].map(|tensor| tensor.f_to_device(device));
            let teacher = distillation::TeacherHead { hidden: &hidden?, weight: &weight? };
            let blend = distillation::Blend { share: 0.5, temperature: 2.0 };
            let targets = its_targets.f_to_device(device)?;
            let scale = 1.0 / 37.0;
            let found = distillation::linear_distillation(&x[0], &x[1], &targets, teacher, blend, scale, 16)?;
            Ok(vec![found.objective])
        })?,
        Case::new("recompute", &[&[2, 37, 48], &[48, 48]], |x| {
            let weight = x[1].shallow_clone();
            let block = move |x: &Tensor| projection::project_gated(&x.f_silu()?, &weight, None, None, None, x);
            Ok(vec![recompute::recompute(&x[0], block)?])
        })?,
        Case::new("attention", &[&[2, 137, 4, 16], &[2, 137, 2, 16], &[2, 137, 2, 16]], |x| {
            Ok(vec![attention::causal_attention(&x[0], &x[1], &x[2], None)?])
        })?,
    ])
}

/// Largest relative difference of packed experts, which have no gradient, between plain operators in fp64 on the CPU and
/// `kind` on `device`: of one token and of several.
fn experts_error(kind: Kind, device: Device) -> Result<f64, TchError> {
    tch::manual_seed(2);
    let random = |shape: &[i64]| Tensor::f_randn(shape, (Kind::Float, Device::Cpu))?.f_to_kind(kind);
    let (experts, router, bias) = (random(&[9, 96, 67])?, random(&[9, 67])?, random(&[9])?);
    let weights = |kind: Kind, vectors: Kind, device: Device| {
        Ok::<_, TchError>(PackedExperts {
            experts: experts.f_to_device(device)?.f_to_kind(kind)?,
            router: Some(router.f_to_device(device)?.f_to_kind(kind)?),
            router_bias: Some(bias.f_to_device(device)?.f_to_kind(vectors)?),
            gate_bias: None,
            up_bias: None,
            down_bias: None,
        })
    };
    let (exact, fast) = (weights(Kind::Double, Kind::Double, Device::Cpu)?, weights(kind, Kind::Float, device)?);
    let mut worst: f64 = 0.0;
    for tokens in [1, 37] {
        let (x, residual) = (random(&[1, tokens, 67])?, random(&[1, tokens, 67])?);
        let [wide, stream] = [&x, &residual].map(|tensor| tensor.f_to_kind(Kind::Double));
        let expected = sparse_feed_forward_reference(&wide?, &stream?, &exact)?;
        let found = sparse_feed_forward(&x.f_to_device(device)?, &residual.f_to_device(device)?, &fast)?;
        worst = larger(worst, relative(&expected, &found.f_to_device(Device::Cpu)?)?);
    }
    Ok(worst)
}

/// Largest relative difference of weights and moments after three updates of tensors of several sizes, more than one launch
/// takes, from plain operators on the CPU.
fn adamw_error([first_dtype, second_dtype]: [Kind; 2], device: Device) -> Result<f64, TchError> {
    tch::manual_seed(3);
    let sizes: Vec<i64> = (0..60).map(|i| [7, 4096, 20_003][i % 3]).collect();
    let fp32 = |size: &i64| Tensor::f_randn([*size], (Kind::Float, Device::Cpu));
    let masters = sizes.iter().map(fp32).collect::<Result<Vec<_>, _>>()?;
    let gradients = sizes.iter().map(fp32).collect::<Result<Vec<_>, _>>()?;
    type Update = fn(&[AdamwTensor], &AdamwRule, &Tensor, &Tensor) -> Result<(), TchError>;
    let run = |update: Update, device: Device| -> Result<Vec<Tensor>, TchError> {
        let moved = |tensor: &Tensor| tensor.f_to_device_(device, Kind::Float, false, true);
        let own = masters.iter().map(moved).collect::<Result<Vec<_>, _>>()?;
        let zeros = |dtype| own.iter().map(move |tensor| Tensor::f_zeros(tensor.size(), (dtype, device)));
        let first = zeros(first_dtype).collect::<Result<Vec<_>, _>>()?;
        let second = zeros(second_dtype).collect::<Result<Vec<_>, _>>()?;
        let split = own.iter().map(halves::split).collect::<Result<Vec<_>, _>>()?;
        for step in 1..=3 {
            let slopes = gradients.iter().map(moved).collect::<Result<Vec<_>, _>>()?;
            let tensors: Vec<AdamwTensor> = (0..own.len())
                .map(|i| {
                    let (high, low) = &split[i];
                    let in_halves = i % 2 == 0;
                    AdamwTensor {
                        values: if in_halves { high } else { &own[i] },
                        low: in_halves.then_some(low),
                        gradient: &slopes[i],
                        exp_avg: &first[i],
                        exp_avg_sq: &second[i],
                        weight_decay: 0.1,
                        first: 0,
                        key: 0,
                    }
                })
                .collect();
            let rule = AdamwRule { learning_rate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, step, maximize: false };
            let (scale, skip) = (Tensor::from(0.5f32).f_to_device(device)?, Tensor::from(0.0f32).f_to_device(device)?);
            update(&tensors, &rule, &scale, &skip)?;
        }
        let joined = split.iter().step_by(2).map(|(high, low)| halves::join(high, low));
        let mut all = joined.collect::<Result<Vec<_>, _>>()?;
        all.extend(own.iter().skip(1).step_by(2).map(Tensor::shallow_clone));
        // A moment in 8 bits may fall to the other neighbour where fp32 rounds its threshold otherwise: the weights tell.
        if first_dtype != Kind::Int8 {
            all.extend(first.iter().chain(&second).map(Tensor::shallow_clone));
        }
        all.iter().map(|tensor| tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)).collect()
    };
    let (expected, found) = (run(adamw_reference, Device::Cpu)?, run(adamw, device)?);
    let mut worst: f64 = 0.0;
    for (expected, found) in expected.iter().zip(&found) {
        worst = larger(worst, relative(expected, found)?);
    }
    Ok(worst)
}

/// Largest difference of the uniform noise of a key: the same bits on every device.
fn noise_error(device: Device) -> anyhow::Result<f64> {
    use shearling_masks::{NoiseKey, UnitKind};
    let noise = |device| -> anyhow::Result<Vec<Tensor>> {
        let trainer = Subject::tiny(device)?.trainer()?;
        let masks = trainer.masks().ok_or_else(|| anyhow::anyhow!("a run without masks"))?;
        let uniforms = masks.uniforms(&NoiseKey { seed: 5, step: 1 << 33, micro_batch: 3 })?;
        let host = |module| uniforms.get(module).map(|noise| noise.f_to_device(Device::Cpu));
        Ok(UnitKind::ALL.into_iter().filter_map(host).collect::<Result<_, _>>()?)
    };
    let mut worst: f64 = 0.0;
    for (expected, found) in noise(Device::Cpu)?.iter().zip(&noise(device)?) {
        worst = larger(worst, expected.f_sub(found)?.f_abs()?.f_max()?.f_double_value(&[])?);
    }
    Ok(worst)
}

/// Largest relative difference of the logits that a device decodes with a key/value cache, in chunks and steps, from
/// those of a full forward on the CPU.
fn decoding_error(device: Device) -> anyhow::Result<f64> {
    let subject = Subject::tiny(Device::Cpu)?;
    let weights = subject.normal_weights(Device::Cpu)?;
    let decoder = |device| {
        Decoder::build(&subject.setup.model, &mut |name| {
            let weight = weights.iter().find(|(own, _)| own == name).map(|(_, weight)| weight.f_to_device(device));
            weight.unwrap_or_else(|| Err(TchError::Shape(format!("no weight {name}"))))
        })
    };
    let ids = Tensor::f_arange(DECODED, (Kind::Int64, Device::Cpu))?.f_unsqueeze(0)?;
    let (reference, model) = (decoder(Device::Cpu)?, &subject.setup.model);
    let context = ForwardContext::new(model, DECODED, Device::Cpu)?;
    let expected = tch::no_grad(|| reference.forward(&ids, &context, &ModelGates::none()))?;
    let (decoder, mut cache) = (decoder(device)?, KvCache::new(model, 1, 8, Kind::Float, device)?);
    let mut found = Vec::new();
    while cache.length() < DECODED {
        let tokens = if cache.length() < 30 { 10 } else { 1 };
        let chunk = ids.f_narrow(1, cache.length(), tokens)?.f_to_device(device)?;
        let logits = match tokens {
            // On a GPU these are launched as one, from the second on.
            1 => decoder.next_logits(&chunk, &mut cache)?.f_unsqueeze(1)?,
            _ => decoder.forward_cached(&chunk, &mut cache)?,
        };
        found.push(logits.f_to_device(Device::Cpu)?);
    }
    if let Some(problem) = cache.recording_refusal() {
        anyhow::bail!("tokens are not launched as one CUDA graph: {problem}");
    }
    Ok(relative(&expected, &Tensor::f_cat(&found, 1)?)?)
}

/// Largest difference of what the collectives of a group of one rank give from what it gave them.
fn collectives_error(device: Device) -> anyhow::Result<f64> {
    let store = Store::serve("127.0.0.1", 0, PATIENCE)?;
    let group = ProcessGroup::connect(&store, 0, 1, device, PATIENCE)?;
    let mut worst: f64 = 0.0;
    for kind in [Kind::Float, Kind::BFloat16] {
        let own = Tensor::f_arange(1 << 12, (kind, device))?;
        let [summed, told, gathered, scattered] =
            [own.f_add_scalar(0.0)?, own.f_add_scalar(0.0)?, own.f_zeros_like()?, own.f_zeros_like()?];
        group.all_reduce(&summed, Reduction::Sum)?.wait()?;
        group.broadcast(&told, 0)?.wait()?;
        group.all_gather(&gathered, &own)?.wait()?;
        group.reduce_scatter(&scattered, &own, Reduction::Sum)?.wait()?;
        for found in [summed, told, gathered, scattered] {
            worst = larger(worst, relative(&own, &found)?);
        }
    }
    Ok(worst)
}

/// Largest relative difference of the losses of a few steps from the same weights; with `sharded` the weights of a layer have
/// memory only while it runs, as those that are sharded over ranks.
fn steps_error(device: Device, sharded: bool) -> anyhow::Result<f64> {
    let (cpu, mut other) = (Subject::tiny(Device::Cpu)?, Subject::tiny(device)?);
    other.setup.mesh = sharded.then(Mesh::alone);
    let weights = || cpu.normal_weights(Device::Cpu);
    let moved = weights()?.into_iter().map(|(name, weight)| Ok((name, weight.f_to_device(device)?)));
    let moved = moved.collect::<Result<Vec<_>, TchError>>()?;
    let mut expected = Trainer::with_weights(&cpu.setup, weights()?)?;
    let mut found = Trainer::with_weights(&other.setup, moved)?;
    let mut worst: f64 = 0.0;
    for _ in 0..STEPS {
        let (expected, found) = (expected.step()?, found.step()?);
        for (a, b) in [(expected.cross_entropy, found.cross_entropy), (expected.norms.total, found.norms.total)] {
            worst = larger(worst, (a - b).abs() / a.abs().max(f64::MIN_POSITIVE));
        }
    }
    Ok(worst)
}
