//! The configurations as they will be read, and what of them follows from the memory of the place they are for.

use super::part::ONE_ROW;
use super::recipe::Recipe;
use super::text;
use crate::cli::table::bytes;
use crate::commands::speed::Place;
use crate::config::{self, RunConfig};
use crate::run_dir::STEPS_AT_ONCE;
use crate::train::fit::{Fit, MOST_CPU_ROWS, fitting};
use crate::train::memory::{MemoryEstimate, checkpoint_bytes};
use std::path::Path;

impl Recipe {
    /// The configurations as they would be read.
    pub(super) fn configs(&self) -> anyhow::Result<[RunConfig; 2]> {
        let parse = |text: String, file: &Path| config::parse(&text, &file.display().to_string(), &[]);
        Ok([parse(text::prune(self), &self.file)?, parse(text::next(self), &self.next_file)?])
    }

    /// Chooses rows per forward and what else memory asks for.
    pub(super) fn fit(&mut self, place: &Place) -> anyhow::Result<()> {
        let [prune, next] = self.configs()?;
        let parts = [(prune, &mut self.prune, &self.model), (next, &mut self.next, &self.target)];
        // A cut at once goes through its source layer by layer.
        for (config, part, model) in parts.into_iter().filter(|(config, ..)| !config.cuts_at_once()) {
            let found = place.memory_bytes.and_then(|bytes| {
                fitting(&config, model, None, self.row_tokens, place.device, bytes, MOST_CPU_ROWS, 1)
            });
            part.settings = found.unwrap_or(ONE_ROW);
            let chosen = part.settings.applied(&config);
            let estimate = MemoryEstimate::new(model, None, &chosen, self.row_tokens, place.device);
            let taken = bytes(estimate.total_bytes());
            part.memory_said = format!("rows per forward: peak memory {taken}, predicted");
            part.disk_said = format!(
                "{} each; last and best are kept, {STEPS_AT_ONCE} at most",
                bytes(checkpoint_bytes(model, &chosen))
            );
            if let Some(memory) = place.memory_bytes.filter(|_| found.is_none()) {
                let fit = Fit::of(&estimate, memory, place.device);
                self.warnings.push(format!(
                    "{}: its predicted peak memory is {taken} even with one row at a time and blocks computed again; {} {}",
                    part.directory.display(),
                    place.name,
                    if fit == Fit::Tight { "only just has that" } else { "has less" }
                ));
            }
        }
        Ok(())
    }
}
