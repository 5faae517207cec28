//! What an LTE folder says beside its weights: how intermediate units are grouped, and the routers.

pub use crate::config::Grouping;
use crate::model::router::Router;
use serde::{Deserialize, Serialize};
use tch::{Device, TchError};

/// Intermediate units of an expert in the paper: where a router costs 1/96 of the feed-forward.
pub const EXPERT_SIZE: i64 = 32;

/// Grouping and routers of a model.
#[derive(Debug)]
pub struct Experts {
    /// Units of an expert.
    pub expert_size: i64,
    /// Units of a layer that do something. Where `expert_size` does not divide them the model is padded with units whose
    /// weights are zero, all in the last expert.
    pub living_units: i64,
    /// How units were grouped.
    pub grouping: Grouping,
    /// Seed of the grouping.
    pub seed: u64,
    /// How far the model has been taught.
    pub stage: Stage,
    /// Mean share of living units that run, as measured at the end; `None` before routers are trained.
    pub density: Option<f64>,
    /// By layer.
    pub layers: Vec<LayerExperts>,
}

/// Grouping and router of one layer.
#[derive(Debug)]
pub struct LayerExperts {
    /// Unit `permutation[i]` of the model before grouping is unit i now (a padded unit counts up from the living ones).
    pub permutation: Vec<u32>,
    /// Sum of squared distances from rows to the centres of their experts; `None` where no centres were sought.
    pub inertia: Option<f64>,
    /// `None`: the layer is dense.
    pub router: Option<Router>,
    /// Its share of living units that run, as measured at the end.
    pub density: Option<f64>,
}

/// How far a model has been taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Units are grouped; there are no routers.
    Grouped,
    /// Routers train with the weights (stage 1).
    Routers,
    /// Routers are frozen, the weights adapt to the experts that run (stage 2).
    Adapted,
}

impl Experts {
    /// N: experts of a layer.
    pub fn experts(&self) -> i64 {
        (self.living_units + self.expert_size - 1) / self.expert_size
    }

    /// The same with all routers on `device`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn to_device(&self, device: Device) -> Result<Experts, TchError> {
        self.with_routers(|router| router.to_device(device))
    }

    /// The same with what `change` makes of each router.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn with_routers(&self, change: impl Fn(&Router) -> Result<Router, TchError>) -> Result<Experts, TchError> {
        let layers = self.layers.iter().map(|layer| {
            let router = layer.router.as_ref().map(&change).transpose()?;
            let LayerExperts { permutation, inertia, density, .. } = layer;
            Ok(LayerExperts { permutation: permutation.clone(), inertia: *inertia, router, density: *density })
        });
        let layers = layers.collect::<Result<_, TchError>>()?;
        let Experts { expert_size, living_units, grouping, seed, stage, density, .. } = *self;
        Ok(Experts { expert_size, living_units, grouping, seed, stage, density, layers })
    }

    /// Layers that have a router.
    pub fn routed_layers(&self) -> usize {
        self.layers.iter().filter(|layer| layer.router.is_some()).count()
    }

    /// What part of a layer's living units each expert has `[N]`: the last one may be padded.
    pub fn living_shares(&self) -> Vec<f32> {
        let of = |expert: i64| (self.living_units - expert * self.expert_size).min(self.expert_size);
        (0..self.experts()).map(|expert| of(expert) as f32 / self.living_units as f32).collect()
    }
}
