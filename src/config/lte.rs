//! The table `[lte]`: how a model is taught to run few of its experts (LTE, arXiv 2402.06126). The doc line of a field is its
//! reference.

use serde::{Deserialize, Serialize};

/// `[lte]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lte {
    /// What holds the density: `robust` (the asked `density`, by a common shift of all routers) or `paper` (penalties alone).
    pub mode: LteMode,
    /// Share of the intermediate units that run, mean over tokens and layers; of `robust` alone.
    pub density: f64,
    /// Steps of stage 1, in which routers train; in the rest they are frozen. Half of the run when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_steps: Option<u64>,
    /// Steps over which the density falls from 1 to the asked one; none when absent, or half of `router_steps` with `warm_start = false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub density_steps: Option<u64>,
    /// Intermediate units of an expert.
    pub expert_size: i64,
    /// How units are grouped, where the model is not grouped yet.
    pub grouping: Grouping,
    /// Layers that get a router, counted from 0; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<i64>>,
    /// How scores act in stage 1: `soft` (they multiply; `paper`) or `straight-through` (experts run or do not; `robust`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<ScoreForward>,
    /// η: weight of the mean squared score in the loss of stage 1; 1 under `paper`, 0 under `robust`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<f64>,
    /// λ: weight of the mean inverse squared distance of scores from ½; 0.5 under `paper`, 0 under `robust`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separability: Option<f64>,
    /// ε in that distance, without which the penalty is infinite at ½.
    pub epsilon: f64,
    /// Whether routers start from what each expert contributes on calibration rows; true under `robust`, false under `paper`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_start: Option<bool>,
    /// Training rows that this is measured on.
    pub calibration_rows: usize,
    /// Peak learning rate of the routers; that of the weights when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_learning_rate: Option<f64>,
}

/// What holds the density.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LteMode {
    /// A shift common to all routers that follows what is asked for.
    #[default]
    Robust,
    /// The paper's penalties.
    Paper,
}

/// How intermediate units are grouped into experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// Balanced k-means on L2-normalised rows of the gate projection.
    #[default]
    KMeans,
    /// By how often units are active together.
    CoActivation,
    /// At random: an ablation.
    Random,
}

/// How scores act in stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreForward {
    /// They multiply their expert.
    Soft,
    /// Experts run or do not; the gradient is the score's.
    StraightThrough,
}

impl Default for Lte {
    fn default() -> Lte {
        Lte {
            mode: LteMode::Robust,
            density: 0.5,
            router_steps: None,
            density_steps: None,
            expert_size: 32,
            grouping: Grouping::KMeans,
            layers: None,
            forward: None,
            efficiency: None,
            separability: None,
            epsilon: 0.01,
            warm_start: None,
            calibration_rows: 64,
            router_learning_rate: None,
        }
    }
}

impl Lte {
    fn is_robust(&self) -> bool {
        self.mode == LteMode::Robust
    }

    /// Steps of stage 1 in a run of `steps`.
    pub fn router_steps(&self, steps: u64) -> u64 {
        self.router_steps.unwrap_or(steps / 2).min(steps)
    }

    /// Steps over which the density falls, in a run of `steps`. Routers that start from contributions know what to run, and every step
    /// with more experts than will run is one less to learn without the others.
    pub fn density_steps(&self, steps: u64) -> u64 {
        let default = if self.warm_start() { 0 } else { self.router_steps(steps) / 2 };
        self.density_steps.unwrap_or(default)
    }

    /// The density to reach after `finished` steps of a run of `steps`; `None` where nothing holds it.
    pub fn density_at(&self, finished: u64, steps: u64) -> Option<f64> {
        let over = self.density_steps(steps).max(1);
        let progress = (finished as f64 / over as f64).min(1.0);
        let progress = if self.density_steps(steps) == 0 { 1.0 } else { progress };
        self.is_robust().then_some(1.0 - (1.0 - self.density) * progress)
    }

    /// How scores act in stage 1.
    pub fn forward(&self) -> ScoreForward {
        let default = if self.is_robust() { ScoreForward::StraightThrough } else { ScoreForward::Soft };
        self.forward.unwrap_or(default)
    }

    /// η.
    pub fn efficiency(&self) -> f64 {
        self.efficiency.unwrap_or(if self.is_robust() { 0.0 } else { 1.0 })
    }

    /// λ.
    pub fn separability(&self) -> f64 {
        self.separability.unwrap_or(if self.is_robust() { 0.0 } else { 0.5 })
    }

    /// Whether routers start from contributions.
    pub fn warm_start(&self) -> bool {
        self.warm_start.unwrap_or(self.is_robust())
    }

    /// Peak learning rate of the routers beside one of the weights.
    pub fn router_learning_rate(&self, weights: f64) -> f64 {
        self.router_learning_rate.unwrap_or(weights)
    }

    /// Whether layer `layer` gets a router.
    pub fn routes(&self, layer: i64) -> bool {
        self.layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }

    /// The same with every default that follows from the number of steps written out.
    pub fn resolved(&self, train: &super::Train) -> Lte {
        Lte {
            router_steps: Some(self.router_steps(train.steps)),
            density_steps: Some(self.density_steps(train.steps)),
            router_learning_rate: Some(self.router_learning_rate(train.learning_rate)),
            ..self.clone()
        }
    }
}
