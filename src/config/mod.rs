//! What a run is told: the typed tree of a TOML file plus `--set a.b=v`, validated across its parts.
//!
//! ```text
//! file ─► load (strict, "did you mean") ─► RunConfig ─► validate ─► saved as resolved.toml with the run
//! ```
//!
//! `prune`, `pretrain` and `lte train` read the same tree; `[target]`, `[masks]` and `[prune]` matter to `prune` alone, `[lte]` to
//! `lte train`.

mod advice;
mod common_names;
mod dist;
mod error;
mod further;
mod known_keys;
mod load;
mod lte;
mod micro_batch;
mod overrides;
mod paths;
mod plain_words;
mod pruning;
mod refusal;
mod resume_keys;
mod tree;
mod validate;
mod via;

pub use dist::*;
pub use error::Error;
pub use known_keys::known_keys;
pub use load::{given_keys, load, load_saved, parse, resolved_toml};
pub use lte::*;
pub use micro_batch::MicroBatchRows;
pub use pruning::*;
pub use resume_keys::{refused_changes, resumable};
pub use tree::*;
pub use validate::{Stage, validate};
pub use via::Via;
