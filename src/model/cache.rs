//! The key/value cache of decoding: what every layer has computed for the tokens so far, so that a new token costs one
//! pass over the weights and not one over the whole text.
//!
//! A layer keeps its rotated keys and its values as `[B, K, capacity, E]`, once per group: query heads of a group read
//! the same memory. Memory is taken for an expected length and then in blocks. A layer with a sliding window forgets
//! what no later token may read when its memory is full. Positions are absolute, so a key is rotated once.
//!
//! The cache knows shapes and positions; what is computed with it is in `decode.rs`.

use super::ModelConfig;
use super::recorded_token::RecordedToken;
use super::rope::RopeTable;
use crate::hf::Rope;
use tch::{Device, Kind, TchError, Tensor};

/// Tokens by which memory grows.
const BLOCK_TOKENS: i64 = 256;

/// Why a step with a cache was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More tokens than the model has positions for.
    #[error(
        "{} tokens are too many: the model takes {limit} (max_position_embeddings), {held} are in the cache and {new} \
         were to follow; shorten the prompt or ask for fewer new tokens", held + new
    )]
    TooLong {
        /// Tokens in the cache.
        held: i64,
        /// Tokens that were to follow.
        new: i64,
        /// The model's limit.
        limit: i64,
    },
    /// Ids that are not `[B, T]` with the rows of the cache and at least one token.
    #[error("token ids of shape {found:?}; expected [{rows}, T] with at least one token")]
    Shape {
        /// The shape given.
        found: Vec<i64>,
        /// Rows of the cache.
        rows: i64,
    },
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] TchError),
}

/// Keys and values of all layers for the tokens so far, and the rotary tables for those to come.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    /// A token after those of this cache, recorded; none where its memory is another since.
    pub(super) recorded: Option<Box<RecordedToken>>,
    rope: Rope,
    head_dim: i64,
    rotary: RopeTable,
    /// Positions that `rotary` has.
    rotary_tokens: i64,
    rows: i64,
    length: i64,
    limit: i64,
    device: Device,
}

impl KvCache {
    /// An empty cache for `rows` rows of about `tokens` tokens; longer ones make it grow, up to the model's
    /// `max_position_embeddings`. `kind` and `device` are those of the weights.
    pub fn new(model: &ModelConfig, rows: i64, tokens: i64, kind: Kind, device: Device) -> Result<KvCache, TchError> {
        let limit = model.max_position_embeddings;
        let expected = tokens.clamp(1, limit);
        let layers = (0..model.num_hidden_layers).map(|layer| {
            let window = model.sliding_window.get(layer as usize).copied().flatten();
            // No more than the window is read; the block is room for the tokens to come.
            let tokens = window.map_or(expected, |window| expected.min(window));
            let size = [rows, model.num_key_value_heads, in_blocks(tokens), model.head_dim];
            LayerCache::new(size, window, kind, device)
        });
        Ok(KvCache {
            layers: layers.collect::<Result<_, _>>()?,
            recorded: None,
            rope: model.rope,
            head_dim: model.head_dim,
            rotary: RopeTable::new(&model.rope, model.head_dim, expected, device)?,
            rotary_tokens: expected,
            rows,
            length: 0,
            limit,
            device,
        })
    }

    /// Tokens so far: the position of the next one.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Tokens that may still follow.
    pub fn room(&self) -> i64 {
        self.limit - self.length
    }

    /// Bytes that the keys and values take, used or not.
    pub fn bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        self.layers.iter().map(|layer| bytes(&layer.key) + bytes(&layer.value)).sum()
    }

    /// Why tokens are not launched as one CUDA graph, where that was tried.
    pub fn recording_refusal(&self) -> Option<&str> {
        self.recorded.as_ref()?.refusal()
    }

    /// Forgets all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.length = 0;
        self.layers.iter_mut().for_each(|layer| layer.first = 0);
    }

    /// Checks ids `[B, T]`, makes room for them and gives the rotary table of their positions.
    pub(super) fn begin(&mut self, input_ids: &Tensor) -> Result<RopeTable, DecodeError> {
        let tokens = self.make_room(input_ids)?;
        Ok(self.rotary.narrow(self.length, tokens)?)
    }

    /// The rotary table of all positions that there is room for.
    pub(super) fn rotary(&self) -> RopeTable {
        self.rotary.shallow_clone()
    }

    /// Whether a layer forgets tokens.
    pub(super) fn has_windows(&self) -> bool {
        self.layers.iter().any(|layer| layer.window.is_some())
    }

    /// Checks ids `[B, T]` and makes room for them; T.
    pub(super) fn make_room(&mut self, input_ids: &Tensor) -> Result<i64, DecodeError> {
        let found = input_ids.size();
        let tokens = match found[..] {
            [rows, tokens] if rows == self.rows && tokens > 0 => tokens,
            _ => return Err(DecodeError::Shape { found, rows: self.rows }),
        };
        if tokens > self.room() {
            return Err(DecodeError::TooLong { held: self.length, new: tokens, limit: self.limit });
        }
        let end = self.length + tokens;
        if end > self.rotary_tokens {
            let positions = in_blocks(end).min(self.limit);
            self.rotary = RopeTable::new(&self.rope, self.head_dim, positions, self.device)?;
            self.rotary_tokens = positions;
            self.recorded = None;
        }
        for layer in &mut self.layers {
            if layer.reserve(self.length, tokens)? {
                // What was recorded is about memory that is gone.
                self.recorded = None;
            }
        }
        Ok(tokens)
    }

    /// The cache of a layer.
    pub(super) fn layer(&self, layer: usize) -> Result<&LayerCache, DecodeError> {
        let layers = self.layers.len();
        let cache = self.layers.get(layer);
        Ok(cache.ok_or_else(|| TchError::Shape(format!("layer {layer} of a cache for {layers} layers")))?)
    }

    /// Takes the new tokens as read, after all layers have them. A step that failed before is as if it had not been.
    pub(super) fn commit(&mut self, tokens: i64) {
        self.length += tokens;
    }
}

/// Whole blocks with room for `tokens` and at least one more.
fn in_blocks(tokens: i64) -> i64 {
    (tokens / BLOCK_TOKENS + 1) * BLOCK_TOKENS
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct LayerCache {
    /// `[B, K, capacity, E]`, rotated.
    key: Tensor,
    /// `[B, K, capacity, E]`.
    value: Tensor,
    window: Option<i64>,
    /// Position of the first token that is kept.
    first: i64,
}

/// What the queries of some new tokens may read.
#[derive(Debug)]
pub(super) struct Readable {
    /// `[B, K, S, E]`, a view into the cache.
    pub(super) key: Tensor,
    /// `[B, K, S, E]`, a view into the cache.
    pub(super) value: Tensor,
    /// `[T, S]`, true: may read; `None` where all may be read.
    pub(super) mask: Option<Tensor>,
}

impl LayerCache {
    fn new(size: [i64; 4], window: Option<i64>, kind: Kind, device: Device) -> Result<LayerCache, TchError> {
        let empty = || Tensor::f_empty(size, (kind, device));
        Ok(LayerCache { key: empty()?, value: empty()?, window, first: 0 })
    }

    /// Window in tokens, the token itself included.
    pub(super) fn window(&self) -> Option<i64> {
        self.window
    }

    /// Makes room for `tokens` after `length`; whether that took other memory.
    fn reserve(&mut self, length: i64, tokens: i64) -> Result<bool, TchError> {
        let (_, _, capacity, _) = self.key.size4()?;
        let stored = length - self.first;
        if stored + tokens <= capacity {
            return Ok(false);
        }
        let kept = self.window.map_or(stored, |window| stored.min(window - 1));
        // Both before either is replaced: without memory for the second the cache stays as it was.
        let larger = |tensor: &Tensor| moved(tensor, stored - kept, kept, in_blocks(kept + tokens));
        (self.key, self.value) = (larger(&self.key)?, larger(&self.value)?);
        self.first = length - kept;
        Ok(true)
    }

    /// Stores keys and values `[B, T, K, E]` of the tokens from `position` on.
    pub(super) fn store(&self, position: i64, key: &Tensor, value: &Tensor) -> Result<(), TchError> {
        for (into, from) in [(&self.key, key), (&self.value, value)] {
            let (_, tokens, _, _) = from.size4()?;
            into.f_narrow(2, position - self.first, tokens)?.f_copy_(&from.f_transpose(1, 2)?)?;
        }
        Ok(())
    }

    /// Keys and values of all positions that there is room for, `[B, K, capacity, E]` each, used or not.
    pub(super) fn whole(&self) -> (&Tensor, &Tensor) {
        (&self.key, &self.value)
    }

    /// What `tokens` queries from `position` on may read, their own keys included.
    pub(super) fn readable(&self, position: i64, tokens: i64) -> Result<Readable, TchError> {
        let start = self.window.map_or(self.first, |window| self.first.max(position + 1 - window));
        let count = position + tokens - start;
        let view = |tensor: &Tensor| tensor.f_narrow(2, start - self.first, count);
        let mask = match tokens {
            1 => None,
            _ => Some(mask(tokens, count, self.window, self.key.device())?),
        };
        Ok(Readable { key: view(&self.key)?, value: view(&self.value)?, mask })
    }
}

/// A tensor of `capacity` along dimension 2 that begins with `kept` entries of `from`, from `start` on.
fn moved(from: &Tensor, start: i64, kept: i64, capacity: i64) -> Result<Tensor, TchError> {
    let (rows, heads, _, dim) = from.size4()?;
    let into = Tensor::f_empty([rows, heads, capacity, dim], (from.f_kind()?, from.device()))?;
    into.f_narrow(2, 0, kept)?.f_copy_(&from.f_narrow(2, start, kept)?)?;
    Ok(into)
}

/// `[T, S]` for the last T of S positions: true where query i may read key j, `0 ≤ i + S − T − j < window`.
fn mask(tokens: i64, count: i64, window: Option<i64>, device: Device) -> Result<Tensor, TchError> {
    let ones = Tensor::f_ones([tokens, count], (Kind::Bool, device))?;
    let before = count - tokens;
    let causal = ones.f_tril(before)?;
    window.map_or(Ok(causal.shallow_clone()), |window| causal.f_logical_and(&ones.f_triu(before + 1 - window)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(window: Option<i64>) -> LayerCache {
        LayerCache::new([1, 1, BLOCK_TOKENS, 1], window, Kind::Float, Device::Cpu).unwrap()
    }

    /// Stores tokens whose key is their position, in chunks.
    fn filled(window: Option<i64>, chunks: &[i64]) -> (LayerCache, i64) {
        let (mut cache, mut length) = (layer(window), 0);
        for tokens in chunks {
            cache.reserve(length, *tokens).unwrap();
            let positions = Tensor::arange_start(length, length + tokens, (Kind::Float, Device::Cpu));
            let positions = positions.view([1, *tokens, 1, 1]);
            cache.store(length, &positions, &(&positions * 2.0)).unwrap();
            length += tokens;
        }
        (cache, length)
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.contiguous().view(-1)).unwrap()
    }

    #[test]
    fn grows_in_blocks_and_keeps_everything_without_a_window() {
        let (cache, length) = filled(None, &[200, 100, 1, 700]);
        assert_eq!(cache.key.size()[2], 4 * BLOCK_TOKENS);
        let found = cache.readable(length - 1, 1).unwrap();
        let expected: Vec<f32> = (0..length).map(|position| position as f32).collect();
        assert_eq!(numbers(&found.key), expected);
        assert_eq!(numbers(&found.value), expected.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        assert!(found.mask.is_none());
    }

    #[test]
    fn a_window_bounds_the_memory_and_keeps_what_may_be_read() {
        let (cache, length) = filled(Some(10), &[1; 3000]);
        assert_eq!(cache.key.size()[2], BLOCK_TOKENS);
        let found = cache.readable(length - 1, 1).unwrap();
        assert_eq!(numbers(&found.key), (2990..3000).map(|position| position as f32).collect::<Vec<_>>());
    }

    #[test]
    fn the_mask_of_a_chunk_counts_from_its_own_positions() {
        let (cache, length) = filled(Some(4), &[250, 3, 30]);
        let found = cache.readable(length - 30, 30).unwrap();
        let (keys, mask) = (numbers(&found.key), found.mask.unwrap());
        assert_eq!(mask.size(), [30, keys.len() as i64]);
        for query in 0..30 {
            let row = numbers(&mask.get(query).to_kind(Kind::Float));
            let read: Vec<f32> = keys.iter().zip(row).filter(|(_, may)| *may > 0.0).map(|(key, _)| *key).collect();
            let position = length - 30 + query;
            assert_eq!(read, (position - 3..=position).map(|key| key as f32).collect::<Vec<_>>());
        }
    }
}
