//! Why no shape can be proposed: what was asked for, what there is, and what to ask for instead.

use crate::words::counted;
use shearling_masks::Shape;

/// Refusals of the search.
#[derive(Debug, thiserror::Error)]
pub(in crate::commands) enum ShapeError {
    /// The source has no more than what is asked for.
    #[error("{asked} is not below the {source_has} of the source: nothing would be pruned; give less, down to {least}")]
    NotSmaller {
        /// The option with its value.
        asked: String,
        /// What the source has.
        source_has: String,
        /// What the smallest shape has.
        least: String,
    },
    /// No shape is near enough, or none is small enough.
    #[error(
        "no shape near {asked} is in reach: the nearest has {nearest} (hidden {}, intermediate {}, {}, {}). In \
         reach are {least} to {source_has}, which is the source itself; give another number, or sizes of your own (`shearling init` takes --hidden-size, \
         --layers and others)",
        shape.hidden_size, shape.intermediate_size, counted(shape.num_hidden_layers, "layer"),
        counted(shape.num_attention_heads, "head")
    )]
    OutOfReach {
        /// The option with its value.
        asked: String,
        /// What the nearest shape has.
        nearest: String,
        /// That shape.
        shape: Box<Shape>,
        /// What the smallest shape has.
        least: String,
        /// What the source has.
        source_has: String,
    },
    /// A given hidden size goes with no number of heads.
    #[error(
        "hidden_size = {hidden_size} does not go with {asked}: the numbers of query and key/value heads that the source can be \
         pruned to and that divide it are {}; give --heads and --kv-heads from these, or another --hidden-size",
        pairs_said(possible)
    )]
    NoHeads {
        /// The size.
        hidden_size: i64,
        /// The heads that were asked for.
        asked: String,
        /// Query and key/value heads that go with the size.
        possible: Vec<(i64, i64)>,
    },
    /// A given hidden size goes only with numbers of heads that are out of proportion to it.
    #[error(
        "hidden_size = {hidden_size} of {source_hidden} goes only with {found} of {source_heads} heads, out of proportion: \
         attention would be nearly gone. Sizes near it that keep more heads: {}; or say that you want that many: --heads \
         {found} --kv-heads {kv_heads}",
        sizes_said(nearest)
    )]
    FewHeads {
        /// The size.
        hidden_size: i64,
        /// That of the source.
        source_hidden: i64,
        /// Query heads that divide it, the most in proportion.
        found: i64,
        /// Their key/value heads.
        kv_heads: i64,
        /// Query heads of the source.
        source_heads: i64,
        /// Hidden sizes below and above it with the heads they go with.
        nearest: Vec<(i64, i64)>,
    },
}

/// `6 / 3, 3 / 3`.
fn pairs_said(pairs: &[(i64, i64)]) -> String {
    let said: Vec<String> = pairs.iter().map(|(heads, kv)| format!("{heads} / {kv}")).collect();
    if said.is_empty() { "none".to_string() } else { said.join(", ") }
}

/// `384 (6 heads), 576 (9 heads)`.
fn sizes_said(sizes: &[(i64, i64)]) -> String {
    let said: Vec<String> = sizes.iter().map(|(size, heads)| format!("{size} ({})", counted(*heads, "head"))).collect();
    if said.is_empty() { "none".to_string() } else { said.join(", ") }
}
