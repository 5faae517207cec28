//! Loss of a model on the held-out rows of each domain. Training uses it for the mixer, `shearling eval` for any
//! number of folders; it knows nothing of training.

pub mod domain_loss;

pub use domain_loss::{DomainLoss, EvalRows, evaluate, mean_loss, rows_read};
