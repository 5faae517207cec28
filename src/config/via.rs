//! `[[prune.via]]`: shapes on the way from the source to `[target]`. What runs they stand for: `commands/via`.

use super::Target;
use serde::{Deserialize, Serialize};

/// `[[prune.via]]`: a shape on the way to `[target]`, and how long it is trained before it is cut on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Via {
    /// Steps of training between this cut and the next.
    pub steps: u64,
    /// Their peak learning rate; `train.learning_rate` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The shape, as in `[target]`.
    pub target: Target,
}
