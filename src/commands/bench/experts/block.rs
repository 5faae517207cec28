//! The feed-forward block alone: norm, projections, residual. Dense and sparse sides take turns at every layer, each with
//! weights of its own, so that whatever the machine does meanwhile meets both. On a GPU each side is one CUDA graph over all
//! layers: what is timed is then its work, not the host's launches.

use super::clock::timed;
use super::report::{Measured, Row};
use super::weights::{Source, bias_for, experts_of};
use crate::cli::Printer;
use crate::lte::experts::EXPERT_SIZE;
use crate::model::ModelConfig;
use crate::native::kernels;
use crate::native::ops::projection::project_gated;
use crate::native::ops::rms_norm::rms_norm;
use crate::native::ops::sparse_feed_forward::{PackedExperts, running_experts, sparse_feed_forward};
use crate::native::ops::token_maps::{Norm, swiglu_normed};
use crate::native::runtime::bandwidth::Bandwidth;
use crate::native::runtime::cuda_graph::CudaGraph;
use tch::{Device, Kind, TchError, Tensor};

/// Bytes of one side's weights: many times the largest cache of most machines.
const SIDE_BYTES: i64 = 3 << 29;

/// A layer in both forms.
struct Layer {
    norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    packed: PackedExperts,
}

impl Layer {
    fn new(source: &Source, model: &ModelConfig) -> Result<Layer, TchError> {
        let (dim, units) = (model.hidden_size, model.intermediate_size);
        let bias = Tensor::f_zeros([experts_of(model)], (Kind::Float, source.device))?;
        Ok(Layer {
            norm: source.ones(&[dim])?,
            gate: source.weight(&[units, dim])?,
            up: source.weight(&[units, dim])?,
            down: source.weight(&[dim, units])?,
            packed: source.packed(model, &bias)?,
        })
    }

    /// As `model::feed_forward` does it.
    fn dense(&self, x: &Tensor, eps: f64) -> Result<Tensor, TchError> {
        let norm = Norm { weight: &self.norm, eps };
        let inner = swiglu_normed(x, norm, (&self.gate, None), (&self.up, None))?;
        project_gated(&inner, &self.down, None, None, None, x)
    }

    /// As `model::packed_feed_forward` does it.
    fn sparse(&self, x: &Tensor, eps: f64) -> Result<Tensor, TchError> {
        let (normed, x) = rms_norm(x, &self.norm, None, eps)?;
        sparse_feed_forward(&normed, &x, &self.packed)
    }

    /// Lets a share of the experts run; gives how many do for `x`.
    fn choose(&mut self, density: f64, x: &Tensor, eps: f64) -> Result<f64, TchError> {
        if let Some(bias) = &mut self.packed.router_bias {
            let _ = bias.f_fill_(bias_for(density)?)?;
        }
        let (normed, _) = rms_norm(x, &self.norm, None, eps)?;
        running_experts(&normed, &self.packed)?.f_sum(Kind::Double)?.f_double_value(&[])
    }
}

/// Rounds over all layers at all densities.
pub(super) fn measure(
    model: &ModelConfig,
    densities: &[f64],
    rounds: usize,
    (kind, device): (Kind, Device),
    printer: &Printer,
) -> anyhow::Result<Measured> {
    let element = kind.elt_size_in_bytes() as i64;
    let layer_bytes = 3 * model.intermediate_size * model.hidden_size * element;
    let count = (SIDE_BYTES / layer_bytes + 1).max(2);
    printer.note(format!("{count} layers of {} experts, dense and packed", experts_of(model)));
    let source = Source::new(model.initializer_range, kind, device)?;
    let layers = (0..count).map(|_| Layer::new(&source, model));
    let mut layers = layers.collect::<Result<Vec<_>, TchError>>()?;
    let recorded = match device {
        Device::Cuda(gpu) if kernels::compute_on(device) => Some(Recorded::new(&layers, model, (kind, gpu))?),
        _ => None,
    };
    let bandwidth = Bandwidth::in_huge_pages(device)?;
    let row = |density| Row { density, bytes: 0.0, seconds: Vec::new(), dense_seconds: Vec::new() };
    let mut rows: Vec<Row> = [None].into_iter().chain(densities.iter().copied().map(Some)).map(row).collect();
    let mut rates = Vec::new();
    // The first round is a warm-up.
    for round in 0..=rounds {
        let (seconds, _) = timed(device, || Ok(bandwidth.measure()?))?;
        rates.push(bandwidth.bytes() as f64 / seconds);
        let steps = match &recorded {
            Some(recorded) => vec![recorded.round(&mut layers, model, &rows)?],
            None => {
                let each = layers.iter_mut().map(|layer| round_of_layer(layer, model, &rows, (kind, device)));
                each.collect::<anyhow::Result<Vec<_>>>()?
            }
        };
        for steps in steps.iter().filter(|_| round > 0) {
            for (row, step) in rows.iter_mut().zip(steps) {
                row.seconds.push(step.seconds);
                row.dense_seconds.push(step.dense_seconds);
                row.bytes += step.bytes;
            }
        }
    }
    for row in &mut rows {
        row.bytes /= row.seconds.len().max(1) as f64;
    }
    rates.remove(0);
    Ok(Measured { rows, bandwidth: rates })
}

/// Both sides of all layers, one layer after the other, as a CUDA graph each.
struct Recorded {
    device: Device,
    input: Tensor,
    dense: CudaGraph,
    sparse: CudaGraph,
    /// Where they write.
    _outputs: [Tensor; 2],
}

impl Recorded {
    fn new(layers: &[Layer], model: &ModelConfig, (kind, gpu): (Kind, usize)) -> anyhow::Result<Recorded> {
        let (device, eps) = (Device::Cuda(gpu), model.rms_norm_eps);
        let input = random_input(model, (kind, device))?;
        let through = |side: &dyn Fn(&Layer, &Tensor) -> Result<Tensor, TchError>| {
            tch::no_grad(|| layers.iter().try_fold(input.shallow_clone(), |x, layer| side(layer, &x)))
        };
        let dense = || through(&|layer, x| layer.dense(x, eps));
        let sparse = || through(&|layer, x| layer.sparse(x, eps));
        // Once as they are: what is loaded at first use cannot be recorded.
        drop((dense()?, sparse()?));
        let ((dense, of_dense), (sparse, of_sparse)) =
            (CudaGraph::record(gpu, dense)?, CudaGraph::record(gpu, sparse)?);
        Ok(Recorded { device, input, dense, sparse, _outputs: [of_dense, of_sparse] })
    }

    /// The time of a layer at every density, the mean over all layers.
    fn round(&self, layers: &mut [Layer], model: &ModelConfig, rows: &[Row]) -> anyhow::Result<Vec<Step>> {
        let (eps, kind, count) = (model.rms_norm_eps, self.input.f_kind()?, layers.len() as f64);
        let element = kind.elt_size_in_bytes() as i64;
        let dense_seconds = timed(self.device, || Ok(self.dense.replay()?))?.0 / count;
        let mut steps = Vec::new();
        for row in rows {
            let Some(density) = row.density else {
                steps.push(Step { seconds: dense_seconds, dense_seconds, bytes: dense_bytes(model, element) });
                continue;
            };
            // Another input each time: other experts.
            self.input.shallow_clone().f_copy_(&random_input(model, (kind, self.device))?)?;
            let (mut x, mut running) = (self.input.shallow_clone(), 0.0);
            for layer in layers.iter_mut() {
                running += layer.choose(density, &x, eps)? / count;
                x = tch::no_grad(|| layer.sparse(&x, eps))?;
            }
            let seconds = timed(self.device, || Ok(self.sparse.replay()?))?.0 / count;
            steps.push(Step { seconds, dense_seconds, bytes: sparse_bytes(model, running, element) });
        }
        Ok(steps)
    }
}

fn random_input(model: &ModelConfig, (kind, device): (Kind, Device)) -> Result<Tensor, TchError> {
    Tensor::f_randn([1, 1, model.hidden_size], (Kind::Float, device))?.f_to_kind(kind)
}

/// Bytes that a dense block reads.
fn dense_bytes(model: &ModelConfig, element: i64) -> f64 {
    (3 * model.intermediate_size * model.hidden_size * element) as f64
}

/// Bytes that a block reads of which so many experts run, its router in them.
fn sparse_bytes(model: &ModelConfig, running: f64, element: i64) -> f64 {
    let dim = model.hidden_size;
    (running * (3 * EXPERT_SIZE * dim) as f64 + (experts_of(model) * dim) as f64) * element as f64
}

/// A step of a row, with the dense step that was timed beside it.
struct Step {
    seconds: f64,
    dense_seconds: f64,
    bytes: f64,
}

fn round_of_layer(
    layer: &mut Layer,
    model: &ModelConfig,
    rows: &[Row],
    (kind, device): (Kind, Device),
) -> anyhow::Result<Vec<Step>> {
    let (eps, element) = (model.rms_norm_eps, kind.elt_size_in_bytes() as i64);
    let x = || random_input(model, (kind, device));
    let (input, mut steps) = (x()?, Vec::new());
    let (dense_seconds, _) = timed(device, || Ok(tch::no_grad(|| layer.dense(&input, eps))?))?;
    for row in rows {
        let Some(density) = row.density else {
            steps.push(Step { seconds: dense_seconds, dense_seconds, bytes: dense_bytes(model, element) });
            continue;
        };
        // Another input each time: other experts.
        let input = x()?;
        let running = layer.choose(density, &input, eps)?;
        let (seconds, _) = timed(device, || Ok(tch::no_grad(|| layer.sparse(&input, eps))?))?;
        steps.push(Step { seconds, dense_seconds, bytes: sparse_bytes(model, running, element) });
    }
    Ok(steps)
}
