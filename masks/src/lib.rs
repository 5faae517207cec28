//! Learned masks over the parts of a decoder, and the constraint that drives them to an exact shape (Sheared LLaMA, Xia et al. 2024).
//!
//! ```text
//! Shape, Shape ─► MaskSpec ─► MaskSet (log-odds a, multipliers λ1, λ2; all fp32)
//!                               ├─ sample(noise key) ─► Gates ─► the model's forward
//!                               ├─ lagrangian(step)  ─► loss to add; summary ─► constraints, expected size
//!                               ├─ expected_gates, target_gates ─► Gates ─► evaluation; KeepPlan ─► fold and slice
//!                               ├─ MaskReport: survivors, undecided, half-alive
//!                               └─ save / load
//! scores of any importance ─► KeepPlan::from_scores (one-shot cut), MaskSet::from_scores (where learning starts)
//! ```
//!
//! The crate knows no model, no weight names and no file but its own. Randomness comes from counters, never from global state,
//! and gives the same bits on every device.
//!
//! Letters in shapes: L layers, D hidden, H query heads, K key/value heads, G = H/K queries per group, F intermediate.

mod constraint_rows;
mod deterministic;
mod device_noise;
mod error;
mod expected_size;
mod file;
mod gates;
mod gating;
mod hard_concrete;
mod keep_plan;
mod lagrangian;
mod mask_set;
mod options;
mod prior;
mod report;
mod selection;
mod shape;
mod spec;
mod top_k;

pub use deterministic::Deterministic;
pub use error::{Error, Result};
pub use expected_size::ExpectedSize;
pub use gates::{Gates, HiddenMean};
pub use gating::{Gating, MaskPreset};
pub use hard_concrete::HardConcrete;
pub use keep_plan::{KeepPlan, LayerKeep};
pub use lagrangian::{Lagrangian, ModuleConstraint};
pub use mask_set::MaskSet;
pub use options::{GateNoise, OpenCount, Options};
pub use report::{MaskReport, ModuleReport, UnitList, UnitValue};
pub use shape::{Shape, UnitKind};
pub use shearling_noise::NoiseKey;
pub use spec::{MaskSpec, ModuleSpec};
pub use top_k::TopK;
