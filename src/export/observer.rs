//! What an export tells while it works.

use crate::prune::{Equivalence, Transfer};
use shearling_masks::MaskReport;

/// Told what happens; every method may be left out.
pub trait Observer {
    /// The masks that are about to be cut.
    fn masks(&mut self, _report: &MaskReport) {}

    /// The source was turned into its principal basis: the kept dimensions hold `share` of the stream's energy, and
    /// `unrotated` of all `dimensions` were left as they are.
    fn rotated(&mut self, _share: f64, _unrotated: usize, _dimensions: i64) {}

    /// `done` of `of` parts of one piece of the work.
    fn progress(&mut self, _what: &str, _done: usize, _of: usize) {}

    /// What a cut at once did to the loss on the `rows` that it was compared on: of the source, of the written model.
    fn degraded(&mut self, _rows: i64, _before: f64, _after: f64) {}

    /// The pruned model has been written and compared with the masked one.
    fn compared(&mut self, _transfer: &Transfer, _equivalence: &Equivalence) {}
}
