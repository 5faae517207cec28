//! Features of units by when they are active: units that are active for the same tokens come to lie close together.
//!
//! A unit is active for a token if its activation (the input of the down projection) is among the largest quarter of the
//! layer's, by magnitude. a_it is 1 where unit i is active for token t, else 0, and p_i its mean. With a random matrix R `[tokens, K]`
//!
//! ```text
//! f_i = Σ_t (a_it − p_i) R_t / ‖…‖        f_i·f_j ≈ correlation of the activity of units i and j, to about 1/√K
//! ```
//!
//! so that balanced k-means on f groups by correlation, and tokens need not be held.

use super::super::error::Error;
use super::unit_rows;
use crate::hf::Checkpoint;
use crate::model::ModelConfig;
use crate::model::probe::Site;
use crate::prune::scores::walk::{Visitor, walk};
use crate::prune::scores::{Calibration, Progress};
use shearling_noise::{NoiseKey, Purpose, Stream};
use tch::{Device, Kind, TchError, Tensor};

/// K.
const PROJECTED: i64 = 256;
/// One unit of so many is active for a token.
const ONE_OF: i64 = 4;

/// Unit features `[F, K]` of every layer.
pub(super) fn features(
    source: &Checkpoint,
    rows: &Calibration,
    seed: u64,
    device: Device,
    progress: &mut Progress,
) -> Result<Vec<Tensor>, Error> {
    let mut activity = Activity::new(source.model(), seed, device)?;
    walk(source, rows, device, &mut activity, "watching units of layer", progress)?;
    Ok(activity.finish()?)
}

/// What is summed up over tokens.
struct Activity {
    seed: u64,
    layers: Vec<LayerActivity>,
}

struct LayerActivity {
    /// Σ_t a_t R_tᵀ `[F, K]`.
    projected: Tensor,
    /// Σ_t a_t `[F]`.
    active: Tensor,
    /// Σ_t R_t `[K]`.
    drawn: Tensor,
    tokens: i64,
    /// Parts of the rows that were seen: the random matrix is drawn part by part, the same for every layer.
    parts: u64,
}

impl Activity {
    fn new(model: &ModelConfig, seed: u64, device: Device) -> Result<Activity, TchError> {
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Float, device));
        let layer = |_| {
            Ok(LayerActivity {
                projected: zeros(&[model.intermediate_size, PROJECTED])?,
                active: zeros(&[model.intermediate_size])?,
                drawn: zeros(&[PROJECTED])?,
                tokens: 0,
                parts: 0,
            })
        };
        Ok(Activity { seed, layers: (0..model.num_hidden_layers).map(layer).collect::<Result<_, TchError>>()? })
    }

    fn finish(self) -> Result<Vec<Tensor>, TchError> {
        self.layers.into_iter().map(LayerActivity::features).collect()
    }
}

impl LayerActivity {
    fn add(&mut self, seed: u64, seen: &Tensor) -> Result<(), TchError> {
        let units = self.active.size()[0];
        let size = seen.f_to_kind(Kind::Float)?.f_view([-1, units])?.f_abs()?;
        let tokens = size.size()[0];
        let count = (units / ONE_OF).max(1);
        let (_, largest) = size.f_topk(count, -1, true, false)?;
        let active = size.f_zeros_like()?.f_scatter_value(1, &largest, 1.0)?;
        let key = NoiseKey { seed, step: 0, micro_batch: self.parts };
        let normals = Stream::new(&key, Purpose::Grouping, "co-activation").normals((tokens * PROJECTED) as usize);
        let normals: Vec<f32> = normals.into_iter().map(|x| x as f32).collect();
        let random = Tensor::f_from_slice(&normals)?.f_view([tokens, PROJECTED])?.f_to_device(seen.device())?;
        let _ = self.projected.f_add_(&active.f_transpose(0, 1)?.f_matmul(&random)?)?;
        let _ = self.active.f_add_(&active.f_sum_dim_intlist(&[0i64][..], false, Kind::Float)?)?;
        let _ = self.drawn.f_add_(&random.f_sum_dim_intlist(&[0i64][..], false, Kind::Float)?)?;
        self.tokens += tokens;
        self.parts += 1;
        Ok(())
    }

    fn features(self) -> Result<Tensor, TchError> {
        let share = self.active.f_div_scalar(self.tokens.max(1) as f64)?;
        unit_rows(&self.projected.f_sub(&share.f_outer(&self.drawn)?)?)
    }
}

impl Visitor for Activity {
    fn inside(&mut self, layer: i64, site: Site, seen: &Tensor) -> Result<(), TchError> {
        match (site, self.layers.get_mut(layer as usize)) {
            (Site::Intermediate, Some(sums)) => sums.add(self.seed, seen),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve units in three sets of four, each set active together: features tell by their products who belongs together.
    #[test]
    fn products_of_features_are_correlations_of_activity() {
        let model_units = 12;
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let mut layer = LayerActivity {
            projected: zeros(&[model_units, PROJECTED]),
            active: zeros(&[model_units]),
            drawn: zeros(&[PROJECTED]),
            tokens: 0,
            parts: 0,
        };
        let units: Vec<i64> = (0..model_units).map(|unit| unit % 3).collect();
        let units = Tensor::from_slice(&units);
        for part in 0..6 {
            // A quarter of twelve is three of the four; a fourth of a set is the largest by turns.
            let which = Tensor::arange_start(part, part + 40, (Kind::Int64, Device::Cpu)).remainder(3).unsqueeze(1);
            let noise =
                Tensor::from_slice(&shearling_noise::weight_normals(part as u64, "noise", 40 * 12)).view([40, 12]);
            let seen = units.unsqueeze(0).eq_tensor(&which).to_kind(Kind::Float) * 10.0 + noise;
            layer.add(5, &seen.view([2, 20, 12])).unwrap();
        }
        assert_eq!((layer.tokens, layer.parts), (240, 6));
        let features = layer.features().unwrap();
        let products = features.matmul(&features.transpose(0, 1));
        for (a, b) in (0..model_units).flat_map(|a| (0..a).map(move |b| (a, b))) {
            let product = products.double_value(&[a, b]);
            assert_eq!(product > 0.25, a % 3 == b % 3, "{a} {b}: {product}");
        }
    }
}
