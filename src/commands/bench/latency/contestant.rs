//! A model that takes part: what it is, and once loaded, what one of its steps reads and what it takes in memory.

use super::timed_decode::{Lengths, timed_decode};
use crate::cli::arguments::BenchLatency;
use crate::commands::bench::shapes::{NamedShape, SHAPES, VOCAB_SIZE};
use crate::commands::decoder_folder::DecoderFolder;
use crate::commands::model_folder::model_folder;
use crate::config::RandomModel;
use crate::files::DType;
use crate::hf::{ModelConfig, NewLlama, RawConfig};
use crate::model::count::{ParameterCount, cache_bytes, decoding_weight_bytes};
use crate::model::parameters::parameters;
use crate::model::{Decoder, KvCache};
use crate::native::runtime::{allocator, memory};
use anyhow::Context;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// Random numbers that fill all weights of a shape, over and over: their values do not matter to the time.
const NOISE: i64 = 1 << 20;

/// A model before it is loaded.
pub(super) struct Candidate {
    pub(super) name: String,
    model: ModelConfig,
    folder: Option<PathBuf>,
    /// Numbers that a token is expected not to read.
    skipped_numbers: f64,
}

impl Candidate {
    /// The folders, then the shapes of the command line; all are checked before any weight is read.
    pub(super) fn all(arguments: &BenchLatency) -> anyhow::Result<Vec<Candidate>> {
        let folders = arguments.models.iter().map(|path| Candidate::folder(path));
        folders.chain(arguments.shape.iter().map(|name| Candidate::shape(name))).collect()
    }

    fn folder(path: &Path) -> anyhow::Result<Candidate> {
        let path = model_folder(path)?;
        let opened = DecoderFolder::open(&path)?;
        let (model, skipped_numbers) = (opened.model().clone(), opened.skipped_numbers());
        Ok(Candidate { name: path.display().to_string(), model, folder: Some(path), skipped_numbers })
    }

    fn shape(name: &str) -> anyhow::Result<Candidate> {
        let (base, target) = name.strip_suffix(":target").map_or((name, false), |base| (base, true));
        let shape = NamedShape::named(base).with_context(|| {
            let names = SHAPES.map(|shape| shape.name).join(", ");
            format!("--shape {name:?} is not known; there are {names}, and each with :target after it")
        })?;
        let random = if target { shape.pruned_model() } else { shape.model() };
        Ok(Candidate { name: name.to_string(), model: llama(&random)?, folder: None, skipped_numbers: 0.0 })
    }

    /// The longest text it takes, in tokens.
    pub(super) fn limit(&self) -> i64 {
        self.model.max_position_embeddings
    }

    fn decoder(&self, kind: Kind, device: Device) -> anyhow::Result<Decoder> {
        let Some(folder) = &self.folder else { return Ok(random_decoder(&self.model, kind, device)?) };
        // Opened anew and dropped: pages of the mapped file must not count as memory of the model.
        DecoderFolder::open(folder)?.decoder(kind, device)
    }
}

/// A Llama with the vocabulary of Llama 2 and room for long texts.
pub(in crate::commands::bench) fn llama(random: &RandomModel) -> anyhow::Result<ModelConfig> {
    let heads = random.num_attention_heads;
    let config = RawConfig::new_llama(&NewLlama {
        vocab_size: random.vocab_size.unwrap_or(VOCAB_SIZE),
        hidden_size: random.hidden_size,
        intermediate_size: random.intermediate_size,
        num_hidden_layers: random.num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: random.num_key_value_heads.unwrap_or(heads),
        head_dim: random.head_dim.unwrap_or(random.hidden_size / heads.max(1)),
        max_position_embeddings: 1 << 15,
        rope_theta: random.rope_theta,
        rms_norm_eps: 1e-5,
        initializer_range: 0.02,
        tie_word_embeddings: random.tie_word_embeddings,
        bos_token_id: None,
        eos_token_id: None,
        dtype: DType::BF16,
    })?;
    Ok(config.model()?)
}

fn random_decoder(model: &ModelConfig, kind: Kind, device: Device) -> Result<Decoder, TchError> {
    tch::manual_seed(0);
    let noise = Tensor::f_randn([NOISE], (Kind::Float, device))?.f_mul_scalar(model.initializer_range)?;
    let noise = noise.f_to_kind(kind)?;
    let all = parameters(model);
    Decoder::build(model, &mut |name| {
        let parameter = all.iter().find(|parameter| parameter.name == name);
        let parameter = parameter.ok_or_else(|| TchError::Shape(format!("no parameter {name}")))?;
        if parameter.role.is_norm() {
            return Tensor::f_ones(&parameter.shape[..], (kind, device));
        }
        let count: i64 = parameter.shape.iter().product();
        let filled = noise.f_repeat([count / NOISE + 1])?.f_narrow(0, 0, count)?;
        // A copy: a view would keep the whole repetition in memory.
        let mut weight = Tensor::f_empty(&parameter.shape[..], (kind, device))?;
        weight.f_copy_(&filled.f_view(&parameter.shape[..])?)?;
        Ok(weight)
    })
}

/// A loaded model.
pub(super) struct Contestant {
    pub(super) name: String,
    pub(super) decoder: Decoder,
    pub(super) cache: KvCache,
    pub(super) device: Device,
    /// Bytes of one number.
    element_bytes: i64,
    /// Numbers that a token is expected not to read: experts that do not run.
    skipped_numbers: f64,
    /// Of the model alone while it decodes.
    pub(super) peak_memory_bytes: Option<u64>,
}

impl Contestant {
    /// Loads a model and lets it decode once, which does not count, to see what memory that takes.
    pub(super) fn load(
        candidate: Candidate,
        lengths: Lengths,
        kind: Kind,
        device: Device,
    ) -> anyhow::Result<Contestant> {
        let base = restarted_peak(device);
        let decoder = candidate.decoder(kind, device)?;
        // What loading took for a moment is given back before the peak of answering is looked for.
        let restarted = restarted_peak(device);
        let cache = KvCache::new(decoder.model(), 1, lengths.prompt + lengths.new, kind, device)?;
        let element_bytes = kind.elt_size_in_bytes() as i64;
        let mut contestant = Contestant {
            name: candidate.name,
            decoder,
            cache,
            device,
            element_bytes,
            skipped_numbers: candidate.skipped_numbers,
            peak_memory_bytes: None,
        };
        timed_decode(&contestant.decoder, &mut contestant.cache, lengths, device)?;
        let peak = restarted.and_then(|_| memory::peak_bytes(device));
        contestant.peak_memory_bytes = base.zip(peak).map(|(base, peak)| peak.saturating_sub(base));
        Ok(contestant)
    }

    /// Lets a tiny model decode: what libraries load and build on first use is no model's memory.
    pub(super) fn warm_up(kind: Kind, device: Device) -> anyhow::Result<()> {
        Contestant::load(Candidate::shape(SHAPES[0].name)?, Lengths { prompt: 64, new: 2 }, kind, device).map(drop)
    }

    pub(super) fn parameters(&self) -> i64 {
        ParameterCount::of(self.decoder.model()).total()
    }

    pub(super) fn weight_bytes(&self) -> i64 {
        self.parameters() * self.element_bytes
    }

    /// Bytes that a step at position `context` cannot but read: every weight except the rows of an embedding that is
    /// not also the head and those of experts that do not run, and the keys and values that the token may look at.
    pub(super) fn bytes_per_token(&self, context: f64) -> f64 {
        let model = self.decoder.model();
        let skipped = self.skipped_numbers * self.element_bytes as f64;
        decoding_weight_bytes(model, self.element_bytes) - skipped + cache_bytes(model, context, self.element_bytes)
    }
}

/// Lets the peak begin anew and gives it: what is in use now. `None` where the system cannot.
fn restarted_peak(device: Device) -> Option<u64> {
    allocator::release_unused();
    memory::restart_peak(device).then(|| memory::peak_bytes(device)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths { prompt: 6, new: 3 };

    fn contestant(name: &str) -> Contestant {
        Contestant::load(Candidate::shape(name).unwrap(), LENGTHS, Kind::BFloat16, Device::Cpu).unwrap()
    }

    #[test]
    fn a_step_reads_every_weight_but_the_embedding_and_the_cache() {
        let tiny = contestant("tiny");
        // tiny: D 128, F 352, L 4, H 4, K 2, V 32,000.
        let layer = 128 * 128 * 2 + 64 * 128 * 2 + 3 * 128 * 352 + 2 * 128;
        let weights = 4 * layer + 128 + 32_000 * 128;
        assert_eq!(tiny.parameters(), weights + 32_000 * 128);
        assert_eq!(tiny.weight_bytes(), 2 * tiny.parameters());
        let expected = 2 * (weights + 128) + 4 * 2 * 64 * 10 * 2;
        assert_eq!(tiny.bytes_per_token(10.0), expected as f64);
    }

    #[test]
    fn a_target_is_three_quarters_with_heads_of_the_old_size() {
        let (whole, target) = (Candidate::shape("base").unwrap().model, Candidate::shape("base:target").unwrap().model);
        assert_eq!((target.hidden_size, target.num_hidden_layers), (576, 9));
        assert_eq!((target.num_attention_heads, target.num_key_value_heads), (9, 3));
        assert_eq!(target.head_dim, whole.head_dim);
        assert!(Candidate::shape("base:half").is_err() && Candidate::shape("huge").is_err());
    }
}
