//! What can go wrong with masks: a shape that cannot be reached, gates that do not fit the spec, a mask file that is broken.
//!
//! Every message names the key or file, what was found and how to get on; nothing here panics on input from outside.

use crate::shape::UnitKind;
use std::path::PathBuf;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Errors of specs, gates, keep-plans and mask files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A dimension is zero, negative or absurdly large.
    #[error("{side} {key} = {value} is not between 1 and {limit}: correct `{key}` of the {side} shape")]
    Dimension {
        /// `source` or `target`.
        side: &'static str,
        /// The dimension's name in `config.json`.
        key: &'static str,
        /// What was given.
        value: i64,
        /// The largest accepted value.
        limit: i64,
    },
    /// The shape has more parameters than 64-bit arithmetic counts.
    #[error("the {side} shape has more prunable parameters than a 64-bit count holds: correct its dimensions")]
    TooManyParameters {
        /// `source` or `target`.
        side: &'static str,
    },
    /// Query heads do not spread evenly over key/value heads.
    #[error(
        "{side} num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}: \
         every key/value head must serve the same whole number of query heads; change one of the two"
    )]
    HeadsNotDivisible {
        /// `source` or `target`.
        side: &'static str,
        /// `num_attention_heads` of that side.
        heads: i64,
        /// `num_key_value_heads` of that side.
        kv_heads: i64,
    },
    /// The target wants another size of a single head.
    #[error(
        "target head_dim = {target_value} differs from the source's {source_value}: pruning never changes head_dim; \
         set head_dim = {source_value} and choose num_attention_heads instead"
    )]
    HeadDim {
        /// `head_dim` of the source.
        source_value: i64,
        /// `head_dim` of the target.
        target_value: i64,
    },
    /// Masks are asked for a shape that they were not trained towards.
    #[error(
        "the masks keep {learned} of {size} in every row of `{module}`, {asked} are asked for: masks that were learned for one \
         shape can be cut to a smaller one, in the dimensions that they were learned for; give at most {learned}"
    )]
    NotLearned {
        /// The module.
        module: &'static str,
        /// Units of a row.
        size: i64,
        /// How many of a row the masks keep.
        learned: i64,
        /// How many of a row are asked for.
        asked: i64,
    },
    /// A target dimension exceeds the source's.
    #[error(
        "target {key} = {target_value} is larger than the source's {source_value}: pruning only removes; set {key} to at most {source_value}"
    )]
    TargetLarger {
        /// The dimension's name in `config.json`.
        key: &'static str,
        /// The source's value.
        source_value: i64,
        /// The target's value.
        target_value: i64,
    },
    /// The target has more queries per key/value head than the source.
    #[error(
        "target num_attention_heads / num_key_value_heads = {heads} / {kv_heads} = {target_group} queries per group, \
         but a group of the source has only {source_group}: lower num_attention_heads to at most {limit} or raise num_key_value_heads",
        limit = kv_heads * source_group
    )]
    GroupLarger {
        /// `num_attention_heads` of the target.
        heads: i64,
        /// `num_key_value_heads` of the target.
        kv_heads: i64,
        /// Queries per group of the target.
        target_group: i64,
        /// Queries per group of the source.
        source_group: i64,
    },
    /// A constant of the parametrisation is outside its domain.
    #[error("mask constant `{key}` = {value} is invalid: {requirement}")]
    Constant {
        /// Field of `HardConcrete`.
        key: &'static str,
        /// What was given.
        value: f64,
        /// What it must satisfy.
        requirement: &'static str,
    },
    /// Values for a mask of the spec are missing.
    #[error(
        "values for the `{module}` mask are missing: the spec prunes this dimension, so a tensor of shape {expected:?} is needed"
    )]
    MissingModule {
        /// The mask.
        module: UnitKind,
        /// Its shape.
        expected: Vec<i64>,
    },
    /// A tensor does not have the shape of its mask.
    #[error(
        "values for the `{module}` mask have shape {found:?}, expected {expected:?}: use tensors of the same source shape"
    )]
    ModuleShape {
        /// The mask.
        module: UnitKind,
        /// Its shape.
        expected: Vec<i64>,
        /// The shape given.
        found: Vec<i64>,
    },
    /// NaN or infinity where a number is needed.
    #[error(
        "`{unit}` has the value {value}: masks must be finite; go back to a checkpoint before the divergence or lower the mask learning rate"
    )]
    NonFinite {
        /// The unit, e.g. `layer 3 kv_head 1`.
        unit: String,
        /// Its value.
        value: f32,
    },
    /// A keep-plan, or the gates it is made from, do not leave exactly the target.
    #[error(
        "{place} keeps {found} units, the target is {expected}: make the plan from gates that have exactly the target counts"
    )]
    SurvivorCount {
        /// The row, e.g. `layer 3 kv_head`.
        place: String,
        /// Units of the target.
        expected: i64,
        /// Units kept.
        found: i64,
    },
    /// Indices of a keep-plan that are not strictly ascending or outside the source.
    #[error(
        "{place} lists index {index} out of order or beyond the source's {size}: the keep-plan is damaged; make it again from the masks"
    )]
    PlanIndex {
        /// The row, e.g. `layer 3 kv_head`.
        place: String,
        /// The index in question.
        index: i64,
        /// Units the source has there.
        size: i64,
    },
    /// Numbers that are no summary of this constraint.
    #[error(
        "the constraint's summary has {expected} numbers, {found} were given: pass back exactly those of `Lagrangian::summary`"
    )]
    SummaryLength {
        /// Numbers of the summary.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// The operating system refused.
    #[error("cannot {operation} mask file {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Not a regular file, or far too large for a mask file.
    #[error("{} is no mask file: {problem}", path.display())]
    NotAMaskFile {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        problem: String,
    },
    /// The container cannot be read or written: truncated, or no safetensors at all.
    #[error("mask file {} is damaged: take an earlier checkpoint", path.display())]
    Container {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: safetensors::SafeTensorError,
    },
    /// The description stored with the tensors is missing, malformed or contradictory.
    #[error("mask file {}: metadata `{key}` {problem}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The stored shapes or constants are refused.
    #[error("mask file {}: metadata `{key}` describes masks that cannot be", path.display())]
    Described {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// The reason.
        source: Box<Error>,
    },
    /// The file is of a format this version does not read.
    #[error("mask file {} has format version {found}, this program reads version {supported}: use the version of shearling that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The version read here.
        supported: u64,
    },
    /// Tensors of the file that are missing, superfluous, of another type or shape, or not finite: all of them.
    #[error("mask file {}: {}", path.display(), problems.join("; "))]
    Tensors {
        /// The file.
        path: PathBuf,
        /// One sentence per tensor.
        problems: Vec<String>,
    },
    /// libtorch refused an operation (out of memory, lost device).
    #[error("libtorch failed on mask tensors")]
    Torch(#[from] tch::TchError),
}

impl From<shearling_staging::Error> for Error {
    fn from(error: shearling_staging::Error) -> Self {
        let (operation, path, source) = error.into_parts();
        Self::Io { operation, path, source }
    }
}
