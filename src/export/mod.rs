//! From a step of a run, or from a source that is cut at once, to a Hugging Face folder: what `shearling export` does,
//! and the last act of `prune` and `pretrain`.
//!
//! ```text
//! step of a prune run ─► masks ─► gates, keep-plan ─┐
//! source + scores ───────────────► gates, keep-plan ┴► fold, slice, compare ─► model card ─► folder
//! step of a pretrain run ─► weights in the asked dtype ──────────────────────► model card ─► folder
//! ```
//!
//! Nothing here prints: who shows the work gives an [`Observer`].

mod card;
mod check_rows;
mod error;
mod folder;
mod held_out;
mod job;
mod observer;
mod one_shot_cost;
mod rotated;
mod written;

pub use error::Error;
pub use folder::folder_name;
pub use job::{Job, open_step};
pub use observer::Observer;
pub use one_shot_cost::OneShotCost;
pub use written::Written;
