//! The forward of decoding: new tokens after those in a cache, without masks and without gradients.
//!
//! ```text
//! ids [B, T] at positions p..p+T ─► embedding ─► L blocks, each: q, k, v ─► rope(p) ─► k, v into the cache
//!                                                         attention over the cache ─► output ─► feed-forward
//!                                             ─► norm ─► logits of the last token, or of all
//! ```
//!
//! The first tokens of a text go through the attention of training, later ones through that of a cache. On a GPU a single token is
//! recorded once and launched as one from then on (`recorded_token.rs`).

use super::attention::{Attention, Heads};
use super::block::Block;
use super::cache::{DecodeError, KvCache, LayerCache, Readable};
use super::context::{LayerContext, window_mask};
use super::decoder::{Decoder, Embedding, Head};
use super::norm::rms_norm;
use super::probe::unseen;
use super::recorded_token::{RecordedToken, is_launched_on};
use crate::native::ops::attention::causal_attention;
use crate::native::ops::cached_attention::{cached_attention, cached_attention_up_to};
use crate::native::ops::cached_heads::TokenHeads;
use crate::native::ops::embedding::embedding;
use crate::native::ops::projection;
use crate::native::ops::token_maps::{Norm, project_normed};
use tch::{TchError, Tensor};

/// Where new tokens go.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// From this position on.
    From(i64),
    /// One token, to the position that the device reads from `[1]` (int64): the same launches for every token.
    OnDevice(&'a Tensor),
}

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
            if let Some(logits) = self.recorded_logits(input_ids, cache)? {
                return Ok(logits);
            }
            let x = self.cached_stream(input_ids, cache)?;
            let (_, tokens, _) = x.size3()?;
            let last = x.f_narrow(1, tokens - 1, 1)?;
            Ok(self.head.logits(self.model().rms_norm_eps, &last)?.f_squeeze_dim(1)?)
        })
    }

    /// The residual stream `[B, T, D]` of new tokens after the last block.
    fn cached_stream(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Tensor, DecodeError> {
        let context = LayerContext::plain(cache.begin(input_ids)?);
        let x = self.through_blocks(input_ids, &context, cache, Place::From(cache.length()))?;
        cache.commit(x.size3()?.1);
        Ok(x)
    }

    /// [`Decoder::next_logits`] of one token a row on a GPU with kernels; `None` for what goes another way.
    fn recorded_logits(&self, input_ids: &Tensor, cache: &mut KvCache) -> Result<Option<Tensor>, DecodeError> {
        let one_token = input_ids.size().get(1) == Some(&1) && cache.length() > 0;
        if !one_token || cache.has_windows() || !is_launched_on(input_ids.device()) {
            return Ok(None);
        }
        cache.make_room(input_ids)?;
        let weights = [&self.embedding.weight, &self.head.norm];
        let mut token = match cache.recorded.take() {
            Some(token) if token.is_of(weights) => token,
            _ => Box::new(RecordedToken::new(input_ids, weights)?),
        };
        let logits = token.next(input_ids, cache.length(), |ids, position| self.token_logits(ids, cache, position));
        cache.recorded = Some(token);
        let logits = logits?;
        cache.commit(1);
        Ok(Some(logits))
    }

    /// Logits `[B, V]` after one token a row, `input_ids [B, 1]`, which goes to the position that the device reads; the cache has room
    /// for it, and does not know of it afterwards.
    fn token_logits(&self, input_ids: &Tensor, cache: &KvCache, position: &Tensor) -> Result<Tensor, DecodeError> {
        let context = LayerContext::plain(cache.rotary());
        let x = self.through_blocks(input_ids, &context, cache, Place::OnDevice(position))?;
        Ok(self.head.token_logits(self.model().rms_norm_eps, &x)?.f_squeeze_dim(1)?)
    }

    fn through_blocks(
        &self,
        input_ids: &Tensor,
        context: &LayerContext,
        cache: &KvCache,
        place: Place,
    ) -> Result<Tensor, DecodeError> {
        let mut x = self.embedding.look_up(input_ids)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward_cached(&x, context, cache.layer(layer)?, place)?;
        }
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

    fn token_logits(&self, eps: f64, x: &Tensor) -> Result<Tensor, TchError> {
        let norm = Norm { weight: &self.norm, eps };
        Ok(project_normed(x, norm, &[(&self.weight, None)])?.remove(0))
    }
}

impl Block {
    fn forward_cached(
        &self,
        x: &Tensor,
        context: &LayerContext,
        cache: &LayerCache,
        place: Place,
    ) -> Result<Tensor, TchError> {
        match place {
            Place::From(position) => {
                self.feed_forward.forward(&self.attention.forward_cached(x, context, cache, position)?, context)
            }
            Place::OnDevice(position) => {
                self.feed_forward.forward_token(&self.attention.forward_token(x, context, cache, position)?, context)
            }
        }
    }
}

impl Attention {
    fn forward_cached(
        &self,
        x: &Tensor,
        context: &LayerContext,
        cache: &LayerCache,
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

    /// One token a row, to the position that the device reads.
    fn forward_token(
        &self,
        x: &Tensor,
        context: &LayerContext,
        cache: &LayerCache,
        position: &Tensor,
    ) -> Result<Tensor, TchError> {
        let Heads { query, key, value, x } = self.token_heads(x)?;
        let (keys, values) = cache.whole();
        let heads = TokenHeads { query: &query, key: &key, value: &value };
        let query = context.rope.place(heads, position, (keys, values))?;
        let joined = cached_attention_up_to(&query, keys, values, position)?;
        self.output.forward_gated(&joined.f_reshape([x.size3()?.0, 1, -1])?, None, None, &x)
    }
}

#[cfg(test)]
mod tests {
    use super::super::init::random_weights;
    use super::*;
    use crate::files::DType;
    use crate::hf::{ModelConfig, NewLlama, RawConfig};
    use crate::native::kernels::{Path, compute_by};
    use tch::{Device, Kind};

    fn model() -> ModelConfig {
        let config = RawConfig::new_llama(&NewLlama {
            vocab_size: 50,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 1 << 10,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            initializer_range: 0.02,
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_id: None,
            dtype: DType::F32,
        });
        config.unwrap().model().unwrap()
    }

    /// Logits of some tokens after a prompt of 126, from its cache and from `next`.
    fn logits(next: impl Fn(&Decoder, &mut KvCache, &Tensor) -> Tensor) -> Vec<Tensor> {
        let model = model();
        let weights = random_weights(&model, 3).unwrap();
        let decoder = Decoder::build(&model, &mut |name| {
            let (_, weight) = weights.iter().find(|(own, _)| own == name).unwrap();
            Ok::<_, TchError>(weight * 5.0)
        });
        let decoder = decoder.unwrap();
        let mut cache = KvCache::new(&model, 2, 300, Kind::Float, Device::Cpu).unwrap();
        let ids = |count: i64| (Tensor::arange(count, (Kind::Int64, Device::Cpu)) * 7).remainder(50).view([2, -1]);
        let _ = decoder.next_logits(&ids(252), &mut cache).unwrap();
        (0..4).map(|token| next(&decoder, &mut cache, &(ids(2) + token))).collect()
    }

    fn as_ever(decoder: &Decoder, cache: &mut KvCache, ids: &Tensor) -> Tensor {
        decoder.next_logits(ids, cache).unwrap()
    }

    fn read_by_the_device(decoder: &Decoder, cache: &mut KvCache, ids: &Tensor) -> Tensor {
        cache.make_room(ids).unwrap();
        let position = Tensor::from_slice(&[cache.length()]);
        let logits = tch::no_grad(|| decoder.token_logits(ids, cache, &position)).unwrap();
        cache.commit(1);
        logits
    }

    #[test]
    fn a_token_whose_position_the_device_reads_is_the_same_token() {
        let expected = logits(as_ever);
        let compare = |name: &str, found: Vec<Tensor>| {
            for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let difference = (found - expected).abs().max().double_value(&[]);
                let largest = expected.abs().max().double_value(&[]);
                assert!(difference <= 1e-4 * largest, "{name}, token {token}: {difference} of {largest}");
            }
        };
        for path in [Path::Own, Path::DeviceKernels, Path::Composed] {
            let _path = compute_by(path);
            compare(&format!("{path:?}"), logits(read_by_the_device));
        }
        let _path = compute_by(Path::DeviceKernels);
        compare("as a GPU does", logits(as_ever));
    }
}
