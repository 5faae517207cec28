//! The decoder: Llama-family models driven by `config.json`, with the masks as an explicit argument of forward.
//!
//! Legend of shapes used in this module: B batch rows, T tokens, D `hidden_size`, H `num_attention_heads`,
//! K `num_key_value_heads`, G = H/K queries per group, E `head_dim`, F `intermediate_size`, L layers, V `vocab_size`.
//!
//! ```text
//! parameters   every weight's name, shape and role, from the config          (the one place that knows names)
//! decoder      embedding -> L blocks -> norm -> logits
//! block        one layer; where its forward begins and ends
//!   attention    norm, q/k/v, rope, scaled dot product, head gates, output
//!   feed_forward norm, silu(gate) * up * gate mask, down
//! context      rotary tables and window masks, shared by all layers and forwards
//! decode       new tokens after those in a cache: prefill and step, no masks, no gradients
//! cache        keys and values of the tokens so far
//! gates        the masks' gates in the form in which the layers use them
//! packed_feed_forward  a feed-forward that decodes with the experts a router chooses, and the choice between the two
//! router       which experts of a feed-forward run for a token
//! probe        activations inside a layer, shown while it runs
//! loss         next-token cross entropy per token and per row, a few rows of logits at a time
//! count        parameters and FLOPs by part, without building a model
//! ```

pub mod attention;
pub mod block;
pub mod cache;
pub mod context;
pub mod count;
mod decode;
pub mod decoder;
pub mod feed_forward;
pub mod gates;
pub mod init;
mod layer_weights;
pub mod linear;
pub mod loss;
pub mod norm;
pub mod packed_feed_forward;
pub mod parameters;
pub mod probe;
mod recorded_token;
pub mod rope;
pub mod routed_count;
pub mod router;
mod routing;

pub use crate::hf::ModelConfig;
pub use block::{AroundLayer, Block};
pub use cache::{DecodeError, KvCache};
pub use context::ForwardContext;
pub use decoder::{Decoder, Embedding, Head};
pub use gates::ModelGates;
pub use packed_feed_forward::PackedFeedForward;
pub use parameters::{Parameter, Role};
