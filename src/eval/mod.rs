//! How good a model is: its loss on the held-out rows of each domain, and its answers to multiple-choice questions.
//! Training uses the first for the mixer, `shearling eval` both for any number of folders; nothing here knows of
//! training.
//!
//! ```text
//! rows of a prepared folder ─► domain_loss (loss by row) ─┐
//!                          └─► text_bytes (bytes by domain)├─► report (side by side, paired differences)
//! lines of a task's file ───► multiple_choice (answers) ──┘
//! ```

pub mod domain_loss;
mod error;
pub mod multiple_choice;
pub mod report;
pub mod statistics;
pub mod text_bytes;

pub use domain_loss::{Deal, DomainLoss, EvalRows, RowLosses, dealt_row_losses, mean_loss, row_losses, rows_read};
pub use error::{Error, Result};
