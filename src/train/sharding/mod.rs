//! Weights, gradients and moments sharded over ranks (`dist.strategy = "fsdp"`, or `"hybrid"`: within each machine).
//!
//! ```text
//! layout   where weights lie in a flat buffer, and which chunk is a rank's
//! unit     the weights of a layer: unshard, reshard, reduce
//! layer    when that happens
//! shards   all units of a run
//! gather   whole tensors again, for a checkpoint
//!
//! forward    unshard layer ─► run ─► reshard             the next layer is gathered meanwhile
//! backward   unshard layer ─► run ─► reshard, reduce     the previous layer is gathered, the next one reduced meanwhile
//! step       reduce what is outside of the layers ─► update the shards ─► gather that again
//! ```
//!
//! The layers' weights are whole only while they run; embedding, final norm and head are used at both ends of a pass and stay
//! (ZeRO stage 3 for the layers, Rajbhandari et al. 2020; FSDP, Zhao et al. 2023). Gradients of the layers are reduced in every
//! micro-batch, the others once a step.

mod gather;
mod layer;
mod layout;
mod shards;
mod unit;

pub(super) use gather::Gatherer;
pub(super) use shards::{Sharding, Shards};
