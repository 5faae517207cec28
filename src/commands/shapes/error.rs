//! Why no shape can be proposed: what was asked for, what there is, and what to ask for instead.

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
        "no shape near {asked} is in reach: the nearest has {nearest} (hidden {}, intermediate {}, {} layers, {} heads). In \
         reach are {least} to {source_has}; give another number, or sizes of your own (`shearling init` takes --hidden-size, \
         --layers and others)",
        shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers, shape.num_attention_heads
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
        "no number of heads that the source could be pruned to divides hidden_size = {hidden_size}; give another \
         --hidden-size, or --heads and --kv-heads"
    )]
    NoHeads {
        /// The size.
        hidden_size: i64,
    },
}
