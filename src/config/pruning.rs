//! The tables that only `prune` reads: `[masks]` (how masks are learned) and `[prune]` (how units are chosen, and the cut). The
//! doc line of a field is its reference.

use super::via::Via;
use crate::files::DType;
use serde::{Deserialize, Serialize};
use shearling_masks::{Deterministic, GateNoise, Gating, HardConcrete, MaskPreset, OpenCount, Options, TopK};

/// `[masks]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Masks {
    /// How log α become gates: `llm-shearing` (the original's constants), `top-k` (an exact number of open units) or
    /// `deterministic` (gates trained themselves, above 1 if that helps).
    pub preset: MaskPreset,
    /// Peak learning rate of the masks' log α; 1 under `llm-shearing`, with `anti_windup` 120 over `train.steps` if that is
    /// less; 4 over `train.steps` under `top-k`, 8 over `train.steps` under `deterministic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Peak learning rate of the multipliers (ascent); as that of log α under `llm-shearing`, 20 over `train.steps` under
    /// `deterministic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier_learning_rate: Option<f64>,
    /// Steps over which the targets grow from 0; the recipe uses 20 % of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Where log α start: `scores` (of activations) or `open` (alike, or drawn under `top-k`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<MaskInit>,
    /// Distance of a standard deviation of the scores' logarithms, in log α.
    pub init_strength: f64,
    /// Noise of the gates: `sampled` at every step, `annealed` to none, or `none`; of `llm-shearing` alone, as the next two.
    #[serde(skip_serializing_if = "is_default")]
    pub noise: GateNoise,
    /// What counts as open: the `probability` of a gate above 0, or that without its bias at the ends (`unbiased`).
    #[serde(skip_serializing_if = "is_default")]
    pub count: OpenCount,
    /// Halves a multiplier that still pushes when its target is passed, at every step.
    #[serde(skip_serializing_if = "is_default")]
    pub anti_windup: bool,
    /// Largest gate under `deterministic`, at least 1; unlimited when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_gate: Option<f64>,
    /// Trains masks alone: the weights stay the source's, without gradients, moments or an fp32 copy of their own.
    #[serde(skip_serializing_if = "is_default")]
    pub frozen_weights: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where the masks' log α start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskInit {
    /// Knowing nothing of the units.
    Open,
    /// In the order of the units' activations, as `prune.method = "activations"` scores them.
    Scores,
}

impl Default for Masks {
    fn default() -> Masks {
        Masks {
            preset: MaskPreset::LlmShearing,
            learning_rate: None,
            multiplier_learning_rate: None,
            warmup_steps: None,
            init: None,
            init_strength: 1.0,
            noise: GateNoise::default(),
            count: OpenCount::default(),
            anti_windup: false,
            largest_gate: None,
            frozen_weights: false,
        }
    }
}

impl Masks {
    /// Peak learning rate of log α in a run of `steps`: but for the published masks as much way for Adam in a short stage as in
    /// a long one.
    pub fn peak_learning_rate(&self, steps: u64) -> f64 {
        let default = match self.preset {
            MaskPreset::LlmShearing => self.drawn_learning_rate(steps),
            MaskPreset::TopK => 4.0 / steps.max(1) as f64,
            MaskPreset::Deterministic => 8.0 / steps.max(1) as f64,
        };
        self.learning_rate.unwrap_or(default)
    }

    /// Peak learning rate of the multipliers in a run of `steps`.
    pub fn peak_multiplier_rate(&self, steps: u64) -> f64 {
        self.multiplier_learning_rate.unwrap_or_else(|| match self.preset {
            MaskPreset::LlmShearing | MaskPreset::TopK => self.drawn_learning_rate(steps),
            MaskPreset::Deterministic => 20.0 / steps.max(1) as f64,
        })
    }

    /// The published rate; where multipliers unwind one that leaves every run as far to go, which chooses better.
    fn drawn_learning_rate(&self, steps: u64) -> f64 {
        if self.anti_windup { (120.0 / steps.max(1) as f64).min(1.0) } else { 1.0 }
    }

    /// What drawn gates do otherwise than in the original, in a run of `steps`.
    pub fn options(&self, steps: u64) -> Options {
        let noise_steps = if self.noise == GateNoise::Annealed { steps * 3 / 4 } else { 0 };
        Options { noise: self.noise, noise_steps, count: self.count, anti_windup: self.anti_windup }
    }

    /// How log α become gates in a run of `steps`.
    pub fn gating(&self, steps: u64) -> Gating {
        let options = self.options(steps);
        match self.preset {
            MaskPreset::LlmShearing => HardConcrete { options, ..HardConcrete::llm_shearing() }.into(),
            MaskPreset::TopK => TopK::over(steps).into(),
            MaskPreset::Deterministic => {
                Deterministic { largest: self.largest_gate, ..Deterministic::over(steps) }.into()
            }
        }
    }

    /// Where log α start.
    pub fn start(&self) -> MaskInit {
        self.init.unwrap_or(match self.preset {
            MaskPreset::LlmShearing | MaskPreset::Deterministic => MaskInit::Open,
            MaskPreset::TopK => MaskInit::Scores,
        })
    }

    /// Steps over which the targets grow, for a run of `steps`; those of top-k masks follow a schedule of their own.
    pub fn target_warmup(&self, steps: u64) -> u64 {
        match self.preset {
            MaskPreset::LlmShearing | MaskPreset::Deterministic => self.warmup_steps.unwrap_or(steps / 5),
            MaskPreset::TopK => (steps as f64 * TopK::over(steps).count_until) as u64,
        }
    }
}

/// `[prune]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// How the kept units are chosen: at once by a score (`activations`, `taylor`, `magnitude`), or `learned` in a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<PruneMethod>,
    /// Score of a layer where layers are scored: `cosine`, or `loss` (slower).
    pub layer_score: LayerScore,
    /// Basis in which hidden dimensions are dropped: `units`, or `principal` components of the residual stream (default,
    /// except under `magnitude`, which needs no data, and under masks of `llm-shearing`, as published).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<HiddenBasis>,
    /// Whether a one-shot cut scales its norms by √(D/k), so that they give what they gave over all dimensions.
    pub norm_gain: bool,
    /// Training rows that scores are measured on, drawn by the mixer's initial proportions.
    pub calibration_rows: usize,
    /// Kind of the written checkpoint; default that of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,
    /// Validation rows per domain on which masked and pruned model are compared.
    pub check_rows: usize,
    /// Publishes the pruned model even if that comparison refuses it, marked in its card.
    pub unproven: bool,
    /// Shapes on the way to `[target]`, each trained before it is cut on; none when absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<Via>,
}

impl Default for Prune {
    fn default() -> Prune {
        Prune {
            method: None,
            layer_score: LayerScore::Cosine,
            basis: None,
            norm_gain: true,
            calibration_rows: 128,
            dtype: None,
            check_rows: 2,
            unproven: false,
            via: Vec::new(),
        }
    }
}

/// How the kept units are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PruneMethod {
    /// Masks learned against the constraint while the weights train on.
    Learned,
    /// One-shot: the units whose activations are largest on calibration rows.
    #[default]
    Activations,
    /// One-shot: the units whose gates have the largest squared gradients of the loss on calibration rows.
    Taylor,
    /// One-shot: the units with the largest weights. Needs no data, and is the weakest.
    Magnitude,
}

/// The basis of the residual stream in which hidden dimensions are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenBasis {
    /// The source's own dimensions.
    Units,
    /// Its principal components on calibration rows: the same function, in which little is lost by dropping the last ones.
    Principal,
}

/// How layers are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerScore {
    /// By how far a layer turns the residual stream: 1 − cos(before, after). Under `taylor` by its gate's gradient.
    #[default]
    Cosine,
    /// By the loss without it, layers taken out one by one.
    Loss,
}

impl Prune {
    /// How the kept units are chosen.
    pub fn method(&self) -> PruneMethod {
        self.method.unwrap_or_default()
    }
}

impl PruneMethod {
    /// Whether the source is cut at once, without a step.
    pub fn is_one_shot(self) -> bool {
        self != PruneMethod::Learned
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            PruneMethod::Learned => "learned",
            PruneMethod::Activations => "activations",
            PruneMethod::Taylor => "taylor",
            PruneMethod::Magnitude => "magnitude",
        }
    }
}
