//! The forward of decoding: new tokens after those in a cache, without masks and without gradients.
//!
//! ```text
//! ids [B, T] at positions p..p+T ─► embedding ─► L blocks, each: q, k, v ─► rope(p) ─► k, v into the cache
//!                                                         attention over the cache ─► output ─► feed-forward
//!                                             ─► norm ─► logits of the last token, or of all
//! ```
//!
//! The first tokens of a text go through the attention of training, later ones through that of a cache.

use super::attention::{Attention, Heads};
use super::block::Block;
use super::cache::{DecodeError, KvCache, LayerCache, Readable};
use super::context::{LayerContext, window_mask};
use super::decoder::{Decoder, Embedding, Head};
use super::norm::rms_norm;
use super::probe::unseen;
use crate::native::ops::attention::causal_attention;
use crate::native::ops::cached_attention::cached_attention;
use crate::native::ops::embedding::embedding;
use crate::native::ops::projection;
use tch::{TchError, Tensor};

impl Decoder {
    /// Logits `[B, T, V]` of `input_ids [B, T]` (int64), which follow what `cache` holds and are then held too.
    ///
    /// # Errors
    /// More tokens than the model has positions for, ids of another shape, ids outside the vocabulary. The cache is
    /// then as it was.
    pub fn forward_cached(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor, DecodeError> {
        tch::no_grad(|| {
            let x = self.cached_stream(input_ids, cache)?;
            Ok(self.head.logits(self.model().rms_norm_eps, &x)?)
        })
    }

    /// Logits `[B, V]` of the token after `input_ids [B, T]`: [`Decoder::forward_cached`] for the last one only.
    ///
    /// # Errors
    /// Those of [`Decoder::forward_cached`].
    pub fn next_logits(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor, DecodeError> {
        tch::no_grad(|| {
            let x = self.cached_stream(input_ids, cache)?;
            let (_, tokens, _) = x.size3()?;
            let last = x.f_narrow(1, tokens - 1, 1)?;
            Ok(self.head.logits(self.model().rms_norm_eps, &last)?.f_squeeze_dim(1)?)
        })
    }

    /// The residual stream `[B, T, D]` of new tokens after the last block.
    fn cached_stream(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor, DecodeError> {
        let context = LayerContext::plain(cache.begin(input_ids)?);
        let mut x = self.embedding.look_up(input_ids)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let (cache, position) = cache.layer(layer)?;
            x = block.forward_cached(&x, &context, cache, position)?;
        }
        cache.commit(x.size3()?.1);
        Ok(x)
    }
}

impl Embedding {
    fn look_up(&self, input_ids: &Tensor) -> Result<Tensor, TchError> {
        embedding(input_ids, &self.weight, None)
    }
}

impl Head {
    fn logits(&self, eps: f64, x: &Tensor) -> Result<Tensor, TchError> {
        let (normed, _) = rms_norm(x, &self.norm, eps, None)?;
        Ok(projection::project(&normed, &[(&self.weight, None)])?.remove(0))
    }
}

impl Block {
    fn forward_cached(
        &self,
        x: &Tensor,
        context: &LayerContext,
        cache: &mut LayerCache,
        position: i64,
    ) -> Result<Tensor, TchError> {
        self.feed_forward.forward(&self.attention.forward_cached(x, context, cache, position)?, context)
    }
}

impl Attention {
    fn forward_cached(
        &self,
        x: &Tensor,
        context: &LayerContext,
        cache: &mut LayerCache,
        position: i64,
    ) -> Result<Tensor, TchError> {
        let Heads { query, key, value, x } = self.heads(x, context, &mut unseen)?;
        let (rows, tokens, _) = x.size3()?;
        cache.store(position, &key, &value)?;
        let joined = match position {
            0 => {
                let window = cache.window().filter(|window| *window < tokens);
                let mask = window.map(|window| window_mask(tokens, window, x.device())).transpose()?;
                causal_attention(&query, &key, &value, mask.as_ref())?
            }
            _ => {
                let Readable { key, value, mask } = cache.readable(position, tokens)?;
                cached_attention(&query, &key, &value, mask.as_ref())?
            }
        };
        self.output.forward_gated(&joined.f_reshape([rows, tokens, -1])?, None, None, &x)
    }
}
