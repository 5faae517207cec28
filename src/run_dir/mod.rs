//! The folder of a run: which files are in it and under which names, the lines of its metrics, its steps, its lock.
//!
//! ```text
//! state of a run ─► StepStaging ─► RUN/checkpoints/step-00000100/ {files…, manifest.json}
//! ```

mod begun;
mod folder;
pub mod layout;
mod lock;
mod manifest;
pub mod record;
mod step_dir;

pub use begun::only_begun;
pub use folder::{Latest, RunDir, STEPS_AT_ONCE, SkippedStep};
pub use layout::MANIFEST_NAME;
pub use lock::{Activity, Claim, RunLock};
pub use manifest::{FileEntry, MANIFEST_VERSION, Manifest};
pub use step_dir::{StepDir, StepStaging, Verify};
