//! Hugging Face folders in and out.
//!
//! ```text
//! HF folder ─► RawConfig ─► ModelConfig                       one mirrors config.json, one is resolved and checked
//!           ─► Checkpoint (memory-mapped shards) ─► LoadReport ─► tensors, one at a time, or bytes where they lie
//! tensors or their bytes, one at a time ─► ShardWriter ─► Staging ─► published HF folder (+ companions, model card)
//! tokenizer.json ─► Tokenizer (text to ids and back) ─► TextStream (ids to text as they are generated)
//! ```
//!
//! This part knows shapes and names of tensors, not what they compute; it never touches the model, the loop or a terminal.

mod architecture;
mod companions;
mod generation_config;
mod leftover;
mod load_report;
mod model_card;
mod model_config;
mod not_a_model;
mod raw_config;
mod reader;
mod rope;
mod shard_index;
mod sliding_window;
mod text_stream;
mod tokenizer;
mod vocabulary;
mod writer;

pub use architecture::Architecture;
pub use companions::{carry_companions, is_companion};
pub use generation_config::GenerationConfig;
pub use leftover::{EMBEDDING, HEAD};
pub use load_report::{LoadReport, Missing, Unused, WrongShape};
pub use model_card::{CardShape, CutLoss, Equivalence, HISTORY_NAME, HeldOut, KeptLayer, ModelCard};
pub use model_config::{AttentionBias, ModelConfig};
pub use not_a_model::not_a_model;
pub use raw_config::{NewLlama, NewShape, RawConfig};
pub use reader::Checkpoint;
pub use rope::{Rope, RopeKind};
pub use text_stream::TextStream;
pub use tokenizer::Tokenizer;
pub use vocabulary::vocabulary_difference;
pub use writer::{ShardWriter, TensorPlan};
