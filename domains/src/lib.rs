//! Domains of text as token rows, mixed by proportion.
//!
//! ```text
//! text folders ─► prepare ─► Parquet token rows + manifest ─► Dataset ─► Loader ─► Batch {tokens, domain} ─► training
//!                                                                          ▲                                    │
//!                                                                          └─── Mixer ◄── loss per domain ◄─────┘
//! ```
//!
//! * [`prepare()`] turns text into rows of equal length, with a validation split by document.
//! * [`Dataset`] opens what it wrote and distrusts it: sizes, hashes and token ids are checked.
//! * [`Loader`] hands out global batches whose mix follows the proportions exactly; its whole state is a few numbers.
//! * [`Mixer`] turns losses per domain into new proportions (dynamic batch loading of Sheared-LLaMA).
//! * [`scaling`] predicts reference losses from three models of one family, and [`synthetic`] makes text to try it on.
//!
//! Nothing here knows about tensors or models, and nothing depends on the timing of threads: every random choice is a
//! function of a seed and of what it is for.

mod added_tokens;
pub mod dataset;
mod error;
mod exact;
mod largest_id;
pub mod loader;
pub mod manifest;
mod mix_bounds;
pub mod mixer;
mod mixer_config;
mod order;
mod parallel;
mod permutation;
pub mod prepare;
mod proportions;
mod quotas;
mod random;
mod sampler;
pub mod scaling;
mod shard;
pub mod synthetic;
mod token_bytes;

pub use dataset::Dataset;
pub use error::{Error, Result};
pub use loader::{Batch, Loader, LoaderConfig, LoaderState};
pub use manifest::{Manifest, Split};
pub use mix_bounds::Bound;
pub use mixer::{Measured, Mixer, MixerState, MixerUpdate};
pub use mixer_config::{MAX_CHANGE, MAX_DRIFT, MixerConfig, MixerKind};
pub use prepare::{DomainSource, PrepareConfig, Progress, Silent, Stage, TokenizerSource, prepare};
pub use quotas::rows_needed;
pub use token_bytes::TokenBytes;
