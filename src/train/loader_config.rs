//! How a configuration draws its batches.

use crate::config::RunConfig;
use shearling_domains::LoaderConfig;

/// Settings of the loader.
pub(super) fn loader_config(config: &RunConfig) -> LoaderConfig {
    LoaderConfig {
        batch_rows: config.draws().1,
        seed: config.run.seed,
        max_epochs: config.data.max_epochs,
        prefetch: config.data.prefetch,
    }
}
