//! Weights, gradients and moments divided among ranks (`dist.strategy = "fsdp"`, or `"hybrid"`: within each machine).
//!
//! ```text
//! layout   where weights lie in a flat buffer, and which part is a rank's
//! unit     the weights of a layer: fetched, let go, their gradients given
//! passing  when that happens
//! shards   all units of a run
//! gather   whole tensors again, for a checkpoint
//!
//! forward    fetch layer ─► run ─► let go           the next layer is fetched meanwhile
//! backward   fetch layer ─► run ─► let go, give     the one before is fetched, the one after given meanwhile
//! step       give what is outside of the layers ─► update own parts ─► fetch that again
//! ```
//!
//! The layers' weights are whole only while they run; embedding, final norm and head are used at both ends of a pass and stay
//! (ZeRO stage 3 for the layers, Rajbhandari et al. 2020; FSDP, Zhao et al. 2023). Gradients are summed by micro-batch for the
//! layers, once a step for the rest.

mod gather;
mod layout;
mod passing;
mod shards;
mod unit;

pub(super) use gather::Gatherer;
pub(super) use shards::{Dividing, Shards};
