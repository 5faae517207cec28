//! The training loop of both stages: `prune` trains weights, masks and multipliers together, `pretrain` the weights
//! alone. Same loop, same data, same checkpoints.
//!
//! ```text
//! setup ─► Trainer ─► [ step ─► (evaluate ─► mixer) ─► (save) ] × steps ─► Outcome
//!            │          batch ─► micro-batches: gates ─► forward ─► loss ─► backward
//!            │          Lagrangian ─► backward;  norms ─► clip ─► AdamW ─► clamp masks
//!            └ run folder: resolved.toml, journal (metrics.jsonl, tensorboard/), masks/, checkpoints/step-N/
//! ```
//!
//! Everything random comes from counters, so a run that stops at any step and resumes is the same run.

pub mod calibration;
pub mod checkpoint;
mod compute;
mod deal;
pub mod decide;
mod error;
pub mod eval_part;
pub mod evaluation;
mod exchange;
mod fault;
pub mod fit;
mod guard;
pub mod journal;
mod loader_config;
pub mod memory;
pub mod metrics;
pub mod mix_notices;
mod objective;
mod observer;
mod open;
pub mod optimizer;
mod outcome;
pub mod outline;
pub mod phases;
mod ranks;
mod recovery_advice;
pub mod references;
pub mod routers;
mod run_loop;
pub mod same_run;
pub mod saved_run;
pub mod schedule;
mod scheduled_evaluation;
pub mod settling;
pub mod setup;
mod sharding;
mod start;
mod start_routed;
pub mod step;
mod step_of_all;
mod teacher;
pub mod tensorboard;
pub mod traffic;
pub mod trainer;
pub mod watchdog;
mod weight_stream;
mod weights;
pub mod written_dtype;

pub use deal::{check_deal, has_work};
pub use error::Error;
pub use observer::Observer;
pub use outcome::Outcome;
pub use outline::{Absent, Findings, Outline};
pub use run_loop::run;
pub use setup::{Device, Setup};
pub use trainer::Trainer;
