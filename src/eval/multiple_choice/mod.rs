//! Zero-shot multiple choice, in the way of EleutherAI's lm-evaluation-harness (checked against its version 0.4.13).
//!
//! ```text
//! file (JSONL) ─► questions {context, choices, label}      prompts and cleaning by kind: hellaswag, arc, piqa
//!              ─► requests {ids, targets}                  context and choice encoded together, cut from the left
//!              ─► log-likelihood of every choice           batches by length, padded on the right
//!              ─► acc, acc_norm with standard errors
//! ```
//!
//! The log-likelihood of a choice is `Σ log p(token | all before it)` over its tokens. `acc` counts the questions whose
//! right choice has the highest one, `acc_norm` those where it has the highest one per character of the choice. That it
//! is characters (Unicode code points) and not bytes is what the harness does.

mod accuracy;
mod arc;
mod fields;
mod file;
mod hellaswag;
mod kind;
mod lines;
mod piqa;
mod prompt;
mod request;
mod score;

pub use accuracy::{Accuracies, ScoredQuestion, accuracies};
pub use file::{Question, Task};
pub use kind::TaskKind;
pub use score::Answering;
