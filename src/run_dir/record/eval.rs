//! `eval`: losses on held-out rows, and how far the masks have decided.

use super::lenient::{Named, record};
use super::masks::MaskState;
use serde::{Deserialize, Serialize};

record! {
    /// An evaluation.
    pub struct Eval {
        /// Tokens seen so far.
        pub tokens: Option<u64>,
        /// How long it took; runs of earlier versions do not say.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub seconds: Option<f64>,
        /// `plain`, `expected` or `target`; of `lte train` `experts` or `soft`.
        pub gates: Option<String>,
        /// Mean over the domains.
        pub mean_loss: Option<f64>,
        /// The same of the teacher, before the first step; only with `[distill]`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub teacher_loss: Option<f64>,
        /// By domain.
        pub domains: Named<DomainEval>,
        /// Whether the mixer was asked to move.
        pub mixer_updated: Option<bool>,
        /// By module, the expected sparsity of every row.
        pub row_sparsity: Named<Vec<Option<f64>>>,
        /// State of the masks; `prune` only.
        pub masks: Option<MaskState>,
        /// Which experts ran; `lte train` only.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub experts: Option<ExpertState>,
        /// Mask file written with it, relative to the run folder.
        pub snapshot: Option<String>,
    }

    /// Which experts ran in an evaluation: shares of intermediate units, means over tokens and layers.
    pub struct ExpertState {
        /// Share that ran.
        pub density: Option<f64>,
        /// By layer with a router, in order.
        pub layers: Named<Option<f64>>,
        /// By domain.
        pub domains: Named<Option<f64>>,
        /// Share of scores within 0.1 of the threshold.
        pub near_threshold: Option<f64>,
        /// Share of experts that ran for more than 99 % of the tokens.
        pub always_on: Option<f64>,
        /// Share of experts that ran for less than 1 %.
        pub always_off: Option<f64>,
        /// Share that 2, 4, 8 rows needed together, by the number of rows.
        pub unions: Named<Option<f64>>,
    }

    /// A domain in an evaluation.
    pub struct DomainEval {
        /// Over its validation rows, nats per target token.
        pub loss: Option<f64>,
        /// Of that mean over rows.
        pub standard_error: Option<f64>,
        /// Of every row.
        pub row_losses: Option<Vec<Option<f64>>>,
        /// exp of the loss.
        pub perplexity: Option<f64>,
        /// Evaluated rows.
        pub rows: Option<u64>,
        /// Target tokens.
        pub tokens: Option<u64>,
        /// Reference loss.
        pub reference: Option<f64>,
        /// Loss − reference; in runs of earlier versions 0 at the least where the mixer moved.
        pub excess: Option<f64>,
        /// From here on.
        pub proportion: Option<f64>,
    }
}

impl DomainEval {
    /// Loss − reference where an excess is told: it means the same at every evaluation, whatever version wrote it.
    pub fn over_reference(&self) -> Option<f64> {
        let difference = self.loss.zip(self.reference).map(|(loss, reference)| loss - reference);
        self.excess.and(difference.or(self.excess))
    }
}

impl Eval {
    /// Whether the masks were cut to their target: another model than the one in training.
    pub fn is_cut(&self) -> bool {
        self.gates.as_deref() == Some("target")
    }

    /// Whether experts were multiplied by their scores: another way of running the model in training.
    pub fn is_soft(&self) -> bool {
        self.gates.as_deref() == Some("soft")
    }

    /// Whether it is of the model in training as it is run.
    pub fn is_as_run(&self) -> bool {
        !self.is_cut() && !self.is_soft()
    }
}
