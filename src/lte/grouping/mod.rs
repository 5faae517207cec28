//! Which intermediate units of a layer make up an expert.
//!
//! ```text
//! gate rows [F, D] (one layer in memory) ─► unit length ─► balanced k-means ─► order of units
//! calibration rows ─► activity of units   ─► projection ─► balanced k-means ─► order of units      (co-activation)
//! seed                                                    ─► shuffle         ─► order of units      (random)
//! ```
//!
//! The features are the rows of the gate projection alone, each of length one, as in LTE and in the code
//! of MoEfication (arXiv 2110.01786), which it follows. Inertia is always that of these rows, whatever units were grouped by, so
//! that methods can be compared.

mod auction;
mod co_activation;
mod k_means;

use super::division::{Division, random_inertia};
use super::error::Error;
use super::experts::{Experts, Grouping, LayerExperts, Stage};
use super::file::is_lte;
use crate::hf::Checkpoint;
use crate::model::Role;
use crate::prune::convert::require_complete;
use crate::prune::scores::{Calibration, Progress};
use shearling_noise::{NoiseKey, Purpose, Stream};
use tch::{Device, Kind, TchError, Tensor};

/// How to group.
#[derive(Clone, Copy, Debug)]
pub struct GroupingOptions {
    /// Units of an expert.
    pub expert_size: i64,
    /// What is alike.
    pub method: Grouping,
    /// Seed of everything random.
    pub seed: u64,
}

/// A grouping, and what there is to compare it with.
#[derive(Debug)]
pub struct Grouped {
    /// The experts, without routers.
    pub experts: Experts,
    /// By layer, the inertia that random groups have on average.
    pub random_inertia: Vec<f64>,
}

/// Groups the units of every layer of `source`. `rows` are needed for co-activation only.
///
/// # Errors
/// A source that is grouped already, lacks weights or has some that are not finite; a size that no layer has; libtorch's.
pub fn group(
    source: &Checkpoint,
    options: &GroupingOptions,
    rows: Option<&Calibration>,
    device: Device,
    progress: &mut Progress,
) -> Result<Experts, Error> {
    Ok(group_measured(source, options, rows, device, progress)?.experts)
}

/// As [`group`], with the inertia of random groups.
///
/// # Errors
/// As [`group`].
pub fn group_measured(
    source: &Checkpoint,
    options: &GroupingOptions,
    rows: Option<&Calibration>,
    device: Device,
    progress: &mut Progress,
) -> Result<Grouped, Error> {
    let _no_grad = tch::no_grad_guard();
    let model = source.model();
    let (units, size) = (model.intermediate_size, options.expert_size);
    if is_lte(source.dir()) {
        return Err(Error::AlreadyGrouped { folder: source.dir().to_path_buf() });
    }
    if !(1..=units).contains(&size) {
        return Err(Error::ExpertSize { expert_size: size, units });
    }
    require_complete(source, model)?;
    let activity = match options.method {
        Grouping::CoActivation => {
            let rows = rows.ok_or(Error::NeedsRows)?;
            Some(co_activation::features(source, rows, options.seed, device, progress)?)
        }
        Grouping::KMeans | Grouping::Random => None,
    };
    let (mut layers, mut random) = (Vec::new(), Vec::new());
    for layer in 0..model.num_hidden_layers {
        progress("grouping layer", layer as usize, model.num_hidden_layers as usize);
        let name = Role::GateWeight.name(Some(layer));
        let rows = unit_rows(&source.finite_tensor(&name, Kind::Float, device)?)?;
        let features = activity.as_ref().and_then(|layers| layers.get(layer as usize)).unwrap_or(&rows);
        let (found, inertia) = divide(features, &rows, options, layer)?;
        let permutation = found.permutation();
        layers.push(LayerExperts { permutation, inertia: Some(inertia), router: None, density: None });
        random.push(random_inertia(&rows, found.sizes().len())?);
        source.release();
    }
    let experts = Experts {
        expert_size: size,
        living_units: units,
        grouping: options.method,
        seed: options.seed,
        stage: Stage::Grouped,
        density: None,
        layers,
    };
    Ok(Grouped { experts, random_inertia: random })
}

/// Groups of one layer by its `features [F, ·]`, and their inertia in its gate rows `[F, D]`.
fn divide(
    features: &Tensor,
    gate_rows: &Tensor,
    options: &GroupingOptions,
    layer: i64,
) -> Result<(Division, f64), TchError> {
    let size = options.expert_size as usize;
    let name = format!("layer-{layer}");
    let shuffled = shuffled(gate_rows.size()[0] as usize, size, options.seed, &name);
    let found = match options.method {
        Grouping::KMeans => return k_means::k_means(gate_rows, shuffled, size, options.seed, &name),
        Grouping::CoActivation => k_means::k_means(features, shuffled, size, options.seed, &name)?.0,
        Grouping::Random => shuffled,
    };
    let inertia = found.inertia(gate_rows, &found.sums(gate_rows)?)?;
    Ok((found, inertia))
}

/// Groups of units in random order.
fn shuffled(units: usize, size: usize, seed: u64, name: &str) -> Division {
    let key = NoiseKey { seed, step: 0, micro_batch: 0 };
    let draws = Stream::new(&key, Purpose::Grouping, &format!("{name}/shuffle")).uniforms(units, f32::MIN_POSITIVE);
    let mut order: Vec<u32> = (0..units as u32).collect();
    order.sort_by(|a, b| draws[*a as usize].total_cmp(&draws[*b as usize]).then(a.cmp(b)));
    Division::in_order(&order, size)
}

/// Rows of length one; a row of zeros stays as it is.
fn unit_rows(x: &Tensor) -> Result<Tensor, TchError> {
    let norms = x.f_norm_scalaropt_dim_dtype(2.0, [1i64], true, Kind::Float)?;
    x.f_div(&norms.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)
}

#[cfg(test)]
mod tests;
