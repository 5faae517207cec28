//! What an `lte` run begins with: units grouped into experts, and a router in every layer that gets one.
//!
//! ```text
//! source ─► grouping, unless its folder is grouped already ─► weights in that order ─► routers: warm start, or drawn
//! ```

use super::Error;
use super::calibration::calibration_of;
use super::setup::Setup;
use super::start::Start;
use super::weight_stream::{Weight, decoder_over, each_parameter, given, stored_weights};
use crate::config::{Lte, LteMode};
use crate::hf::Checkpoint;
use crate::lte::grouping::{GroupingOptions, group};
use crate::lte::permute::permuted_weight;
use crate::lte::warm_start::{Shares, warm_start};
use crate::lte::{self, Experts};
use crate::model::Parameter;
use crate::model::router::Router;
use crate::prune::scores::Progress;
use shearling_noise::weight_normals;
use tch::{Kind, Tensor};

/// Standard deviation of a drawn router's weights, as of a transformer's other linear maps.
const DRAWN_SPREAD: f64 = 0.02;

/// Groups, permutes, and gives routers.
pub(super) fn start_routed<'a>(
    setup: &Setup,
    lte: &Lte,
    source: &'a Checkpoint,
    progress: &mut Progress,
) -> Result<Start<'a>, Error> {
    let rows = calibration_of(setup, lte.calibration_rows)?;
    let device = setup.device;
    let (mut experts, weights): (_, Result<_, Error>) = match lte::file::read(source.dir(), &setup.model, setup.device)?
    {
        Some(found) => (found, stored_weights(source, &setup.model, Kind::Float, setup.device).collect()),
        None => {
            let options =
                GroupingOptions { expert_size: lte.expert_size, method: lte.grouping, seed: setup.config.run.seed };
            let experts = group(source, &options, Some(&rows), setup.device, progress)?;
            let weight = |p: Parameter| -> Result<_, Error> {
                let weight = permuted_weight(source, &experts, &p, setup.device)?.f_to_kind(Kind::Float)?;
                Ok((p.name.clone(), weight.f_contiguous()?))
            };
            let weights = each_parameter(source, &setup.model, weight).collect();
            (experts, weights)
        }
    };
    // Whole, since routers are warmed up on them.
    let weights: Vec<Weight> = weights?;
    // Routers of an earlier run go on where they are still wanted; layers that have none get one.
    for (layer, found) in experts.layers.iter_mut().enumerate() {
        found.router = found.router.take().filter(|_| lte.routes(layer as i64));
    }
    let known: Vec<bool> = experts.layers.iter().map(|layer| layer.router.is_some()).collect();
    let wanted = |layer: i64| lte.routes(layer) && !known.get(layer as usize).copied().unwrap_or(false);
    if lte.mode == LteMode::Robust {
        // The paper's routers have none, and it is biases that hold the density.
        experts = experts.with_routers(|router| router.with_bias(device))?;
    }
    if !known.contains(&false) {
        return Ok(routed(weights, experts));
    }
    if lte.warm_start() {
        let named = weights.iter().map(|(name, weight)| (name.as_str(), weight.shallow_clone()));
        let model = decoder_over(&setup.model, named)?;
        let start = lte.density_at(1, setup.config.train.steps).unwrap_or(lte.density);
        let shares = Shares { label: lte.density, start };
        warm_start(&mut experts, &model, &rows, shares, &wanted, progress)?;
    } else {
        draw(&mut experts, setup, lte, &wanted)?;
    }
    Ok(routed(weights, experts))
}

fn routed<'a>(weights: Vec<Weight>, experts: Experts) -> Start<'a> {
    Start { weights: given(weights.into_iter().map(Ok)), masks: None, experts: Some(experts) }
}

/// Routers as the paper leaves open how to draw them: alike in every direction, near the threshold; with a bias where it is
/// shifted.
fn draw(experts: &mut Experts, setup: &Setup, lte: &Lte, wanted: &dyn Fn(i64) -> bool) -> Result<(), Error> {
    let shape = [experts.experts(), setup.model.hidden_size];
    for (layer, found) in experts.layers.iter_mut().enumerate().filter(|(layer, _)| wanted(*layer as i64)) {
        let name = format!("layers.{layer}.router.weight");
        let normals = weight_normals(setup.config.run.seed, &name, (shape[0] * shape[1]) as usize);
        let weight = Tensor::f_from_slice(&normals)?.f_mul_scalar(DRAWN_SPREAD)?.f_view(shape)?;
        let bias = Tensor::f_zeros([shape[0]], (Kind::Float, setup.device))?;
        let bias = Some(bias).filter(|_| lte.mode == LteMode::Robust);
        found.router = Some(Router { weight: weight.f_to_device(setup.device)?, bias });
    }
    Ok(())
}
