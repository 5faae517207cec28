//! Text from a model: one token after the other, with the key/value cache.
//!
//! ```text
//! prompt ids ─► prefill ─► logits ─► sampling (temperature, top-k, top-p, a counter's noise) ─► id ─┐
//!                             ▲                                                                     │
//!                             └─────────────── one step of the decoder ◄────────────────────────────┤
//!                                        text ◄─ stop strings ◄─ TextStream (checkpoint) ◄──────────┘
//! ```
//!
//! The decoder and its cache are `model`'s, the tokenizer is `checkpoint`'s; here is what chooses a token and what ends
//! a text. Nothing is printed: text is handed out piece by piece.

mod generator;
mod sampling;
mod stop;

pub use generator::{Generated, Request, StopReason, generate};
pub use sampling::Sampling;
pub use stop::StopStrings;

use crate::files;
use crate::model::DecodeError;
use tch::TchError;

/// Why no text came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tokenizer failed.
    #[error(transparent)]
    Checkpoint(#[from] files::Error),
    /// The decoder refused or failed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] TchError),
    /// A setting that cannot be.
    #[error("{name} = {value}: expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What would do.
        expected: &'static str,
    },
    /// A prompt that the model cannot read.
    #[error("the prompt {0}")]
    Prompt(String),
    /// Logits that no token can be chosen from.
    #[error(
        "the model's logits are not finite at token {position}: its weights are damaged, or numbers overflow in this \
         dtype; try --dtype fp32"
    )]
    NotFinite {
        /// Position in the text, prompt included.
        position: i64,
    },
}
