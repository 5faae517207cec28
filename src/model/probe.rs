//! Places inside a layer whose activations can be looked at while it runs: one-shot scores read them
//! (`prune::scores::activations`). A forward without a look passes [`unseen`].

use tch::{TchError, Tensor};

/// What is shown of a layer, in the order in which it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The residual stream before the attention `[B, T, D]`.
    AttentionInput,
    /// Output of the norm before the attention `[B, T, D]`.
    AttentionNorm,
    /// The joined heads, input of the output projection `[B, T, H*E]`.
    Heads,
    /// The residual stream before the feed-forward `[B, T, D]`.
    FeedForwardInput,
    /// Output of the norm before the feed-forward `[B, T, D]`.
    FeedForwardNorm,
    /// Input of the down projection `[B, T, F]`.
    Intermediate,
}

/// Is shown every site once per forward of a layer.
pub type Probe<'a> = dyn FnMut(Site, &Tensor) -> Result<(), TchError> + 'a;

/// Looks at nothing.
pub(super) fn unseen(_: Site, _: &Tensor) -> Result<(), TchError> {
    Ok(())
}
