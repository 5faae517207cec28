//! Shearling turns a large language model into a strong small one: it prunes a Hugging Face checkpoint to an exact
//! shape by learned masks, then continues its pre-training while re-weighting the data domains.
//!
//! ```text
//! config.toml + --set ─► config ─► plan
//! HF folder ─► hf (memory-mapped) ─► model ◄── gates (an argument of forward)
//! text ─► domains::prepare ─► token rows ─► domains::loader ─► batch ─► train
//!                                  ▲                                     │
//!                                  └──── mixer ◄──── loss per domain ◄───┘
//! run folder: checkpoints/step-N + metrics.jsonl + mask snapshots
//! masks + source weights ─► export, prune (fold, slice, compare) ─► pruned HF folder ─► train ─► HF folder ─► eval
//! any HF folder + prompt ─► tokenizer ─► prefill, decode with a cache ─► generate ─► text
//! ```
//!
//! Imports point down only: `cli`, `commands` → `train`, `eval`, `generate`, `prune`, `lte`, `export`, `inspect`, `report`
//! → `model`, `dist` → `config`, `hf`, `run_dir`, `native` → `files` and the crates `shearling_masks` and `shearling_domains`.
//! docs/architecture.md has the whole table, a test holds it.

pub mod cli;
pub mod commands;
pub mod config;
pub mod dist;
pub mod eval;
pub mod export;
pub mod files;
pub mod generate;
pub mod hf;
pub mod inspect;
pub mod lte;
pub mod model;
pub mod native;
pub mod prune;
pub mod report;
pub mod run_dir;
pub mod train;
pub mod words;
