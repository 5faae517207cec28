//! The six dimensions of a decoder that matter for pruning, and the kinds of units masks act on.
//!
//! Letters used in this crate: L layers, D hidden, H query heads, K key/value heads, G = H/K queries per group, F intermediate.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest accepted dimension; keeps every product of this crate inside 128-bit arithmetic.
const DIMENSION_LIMIT: i64 = 1 << 24;

/// Dimensions that masks can act on, under the names of a Hugging Face `config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of the residual stream, D.
    pub hidden_size: i64,
    /// Width of the MLP, F.
    pub intermediate_size: i64,
    /// Decoder layers, L.
    pub num_hidden_layers: i64,
    /// Query heads, H.
    pub num_attention_heads: i64,
    /// Key/value heads, K; H is a multiple of it.
    pub num_key_value_heads: i64,
    /// Width of one head; never pruned.
    pub head_dim: i64,
}

impl Shape {
    /// Queries per key/value head, G = H/K (0 if there are no key/value heads).
    pub fn group_size(&self) -> i64 {
        self.num_attention_heads.checked_div(self.num_key_value_heads).unwrap_or(0)
    }

    /// Refuses dimensions out of range and heads that do not divide; `side` is `source` or `target`.
    pub(crate) fn check(&self, side: &'static str) -> Result<()> {
        for (key, value) in self.dimensions() {
            if !(1..=DIMENSION_LIMIT).contains(&value) {
                return Err(Error::Dimension { side, key, value, limit: DIMENSION_LIMIT });
            }
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        if heads % kv_heads != 0 {
            return Err(Error::HeadsNotDivisible { side, heads, kv_heads });
        }
        Ok(())
    }

    /// Every dimension with its name.
    pub(crate) fn dimensions(&self) -> [(&'static str, i64); 6] {
        [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
        ]
    }

    /// Weights of all projections, L·D·(2·d_h·H + 2·d_h·K + 3·F): what masks can remove. Embeddings and norms are not counted.
    pub(crate) fn prunable_params(&self, side: &'static str) -> Result<i64> {
        let wide = |value: i64| i128::from(value);
        let attention = 2 * wide(self.head_dim) * (wide(self.num_attention_heads) + wide(self.num_key_value_heads));
        let per_dimension = attention + 3 * wide(self.intermediate_size);
        let total = wide(self.num_hidden_layers) * wide(self.hidden_size) * per_dimension;
        i64::try_from(total).map_err(|_| Error::TooManyParameters { side })
    }
}

/// A kind of unit that masks remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitKind {
    /// Whole layers, attention and MLP together: one row `[L]`.
    Layer,
    /// Key/value heads with all their queries: `[L, K]`. Without GQA these are the heads.
    KvHead,
    /// Places inside a group, shared by all groups of a layer so that groups stay equal: `[L, G]`.
    QueryHead,
    /// Dimensions of the MLP: `[L, F]`.
    Intermediate,
    /// Dimensions of the residual stream, the same in every layer: one row `[D]`.
    Hidden,
}

impl UnitKind {
    /// Every kind, in the order used everywhere.
    pub const ALL: [UnitKind; 5] =
        [UnitKind::Layer, UnitKind::KvHead, UnitKind::QueryHead, UnitKind::Intermediate, UnitKind::Hidden];

    /// The name in files, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            UnitKind::Layer => "layer",
            UnitKind::KvHead => "kv_head",
            UnitKind::QueryHead => "query_head",
            UnitKind::Intermediate => "intermediate",
            UnitKind::Hidden => "hidden",
        }
    }

    /// Whether each layer has its own row of units (`layer` and `hidden` have one row in all).
    pub fn is_per_layer(self) -> bool {
        !matches!(self, UnitKind::Layer | UnitKind::Hidden)
    }

    /// Units per row in a model of this shape.
    pub fn size_in(self, shape: &Shape) -> i64 {
        match self {
            UnitKind::Layer => shape.num_hidden_layers,
            UnitKind::KvHead => shape.num_key_value_heads,
            UnitKind::QueryHead => shape.group_size(),
            UnitKind::Intermediate => shape.intermediate_size,
            UnitKind::Hidden => shape.hidden_size,
        }
    }

    /// Name of a row: `layer 3 kv_head`, `hidden`.
    pub(crate) fn row_name(self, row: i64) -> String {
        if self.is_per_layer() { format!("layer {row} {self}") } else { self.to_string() }
    }

    /// Name of a unit: `layer 3 kv_head 1`, `layer 3`, `hidden 17`.
    pub(crate) fn unit_name(self, row: i64, index: i64) -> String {
        format!("{} {index}", self.row_name(row))
    }
}

impl fmt::Display for UnitKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
