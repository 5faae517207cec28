//! The proof that the pruned model is the masked model: both run on the same real rows, one layer of each in memory
//! at a time. Three questions, each with its own bound:
//!
//! ```text
//! arithmetic   masked and folded model, both in fp64: max |Δlogit| / max |logit| ≤ 1e-9, at every position
//! weights      every number in the files is its exact fold, rounded once to the dtype
//! rounding     what that rounding does to loss and next-token distribution is what it does to the masked model
//! ```
//!
//! fp64, because a bound on fp32 logits measures the model and not the fold: in real models a few tokens have
//! activations a thousand times the others', and a model of few steps amplifies every rounding, so that either model is
//! 1e-4 and more from its own fp64. There the two agree to about 1e-12, and a fault of one gate in one head is
//! far above the bound. What rounding costs is judged by what users lose ([`rounding`]).
//!
//! The residual streams are compared after every layer (on the kept hidden dimensions), so a difference names the
//! layer where it starts.

mod check;
mod check_rows;
mod position;
pub mod rounding;
mod streams;
pub mod weights;

pub use check::{LOGITS_AT_ONCE, check};
pub use check_rows::CheckRows;
pub use position::Position;

use position::exceeds;
use rounding::Rounding;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use weights::WrittenWeights;

/// Largest accepted difference of logits, relative to the largest |logit|, between masked and folded model in fp64.
pub const ARITHMETIC_BOUND: f64 = 1e-9;

/// How many positions are named.
const NAMED_POSITIONS: usize = 3;
/// Nats of the loss, and of the divergence of the next token, that are nothing: rounding of fp32 sums.
const NOTHING: f64 = 1e-6;

/// A position and how far the logits are apart there.
#[derive(Clone, Debug, Serialize)]
pub struct Apart {
    /// Where.
    #[serde(flatten)]
    pub position: Position,
    /// Largest |difference| of a logit in fp64, over the largest |logit| of all positions.
    pub difference: f64,
}

/// Difference of the residual streams after one layer, relative to the largest |value| of the masked stream.
#[derive(Clone, Debug, Serialize)]
pub struct LayerDifference {
    /// Layer of the pruned model; `None` for the embedding.
    pub layer: Option<usize>,
    /// Layer of the source it comes from.
    pub source_layer: Option<i64>,
    /// Masked against folded, fp64.
    pub folded: f64,
    /// Largest |value| of the masked stream.
    pub largest: f64,
}

/// Result of the check.
#[derive(Clone, Debug, Serialize)]
pub struct Equivalence {
    /// Rows compared.
    pub rows: i64,
    /// Tokens per row.
    pub tokens: i64,
    /// Largest |logit| of the masked model.
    pub max_logit: f64,
    /// Largest |difference| of logits, masked against folded in fp64, over `max_logit`.
    pub folded: f64,
    /// Bound on it.
    pub folded_bound: f64,
    /// The positions where they are farthest apart, farthest first.
    pub worst: Vec<Apart>,
    /// After the embedding and after every kept layer.
    pub layers: Vec<LayerDifference>,
    /// The written numbers against the exact fold.
    pub weights: WrittenWeights,
    /// What the dtype of the files costs.
    pub rounding: Rounding,
}

/// What the check found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The masked model itself gives logits that are not finite: nothing can be compared.
    NotFinite,
    /// Fold and slice computed another model.
    Arithmetic,
    /// A number in the files is not its fold.
    Weights,
    /// The dtype does more to the written model than rounding does to the masked one.
    Rounding,
}

impl Equivalence {
    /// What is wrong, if anything.
    pub fn fault(&self) -> Option<Fault> {
        if !self.max_logit.is_finite() || !self.rounding.masked_loss.is_finite() {
            return Some(Fault::NotFinite);
        }
        if exceeds(self.folded, self.folded_bound) {
            return Some(Fault::Arithmetic);
        }
        if self.weights.wrong.is_some() {
            return Some(Fault::Weights);
        }
        (!self.rounding.is_only_rounding()).then_some(Fault::Rounding)
    }

    /// Whether the written model is the masked one.
    pub fn passed(&self) -> bool {
        self.fault().is_none()
    }

    /// The arithmetic, for tables and model cards.
    pub fn arithmetic(&self) -> String {
        format!(
            "max |masked − pruned| / max |logit| = {:.1e} in fp64 (bound {:.0e}), on {} rows of {} tokens",
            self.folded, self.folded_bound, self.rows, self.tokens
        )
    }

    /// What the dtype costs, for tables and model cards.
    pub fn cost(&self) -> String {
        let Rounding { dtype, written, source, .. } = &self.rounding;
        if written.mean_kl.abs() < NOTHING && written.loss_change.abs() < NOTHING {
            let (loss, dtype) = (self.rounding.masked_loss, dtype.name());
            return format!("loss {loss:.4} on these rows; storing the weights in {dtype} does not change it");
        }
        let error = written.loss_change_error.map_or(String::new(), |error| format!(" ± {error:.4}"));
        format!(
            "loss {:.4} on these rows; stored in {} it changes by {}{error}, KL divergence of the next token {:.1e} (worst {:.1e} at {}); the \
             masked model rounded to that dtype changes by {}, KL {:.1e}",
            self.rounding.masked_loss,
            dtype.name(),
            signed(written.loss_change),
            written.mean_kl,
            written.worst_kl,
            written.worst,
            signed(source.loss_change),
            source.mean_kl
        )
    }

    /// Where the streams first differ: the first layer over the bound, else the head.
    pub fn first_difference(&self) -> String {
        match self.layers.iter().find(|layer| exceeds(layer.folded, self.folded_bound)) {
            Some(LayerDifference { layer: Some(layer), source_layer: Some(source), .. }) => {
                format!("layer {layer} (layer {source} of the source)")
            }
            Some(_) => "the embedding".to_string(),
            None => "the final norm or the output head".to_string(),
        }
    }

    fn worst_positions(&self) -> String {
        let named = self.worst.iter().map(|apart| format!("{:.1e} at {}", apart.difference, apart.position));
        named.collect::<Vec<_>>().join("; ")
    }

    fn wrong_weight(&self) -> String {
        let Some(wrong) = &self.weights.wrong else { return String::new() };
        let dtype = self.rounding.dtype.name();
        let place = format!("{} at {:?}", wrong.name, wrong.index);
        let others = match wrong.count {
            1 => String::new(),
            count => format!(", the first of {count} such numbers of this weight"),
        };
        if wrong.was_not_finite() {
            return format!("{place} is {} before anything is written{others}", wrong.expected);
        }
        if wrong.overflows() {
            return format!("{place} is {}, too large for {dtype}{others}", wrong.expected);
        }
        format!(
            "{place} is {} in the file, its exact fold {}: more than one rounding to {dtype} apart{others}",
            wrong.found, wrong.expected
        )
    }
}

/// Four digits after the point, without a sign where they are all zero.
fn signed(value: f64) -> String {
    if value.abs() < 5e-5 { format!("{:.4}", 0.0) } else { format!("{value:+.4}") }
}

impl Display for Equivalence {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self.fault() {
            None => write!(f, "masked and pruned model agree: {}", self.arithmetic()),
            Some(Fault::NotFinite) => write!(
                f,
                "the masked model gives logits that are not finite, so there is nothing to compare: its weights were \
                 ruined before the cut (inspect run shows where the loss stopped being a number)"
            ),
            Some(Fault::Arithmetic) => write!(
                f,
                "masked and pruned model first differ at {}: {}; farthest apart: {}. This is a fault of the cut, not of \
                 rounding",
                self.first_difference(),
                self.arithmetic(),
                self.worst_positions()
            ),
            Some(Fault::Weights) => write!(f, "the written weights are not those of the fold: {}", self.wrong_weight()),
            Some(Fault::Rounding) => write!(
                f,
                "rounding does more to the pruned model than to the masked one: {}. The fold itself is right: {}",
                self.cost(),
                self.arithmetic()
            ),
        }
    }
}
