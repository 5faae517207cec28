//! A decoded token as one launch of a CUDA graph.
//!
//! ```text
//! first token after a prompt ─► launch by launch, which loads all that they need     position and ids come from the
//! second ─► the same launches, recorded, then launched as one                        device, so that the launches are
//! every other ─► launched as one                                                     those of every token
//! ```
//!
//! A token of a 7B is hundreds of launches; the host takes longer to make them than the GPU to run them. What is recorded
//! belongs to a cache, whose memory it reads and writes: where that has grown or the weights are others, it is made again.

use super::cache::{DecodeError, KvCache};
use super::decoder::Decoder;
use crate::native::kernels::{self, Path};
use crate::native::runtime::cuda_graph::CudaGraph;
use tch::{Device, Kind, TchError, Tensor};

/// A token after those of a cache, on its way to one launch.
#[derive(Debug)]
pub(super) struct RecordedToken {
    /// `[B, 1]`, int64.
    ids: Tensor,
    /// `[1]`, int64.
    position: Tensor,
    /// Where weights and cache lie.
    memory: Memory,
    launches: Launches,
}

type Memory = [usize; 4];

/// How it is launched.
#[derive(Debug)]
enum Launches {
    /// One by one, for the first time.
    Unloaded,
    /// One by one, recorded for the next.
    Loaded,
    /// As one, which writes the logits `[B, V]`.
    Recorded(CudaGraph, Tensor),
    /// One by one: they cannot be recorded, and why.
    Refused(String),
}

impl RecordedToken {
    fn new(input_ids: &Tensor, memory: Memory) -> Result<RecordedToken, TchError> {
        let position = Tensor::f_zeros([1], (Kind::Int64, input_ids.device()))?;
        let ids = input_ids.f_empty_like()?;
        Ok(RecordedToken { ids, position, memory, launches: Launches::Unloaded })
    }

    /// Why tokens are launched one by one though they were to be recorded.
    pub(super) fn refusal(&self) -> Option<&str> {
        match &self.launches {
            Launches::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    /// Logits `[B, V]` after `input_ids [B, 1]`, for which `cache` has room.
    fn next(&mut self, decoder: &Decoder, input_ids: &Tensor, cache: &KvCache) -> Result<Tensor, DecodeError> {
        self.ids.f_copy_(input_ids)?;
        let _ = self.position.f_fill_(cache.length())?;
        let one_by_one = || decoder.token_logits(&self.ids, cache, &self.position);
        if let (Launches::Loaded, Device::Cuda(gpu)) = (&self.launches, input_ids.device()) {
            self.launches = match CudaGraph::record(gpu, one_by_one) {
                Ok((graph, logits)) => Launches::Recorded(graph, logits),
                Err(problem) => Launches::Refused(problem.to_string()),
            };
        }
        match &self.launches {
            Launches::Recorded(graph, logits) => {
                graph.replay()?;
                // The next launch writes into the same memory.
                let mut own = logits.f_empty_like()?;
                own.f_copy_(logits)?;
                Ok(own)
            }
            Launches::Unloaded => {
                let logits = one_by_one()?;
                self.launches = Launches::Loaded;
                Ok(logits)
            }
            Launches::Loaded | Launches::Refused(_) => one_by_one(),
        }
    }
}

impl Decoder {
    /// [`Decoder::next_logits`] of one token a row on a GPU with kernels; `None` for what goes another way.
    pub(super) fn recorded_logits(
        &self,
        input_ids: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Option<Tensor>, DecodeError> {
        let one_token = input_ids.size().get(1) == Some(&1) && cache.length() > 0;
        if !one_token || cache.has_windows() || !launches(input_ids.device()) {
            return Ok(None);
        }
        cache.make_room(input_ids)?;
        let [keys, rotary] = cache.memory();
        let memory = [self.embedding.weight.data_ptr() as usize, self.head.norm.data_ptr() as usize, keys, rotary];
        let mut token = match cache.recorded.take() {
            Some(token) if token.memory == memory => token,
            _ => Box::new(RecordedToken::new(input_ids, memory)?),
        };
        let logits = token.next(self, input_ids, cache);
        cache.recorded = Some(token);
        cache.commit(1);
        logits.map(Some)
    }
}

/// Whether a token is launched on `device` by kernels of ours; on a CPU for a count or a proof of what a GPU does.
fn launches(device: Device) -> bool {
    match device {
        Device::Cuda(gpu) => kernels::state(gpu).is_ok(),
        _ => Path::current() == Path::DeviceKernels,
    }
}

#[cfg(test)]
mod tests {
    use super::super::init::random_weights;
    use super::*;
    use crate::files::DType;
    use crate::hf::{ModelConfig, NewLlama, RawConfig};
    use crate::native::kernels::compute_by;

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
