//! Operations that libtorch would compose of many, or that tch does not bind. Every one has a reference of plain tch operators
//! beside it that says what it computes, and a test that compares the two. The reference is also what runs where there is
//! no kernel.

pub mod adamw;
pub mod attention;
pub mod autograd;
pub mod cached_attention;
pub mod cached_heads;
mod closure;
pub mod cross_entropy;
mod dispatch;
pub mod distillation;
pub mod eight_bit_moments;
pub mod embedding;
pub mod gradient;
pub mod gradient_norm;
pub mod halves;
pub mod on_backward;
pub mod projection;
pub mod recompute;
pub mod rms_norm;
pub mod rope;
pub mod self_check;
pub mod sparse_feed_forward;
pub mod swiglu;
#[cfg(test)]
mod test_support;
pub mod token_maps;
