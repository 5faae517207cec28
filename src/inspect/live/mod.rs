//! A run as it goes on, from its `metrics.jsonl` alone: another process follows the file and keeps what a watcher
//! wants to see. Nothing of the run is opened for writing and no lock is taken.
//!
//! ```text
//! metrics.jsonl ─► Follower (new whole lines) ─► LiveRun (where the run stands)
//! ```

mod follow;
mod state;

pub use follow::{Event, Follower};
pub use state::{LiveDomain, LiveEvaluation, LiveRun};
