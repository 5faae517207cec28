//! What pruning the source and continuing a shape take in GPU memory: as the configuration says, or with the least that is
//! usual where there is none.

use crate::cli::table::grouped;
use crate::config::{self, RunConfig};
use crate::hf::ModelConfig;
use crate::native::runtime::cards::{CARDS, Card};
use crate::train::fit::Fit;
use crate::train::memory::MemoryEstimate;
use crate::train::setup::Device;

/// bf16, one row per forward, blocks computed again.
const ASSUMED: &str = "\
[run]
directory = 'run'
dtype = 'bf16'
[model]
source = 'model'
[data]
path = 'data'
[train]
steps = 1
batch_rows = 1
learning_rate = 1e-4
activation_checkpointing = 1
";

/// How it will be trained.
pub(super) struct Training {
    config: RunConfig,
    row_tokens: i64,
    assumed: bool,
    /// The source, where the configuration distils.
    teacher: Option<ModelConfig>,
}

impl Training {
    /// By a configuration, if there is one, of a model made of `source`.
    pub(super) fn new(config: Option<RunConfig>, source: &ModelConfig, row_tokens: i64) -> anyhow::Result<Training> {
        let assumed = config.is_none();
        let config = match config {
            Some(config) => config,
            None => config::parse(ASSUMED, "the assumed training", &[])?,
        };
        let teacher = config.distill.as_ref().map(|_| source.clone());
        Ok(Training { config, row_tokens, assumed, teacher })
    }

    /// Learning masks on the source: all of it is trained, whatever the target is.
    pub(super) fn pruning(&self, source: &ModelConfig) -> MemoryEstimate {
        let mut config = self.config.clone();
        config.target = Some(config.target.unwrap_or_default());
        self.estimate(source, &config)
    }

    /// Continuing a pruned model.
    pub(super) fn continuing(&self, model: &ModelConfig) -> MemoryEstimate {
        self.estimate(model, &RunConfig { target: None, ..self.config.clone() })
    }

    fn estimate(&self, model: &ModelConfig, config: &RunConfig) -> MemoryEstimate {
        MemoryEstimate::new(model, self.teacher.as_ref(), config, self.row_tokens, Device::Cuda(0))
    }

    /// How, in words.
    pub(super) fn said(&self) -> String {
        let rows = self.config.train.micro_batch();
        let rows = if rows == 1 { "one row".to_string() } else { format!("{rows} rows") };
        let how = if self.assumed { "bf16, blocks computed again" } else { "as the configuration says" };
        format!("on a GPU, {how}, {rows} of {} tokens per forward", grouped(self.row_tokens))
    }
}

/// Whether it fits into a card.
pub(super) fn fit(estimate: &MemoryEstimate, card: &Card) -> Fit {
    Fit::of(estimate, card.memory_bytes(), Device::Cuda(0))
}

/// The smallest card that it fits into with room to spare.
pub(super) fn smallest_card(estimate: &MemoryEstimate) -> Option<&'static Card> {
    CARDS.iter().find(|card| fit(estimate, card) == Fit::Yes)
}
