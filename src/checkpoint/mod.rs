//! Hugging Face folders in and out, and the folders of a run.
//!
//! ```text
//! HF folder ─► HfConfig (raw) ─► HfModel (resolved)           one config mirrors the file, one is checked
//!           ─► Checkpoint (memory-mapped shards) ─► LoadReport ─► tensors, one at a time, or bytes where they lie
//! tensors or their bytes, one at a time ─► ShardWriter ─► Staging ─► published HF folder (+ companions, model card)
//! tokenizer.json ─► Tokenizer (text to ids and back) ─► TextStream (ids to text as they are generated)
//! state of a run ─► StepStaging ─► RUN/checkpoints/step-00000100/ {files…, manifest.json}
//! ```
//!
//! Everything read here may be truncated, hostile or simply wrong: it ends in an [`Error`] that names file and key. Everything
//! written here is whole or absent: written beside its final place, flushed, then renamed.
//!
//! This part knows shapes and names of tensors, not what they compute; it never touches the model, the loop or a terminal.

mod architecture;
mod bounded_lines;
mod companions;
mod disk;
mod dtype;
mod error;
mod finite;
mod generation_config;
mod hf_config;
mod hf_model;
mod impostor;
mod json;
mod leftover;
mod load_report;
mod manifest;
mod mapped;
mod model_card;
mod not_a_model;
mod publish;
mod reader;
mod rope;
mod run_dir;
mod run_lock;
mod shard_index;
mod sliding_window;
mod step_dir;
mod stored;
mod stream;
mod tensor_file;
#[cfg(test)]
mod test_support;
mod text_stream;
mod tokenizer;
mod vocabulary;
mod writer;

pub use architecture::Architecture;
pub use bounded_lines::{BoundedLine, BoundedLines};
pub use companions::{carry_companions, is_companion};
pub use disk::{available_bytes, ensure_space, readable_bytes};
pub use dtype::DType;
pub use error::{Error, Result};
pub use generation_config::GenerationConfig;
pub use hf_config::{HfConfig, NewLlama, NewShape};
pub use hf_model::{AttentionBias, HfModel};
pub use leftover::{EMBEDDING, HEAD};
pub use load_report::{LoadReport, Missing, Unused, WrongShape};
pub use manifest::{FileEntry, MANIFEST_NAME, MANIFEST_VERSION, Manifest, sha256_of_file};
pub use model_card::{CardShape, Equivalence, HISTORY_NAME, ModelCard};
pub use not_a_model::not_a_model;
pub use publish::{Staging, ensure_writable, refuse_taken, write_atomic};
pub use reader::Checkpoint;
pub use rope::{Rope, RopeKind};
pub use run_dir::{Latest, RunDir, SkippedStep};
pub use run_lock::{Activity, RunLock};
pub use step_dir::{StepDir, StepStaging, Verify};
pub use stored::StoredTensor;
pub use stream::TensorRegion;
pub use tensor_file::TensorFile;
pub use text_stream::TextStream;
pub use tokenizer::Tokenizer;
pub use vocabulary::vocabulary_difference;
pub use writer::{ShardWriter, TensorPlan};
