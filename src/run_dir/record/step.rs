//! `step`: the numbers of one optimiser step.

use super::lenient::{Items, Named, record};
use serde::{Deserialize, Serialize};

record! {
    /// A step.
    pub struct Step {
        /// Tokens seen so far.
        pub tokens: Option<u64>,
        /// Its losses.
        pub loss: StepLoss,
        /// By domain.
        pub domains: Named<DomainStep>,
        /// Of this step.
        pub learning_rate: LearningRate,
        /// L2 norms before clipping.
        pub gradient_norm: GradientNorm,
        /// Factor on all gradients.
        pub clip_scale: Option<f64>,
        /// False when the update was skipped.
        pub applied: Option<bool>,
        /// Such steps so far.
        pub skipped: Option<u64>,
        /// Of this step.
        pub seconds: Option<f64>,
        /// Of this step.
        pub tokens_per_second: Option<f64>,
        /// Model FLOPs.
        pub model_flops_per_second: Option<f64>,
        /// Of the device, since the steps began.
        pub peak_memory_bytes: Option<u64>,
        /// By module, before the update; `prune` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub constraints: Option<Items<Constraint>>,
        /// Overall; `prune` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub sparsity: Option<Sparsity>,
        /// `lte train` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub routers: Option<Routers>,
    }

    /// What routers did in a step, means over tokens and layers.
    pub struct Routers {
        /// Share of intermediate units that ran.
        pub density: Option<f64>,
        /// The share asked for at this step; not under the paper's penalties.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub target: Option<f64>,
        /// Share of scores within 0.1 of the threshold.
        pub near_threshold: Option<f64>,
        /// 1 while routers train, 2 when they are frozen.
        pub stage: Option<u64>,
    }

    /// Losses of a step, nats.
    pub struct StepLoss {
        /// What is minimised: cross entropy, or its blend with the divergence from a teacher, and the Lagrangian.
        pub total: Option<f64>,
        /// Mean over the batch's target tokens.
        pub cross_entropy: Option<f64>,
        /// Its exponential.
        pub perplexity: Option<f64>,
        /// KL divergence from the teacher at its temperature, mean over the target tokens; only with `[distill]`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub distillation: Option<f64>,
        /// Of `prune`.
        pub lagrangian: Option<f64>,
    }

    /// A domain in a step.
    pub struct DomainStep {
        /// Mean over its rows in the batch.
        pub loss: Option<f64>,
        /// Its rows in the batch.
        pub rows: Option<u64>,
        /// Its rows so far.
        pub rows_total: Option<u64>,
        /// How often its training rows have been seen.
        pub epochs: Option<f64>,
        /// Rows left before `data.max_epochs`.
        pub rows_left: Option<u64>,
        /// The mixer's.
        pub proportion: Option<f64>,
    }

    /// Learning rates by group.
    pub struct LearningRate {
        /// Of the weights.
        pub weights: Option<f64>,
        /// Of the masks; `prune` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub masks: Option<f64>,
        /// Of the multipliers; `prune` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub multipliers: Option<f64>,
        /// Of the routers; `lte train` only, 0 when they are frozen.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub routers: Option<f64>,
    }

    /// Norms of gradients by group.
    pub struct GradientNorm {
        /// Over all groups.
        pub total: Option<f64>,
        /// Of the weights.
        pub weights: Option<f64>,
        /// Of the masks.
        pub masks: Option<f64>,
        /// Of the multipliers.
        pub multipliers: Option<f64>,
        /// Of the routers; `lte train` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub routers: Option<f64>,
    }

    /// The constraint of a mask module.
    pub struct Constraint {
        /// `layer`, `kv_head`, `query_head`, `intermediate`, `hidden`.
        pub module: Option<String>,
        /// Mean over rows.
        pub expected_sparsity: Option<f64>,
        /// The warmed-up target.
        pub target_sparsity: Option<f64>,
        /// Expected − target.
        pub violation: Option<f64>,
        /// Largest |expected − target| of one row.
        pub worst_row_violation: Option<f64>,
        /// Multiplier of the linear term.
        pub lambda_1: Option<f64>,
        /// Multiplier of the quadratic term.
        pub lambda_2: Option<f64>,
        /// Its part of the Lagrangian.
        pub loss: Option<f64>,
    }

    /// Overall sparsity.
    pub struct Sparsity {
        /// Expected, before the update.
        pub expected: Option<f64>,
        /// Target of the step.
        pub target: Option<f64>,
        /// Expected count of all parameters.
        pub expected_parameters: Option<f64>,
    }
}
