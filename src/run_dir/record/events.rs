//! What happens in a run besides steps and evaluations.

use super::lenient::{Items, Named, record};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The reason of a notice that a bound on one update of the mix holds.
pub const MAX_CHANGE: &str = "max_change";

impl Mixed {
    /// Whether it tells of a bounded mixer at its work, and of nothing that went wrong.
    pub fn is_routine(&self) -> bool {
        self.reason.as_deref() == Some(MAX_CHANGE)
    }
}

record! {
    /// `start` and `resume`: what the run is.
    pub struct Start {
        /// `prune` or `pretrain`.
        pub stage: Option<String>,
        /// Of the whole run.
        pub steps: Option<u64>,
        /// Steps between evaluations; runs of earlier versions do not say.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub evaluate_every: Option<u64>,
        /// Of shearling.
        pub version: Option<String>,
        /// In the order of the data.
        pub domains: Items<String>,
        /// At this point, in that order.
        pub proportions: Vec<Option<f64>>,
        /// In that order.
        pub reference_losses: Option<Vec<Option<f64>>>,
        /// On what they were measured, where they come from a file that says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub references: Option<ReferenceRows>,
        /// Identity of the data.
        pub data_fingerprint: Option<String>,
        /// `CPU`, `cuda:0`.
        pub device: Option<String>,
        /// Peak memory of the steps, as `plan` estimates it.
        pub predicted_memory_bytes: Option<f64>,
        /// Of the model that is trained.
        pub source_shape: Value,
        /// To reach; null in `pretrain`.
        pub target_shape: Value,
        /// Stages that made that model: name, steps, tokens.
        pub source_stages: Option<Vec<(String, u64, u64)>>,
        /// Processes that do the run together; absent for one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ranks: Option<u64>,
    }

    /// On what reference losses were measured.
    pub struct ReferenceRows {
        /// Identity of the data.
        pub data_fingerprint: Option<String>,
        /// By domain.
        pub domains: Named<ReferenceDomain>,
    }

    /// A reference loss as it was measured.
    pub struct ReferenceDomain {
        /// Rows that it is the mean of.
        pub rows: Option<u64>,
        /// Their target tokens.
        pub tokens: Option<u64>,
        /// Of that mean over rows.
        pub standard_error: Option<f64>,
    }

    /// `save`.
    pub struct Saved {
        /// Steps whose checkpoints stay.
        pub kept: Items<u64>,
        /// The run was stopped in the evaluation of this step, which is made when it resumes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub evaluation_due: Option<bool>,
    }

    /// `exhausted`.
    pub struct Exhausted {
        /// Domains that have given all their rows.
        pub domains: Items<String>,
    }

    /// `skip`.
    pub struct Skipped {
        /// Skipped steps in a row.
        pub in_row: Option<u64>,
    }

    /// `mixer`.
    pub struct Mixed {
        /// Which bound held, or what a domain has come to.
        pub reason: Option<String>,
        /// The domains it is about.
        pub domains: Items<String>,
        /// The sentence.
        pub text: Option<String>,
    }

    /// `divergence`.
    pub struct Divergence {
        /// The sentence.
        pub text: Option<String>,
    }

    /// `not_saved` and `ended`.
    pub struct Reason {
        /// Why.
        pub reason: Option<String>,
    }

    /// `written`: the model folder.
    pub struct Written {
        /// Relative to the run folder.
        pub path: Option<String>,
        /// Of the trained model.
        pub parameters_before: Option<u64>,
        /// Of the written one.
        pub parameters_after: Option<u64>,
        /// Of the written model.
        pub shape: Value,
        /// Of its weights.
        pub dtype: Option<String>,
        /// How it was compared with the masked model.
        pub equivalence: Option<Comparison>,
    }

    /// Masked against written model.
    pub struct Comparison {
        /// False only where the model was published unproven.
        pub passed: Option<bool>,
        /// Largest difference of logits in fp64 over the largest |logit|; in earlier versions in fp32.
        pub folded: Option<f64>,
        /// What is allowed.
        pub folded_bound: Option<f64>,
        /// Positions where it is largest.
        #[serde(skip_serializing_if = "Value::is_null")]
        pub worst: Value,
        /// Numbers in the files against their exact fold.
        #[serde(skip_serializing_if = "Value::is_null")]
        pub weights: Value,
        /// What the dtype costs.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rounding: Option<Rounding>,
        /// Of earlier versions: difference of the weights as written.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub written: Option<f64>,
        /// What was allowed of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub written_bound: Option<f64>,
        /// Rows compared.
        pub rows: Option<u64>,
        /// Tokens of each.
        pub tokens: Option<u64>,
    }

    /// What storing the weights does.
    pub struct Rounding {
        /// Of the written weights.
        pub dtype: Option<String>,
        /// Loss of the masked model.
        pub masked_loss: Option<f64>,
        /// Done to the written model.
        pub written: Effect,
        /// The same done to the masked model.
        pub source: Effect,
    }

    /// What rounding does to a model.
    pub struct Effect {
        /// Nats per token.
        pub loss_change: Option<f64>,
        /// Its standard error.
        pub loss_change_error: Option<f64>,
        /// Of the next token, nats.
        pub mean_kl: Option<f64>,
        /// At one position.
        pub worst_kl: Option<f64>,
        /// Where that is.
        pub worst: Value,
    }
}
