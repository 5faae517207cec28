//! Where in a run's folder its model is written.

use crate::config::Stage;
use crate::run_dir::layout::{MODEL, PRUNED};

/// The folder inside a run that its stage writes the model to.
pub fn folder_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Prune => PRUNED,
        Stage::Pretrain | Stage::Lte => MODEL,
    }
}
