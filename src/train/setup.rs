//! Everything a run needs, opened and checked against each other before a byte is written: configuration, device,
//! data, source model, masks' shapes.

use super::Error;
pub use super::compute::{Device, compute_dtype, kind};
use super::deal::check_deal;
use super::fit::{Sharing, filling_rows, memory_to_fill};
use super::loader_config::loader_config;
use super::references::{References, initial_proportions};
use super::routers::check_experts;
use super::teacher::check_teacher;
use crate::config::{Dist, MicroBatchRows, Mixer as MixerTable, RandomModel, RunConfig, Stage, Strategy, validate};
use crate::dist::{Mesh, World};
use crate::files::DType;
use crate::hf::{Architecture, Checkpoint, ModelConfig, NewLlama, RawConfig, vocabulary_difference};
use crate::native::kernels;
use crate::native::ops::self_check::check_kernels;
use crate::prune::{convert::require_complete, shape};
use crate::words::{counted, thousands};
use shearling_domains::{Dataset, MAX_CHANGE, MAX_DRIFT, Mixer, MixerConfig, MixerKind, MixerState, Split};
use shearling_masks::MaskSpec;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tch::Kind;

/// A run, ready to start or to resume.
#[derive(Debug)]
pub struct Setup {
    /// The configuration, references resolved.
    pub config: RunConfig,
    /// Which stage this is.
    pub stage: Stage,
    /// Device of the run.
    pub device: Device,
    /// The model's config file.
    pub hf_config: RawConfig,
    /// The model's resolved config.
    pub model: ModelConfig,
    /// Initial weights; `None` for random ones.
    pub source: Option<Checkpoint>,
    /// The teacher of `[distill]`.
    pub teacher: Option<Checkpoint>,
    /// Folder with the tokenizer and other files that travel with the model.
    pub companions: PathBuf,
    /// Masks of a prune run.
    pub spec: Option<MaskSpec>,
    /// Data.
    pub dataset: Arc<Dataset>,
    /// Proportions before the first update, in the order of the data's domains.
    pub proportions: Vec<f64>,
    /// Reference losses in that order.
    pub references: References,
    /// The processes that do it together.
    pub world: World,
    /// How its state is sharded over them, where it is.
    pub mesh: Option<Mesh>,
    /// Whether rows per forward are as many as fit.
    fills_memory: bool,
}

impl Setup {
    /// Opens and checks everything; nothing is written.
    pub fn new(mut config: RunConfig, stage: Stage, device: Device) -> Result<Setup, Error> {
        validate(&config, stage)?;
        config.run.dtype = compute_dtype(config.run.dtype, device).into();
        if let Some(distill) = &mut config.distill {
            distill.dtype = compute_dtype(distill.dtype, device).into();
        }
        let dataset = Arc::new(Dataset::open(&config.data.path)?);
        resolve_bounds(&mut config.mixer);
        let (source, hf_config, companions) = open_model(&config, &dataset)?;
        let model = hf_config.model()?;
        if let Some(source) = &source {
            require_complete(source, &model)?;
        }
        check_data_fits(&dataset, &model)?;
        check_kernels(device)?;
        let teacher = open_teacher(&config, &model, &dataset)?;
        if let (Some(lte), Some(source)) = (&config.lte, &source) {
            check_experts(lte, source)?;
        }
        let spec = match (&config.target, stage) {
            (Some(target), Stage::Prune) => Some(shape::mask_spec(&model, target)?),
            _ => None,
        };
        if let Some(spec) = &spec {
            check_target_differs(spec)?;
        }
        let written = spec.as_ref().map(|spec| shape::resized(&model, spec.target()));
        check_loads_elsewhere(written.as_ref().unwrap_or(&model))?;
        let names = dataset.domain_names().to_vec();
        let proportions = initial_proportions(&config.mixer, &names)?;
        let references = References::of(&mut config.mixer, &names)?;
        let fills_memory = config.train.micro_batch_rows == Some(MicroBatchRows::Auto) && !config.cuts_at_once();
        let mut setup = Setup {
            config,
            stage,
            device,
            hf_config,
            model,
            source,
            teacher,
            companions,
            spec,
            dataset,
            proportions,
            references,
            world: World::alone(),
            mesh: None,
            fills_memory,
        };
        if fills_memory {
            let rows = setup.filling_rows(memory_to_fill(device), Sharing::ALONE);
            setup.config.train.micro_batch_rows = Some(rows.into());
        }
        setup.mixer()?;
        loader_config(&setup.config).validate()?;
        check_rows_suffice(&setup.config, &setup.proportions, &setup.dataset)?;
        Ok(setup)
    }

    /// The same run, done by all processes of `world` together.
    ///
    /// # Errors
    /// Micro-batches that cannot be dealt to all; ranks over which the state cannot be sharded as the strategy says.
    pub fn among(mut self, world: World) -> Result<Setup, Error> {
        if self.fills_memory {
            self.config.train.micro_batch_rows = Some(self.rows_that_fit_all(&world)?.into());
        }
        check_deal(&self.config, world.size())?;
        self.mesh = if self.config.cuts_at_once() { None } else { mesh(&self.config.dist, &world)? };
        self.world = world;
        Ok(self)
    }

    /// What `train.micro_batch_rows = "auto"` comes to.
    fn filling_rows(&self, bytes: Option<f64>, sharing: Sharing) -> usize {
        let (teacher, tokens) = (self.teacher.as_ref().map(Checkpoint::model), self.dataset.sequence_length() as i64);
        filling_rows(&self.config, &self.model, teacher, tokens, self.device, bytes, sharing)
    }

    /// The same for all ranks: what fits the one with the least memory.
    fn rows_that_fit_all(&self, world: &World) -> Result<usize, Error> {
        let ranks = world.size();
        let here = world.place().map_or(1, |place| place.local_size);
        let shard_ranks = self.config.dist.strategy.shard_ranks(ranks, here);
        // Ranks of one machine share its memory, unless each has a GPU's.
        let neighbours = if self.device.is_cuda() { 1 } else { here };
        let bytes = memory_to_fill(self.device).map(|bytes| bytes / neighbours as f64);
        let own = self.filling_rows(bytes, Sharing { ranks, shard_ranks });
        let all = world.numbers(&[own as f64])?;
        Ok(all.iter().map(|rows| rows[0] as usize).min().unwrap_or(own))
    }

    /// What may be a mistake, but is not one for certain.
    pub fn warnings(&self) -> Vec<String> {
        // That references are noisy is said where something can be done about it: when they are measured and planned with.
        let mut warnings: Vec<String> = self.references.warning.iter().cloned().collect();
        warnings.extend(kernels::complaint(self.device));
        warnings.extend(self.references.of_other_rows(&self.dataset, &self.config.eval));
        warnings.extend(self.teacher.as_ref().and_then(|teacher| other_tokenizer(&self.dataset, teacher.dir())));
        let Some(source) = &self.source else { return warnings };
        warnings.extend(source.tokenizer_hint());
        // One folder may be both.
        let same = self.teacher.as_ref().is_some_and(|teacher| teacher.dir() == source.dir());
        warnings.extend(other_tokenizer(&self.dataset, source.dir()).filter(|_| !same));
        let written = self.spec.as_ref().map(|spec| shape::resized(&self.model, spec.target()));
        warnings.extend(loads_in_some_only(written.as_ref().unwrap_or(&self.model)));
        warnings
    }

    /// Kind of forward and backward.
    pub fn compute_kind(&self) -> Kind {
        kind(compute_dtype(self.config.run.dtype, self.device))
    }

    /// A mixer at its start.
    pub fn mixer(&self) -> Result<Mixer, Error> {
        Ok(Mixer::new(mixer_config(&self.config.mixer), &self.proportions, self.references())?)
    }

    /// A mixer where a checkpoint left it.
    pub fn resumed_mixer(&self, state: MixerState) -> Result<Mixer, Error> {
        Ok(Mixer::resume(mixer_config(&self.config.mixer), &self.proportions, self.references(), state)?)
    }

    fn references(&self) -> &[f64] {
        self.references.losses.as_deref().unwrap_or(&[])
    }
}

/// How the state of a run is sharded over its ranks, where it is.
fn mesh(dist: &Dist, world: &World) -> Result<Option<Mesh>, Error> {
    let Some(place) = world.place().filter(|_| dist.strategy.shards()) else { return Ok(None) };
    let on_machine = if dist.strategy == Strategy::Hybrid { same_on_all_machines(world, place.local_size)? } else { 1 };
    let ranks = dist.strategy.shard_ranks(world.size(), on_machine);
    Ok(Some(world.mesh(ranks, Duration::from_secs(dist.timeout_seconds))?))
}

/// The ranks of a machine, the same number on each.
fn same_on_all_machines(world: &World, here: usize) -> Result<usize, Error> {
    let all: Vec<usize> = world.numbers(&[here as f64])?.iter().map(|ranks| ranks[0] as usize).collect();
    if let Some(other) = all.iter().find(|ranks| **ranks != all[0]) {
        return Err(Error::Mismatch(format!(
            "dist.strategy = \"hybrid\" shards the state over the ranks of a machine, of which one has {} and another {other}: \
             start as many on each, or take \"fsdp\"",
            all[0]
        )));
    }
    Ok(here)
}

/// Refuses a run that would come to its end without data, however it is mixed.
pub(super) fn check_rows_suffice(config: &RunConfig, proportions: &[f64], dataset: &Dataset) -> Result<(), Error> {
    let (steps, batch_rows) = config.draws();
    let needed = steps.saturating_mul(batch_rows as u64);
    let mixer = mixer_config(&config.mixer);
    // With a bound on its odds a domain that begins with nothing stays there.
    let bounded = mixer.max_change().is_some() || mixer.max_drift().is_some();
    let moves = mixer.kind != MixerKind::Static && !bounded && (mixer.smoothing > 0.0 || mixer.floor > 0.0);
    let drawn = (0..proportions.len()).filter(|domain| moves || proportions[*domain] > 0.0);
    let epochs = config.data.max_epochs;
    let there: u64 = drawn.map(|domain| (dataset.rows(domain, Split::Train) as f64 * epochs) as u64).sum();
    if needed <= there {
        return Ok(());
    }
    let (fewer, steps_said) = match config.cuts_at_once() {
        true => ("prune.calibration_rows", "to calibrate on".to_string()),
        false => ("train.steps", format!("({} of {batch_rows})", counted(steps, "step"))),
    };
    let (needed, there) = (thousands(needed), thousands(there));
    Err(Error::Mismatch(format!(
        "the run needs {needed} rows {steps_said}, the domains that are drawn from have {there}, seen {epochs} times (data.max_epochs); \
         prepare more data, lower {fewer} or raise data.max_epochs"
    )))
}

/// The mixer's part of a configuration.
pub(super) fn mixer_config(table: &MixerTable) -> MixerConfig {
    let (eta, smoothing, floor, cap) = (table.eta, table.smoothing, table.floor.unwrap_or(0.0), table.cap);
    let (max_change, max_drift) = (table.max_change, table.max_drift);
    MixerConfig { kind: table.kind, eta, smoothing, floor, cap, max_change, max_drift }
}

fn open_model(config: &RunConfig, dataset: &Dataset) -> Result<(Option<Checkpoint>, RawConfig, PathBuf), Error> {
    match (&config.model.source, &config.model.random) {
        (Some(path), _) => {
            let source = Checkpoint::open(path)?;
            let hf_config = source.config().clone();
            Ok((Some(source), hf_config, path.clone()))
        }
        (None, Some(random)) => {
            let new = random_config(random, RandomFrame::of(dataset))?;
            Ok((None, new, config.data.path.clone()))
        }
        (None, None) => Err(Error::Mismatch("[model] names neither source nor random".to_string())),
    }
}

/// The teacher's folder, whole and fit for the model and its rows.
fn open_teacher(config: &RunConfig, model: &ModelConfig, dataset: &Dataset) -> Result<Option<Checkpoint>, Error> {
    let Some(folder) = config.teacher() else { return Ok(None) };
    let teacher = Checkpoint::open(folder)?;
    require_complete(&teacher, teacher.model())?;
    check_teacher(teacher.model(), model, dataset.sequence_length() as i64)?;
    Ok(Some(teacher))
}

/// What a new model takes from its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct RandomFrame {
    pub(super) vocab_size: i64,
    pub(super) sequence_length: i64,
    pub(super) bos_token_id: Option<i64>,
    pub(super) eos_token_id: Option<i64>,
}

impl RandomFrame {
    pub(super) fn of(dataset: &Dataset) -> RandomFrame {
        RandomFrame {
            vocab_size: dataset.vocab_size() as i64,
            sequence_length: dataset.sequence_length() as i64,
            bos_token_id: dataset.manifest().bos_token_id.map(i64::from),
            eos_token_id: dataset.manifest().eos_token_id.map(i64::from),
        }
    }
}

/// A new Llama whose vocabulary and special tokens are the data's.
pub(super) fn random_config(random: &RandomModel, frame: RandomFrame) -> Result<RawConfig, Error> {
    let heads = random.num_attention_heads;
    if random.head_dim.is_none() && random.hidden_size % heads != 0 {
        return Err(Error::Mismatch(format!(
            "model.random.hidden_size = {} is not divisible by num_attention_heads = {heads}; change one or give head_dim",
            random.hidden_size
        )));
    }
    let new = NewLlama {
        vocab_size: random.vocab_size.unwrap_or(frame.vocab_size),
        hidden_size: random.hidden_size,
        intermediate_size: random.intermediate_size,
        num_hidden_layers: random.num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: random.num_key_value_heads.unwrap_or(heads),
        head_dim: random.head_dim.unwrap_or(random.hidden_size / heads),
        max_position_embeddings: frame.sequence_length,
        rope_theta: random.rope_theta,
        rms_norm_eps: 1e-5,
        initializer_range: 0.02,
        tie_word_embeddings: random.tie_word_embeddings,
        bos_token_id: frame.bos_token_id,
        eos_token_id: frame.eos_token_id,
        dtype: DType::F32,
    };
    Ok(RawConfig::new_llama(&new)?)
}

/// Refuses a target that is the source's own shape: nothing would be removed, whatever the masks learn.
pub(super) fn check_target_differs(spec: &MaskSpec) -> Result<(), Error> {
    if spec.source() != spec.target() {
        return Ok(());
    }
    Err(Error::Mismatch(
        "[target] is the shape of model.source: nothing would be pruned; give at least one smaller size, or train the \
         model as it is with shearling pretrain and a configuration without [target]"
            .to_string(),
    ))
}

/// Refuses shapes that we could train, but that no other tool would load: transformers 5 insists in its Llama class on
/// a hidden size that is a multiple of the heads, whatever `head_dim` says.
pub fn check_loads_elsewhere(model: &ModelConfig) -> Result<(), Error> {
    let (hidden, heads) = (model.hidden_size, model.num_attention_heads);
    if model.architecture != Architecture::Llama || hidden % heads == 0 {
        return Ok(());
    }
    Err(Error::Mismatch(format!(
        "hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}: transformers 5 would not load the \
         written LlamaForCausalLM; take for example hidden_size = {} or another number of heads",
        near_multiple(hidden, heads)
    )))
}

/// The largest multiple of `heads` that is at most `hidden`, of 64 too where there is one: such products are fast.
fn near_multiple(hidden: i64, heads: i64) -> i64 {
    let fast = (1..=heads).map(|times| 64 * times).find(|size| size % heads == 0).filter(|size| *size <= hidden);
    let step = fast.unwrap_or(heads);
    (hidden / step).max(1) * step
}

/// Shapes that transformers loads and other tools do not: llama.cpp and vLLM have no `head_dim` for Qwen2, they divide.
pub fn loads_in_some_only(model: &ModelConfig) -> Option<String> {
    let (hidden, heads, head_dim) = (model.hidden_size, model.num_attention_heads, model.head_dim);
    (model.architecture == Architecture::Qwen2 && heads * head_dim != hidden).then(|| {
        format!(
            "hidden_size = {hidden} is not num_attention_heads × head_dim = {heads} × {head_dim}: transformers loads such \
             a Qwen2ForCausalLM, llama.cpp and vLLM do not; take hidden_size = {} to use the written model there",
            heads * head_dim
        )
    })
}

/// What to say of a model whose folder has other tokens than the data.
pub fn other_tokenizer(dataset: &Dataset, folder: &Path) -> Option<String> {
    let difference = vocabulary_difference(folder, &dataset.tokenizer_path())?;
    Some(format!(
        "{} was made for another tokenizer than that of the data: {difference}. Its losses on this data mean nothing; \
         prepare the data with --tokenizer {0}/tokenizer.json",
        folder.display()
    ))
}

/// Refuses data whose ids or rows the model cannot take. What counts is the ids that occur: many tokenizers know tokens
/// (padding, marks of a chat) that the model has no embedding for, and that no text is encoded to.
pub fn check_data_fits(dataset: &Dataset, model: &ModelConfig) -> Result<(), Error> {
    if dataset.vocab_size() as i64 > model.vocab_size {
        let largest = i64::from(dataset.largest_token_id()?);
        if largest >= model.vocab_size {
            return Err(Error::Mismatch(format!(
                "the data has token id {largest}, the model only ids below {} (vocab_size): prepare the data with the \
                 tokenizer.json of the model's folder; if it was, the model has no embedding for tokens that were added to \
                 its tokenizer (resize_token_embeddings in transformers makes room for them)",
                model.vocab_size
            )));
        }
    }
    if dataset.sequence_length() as i64 > model.max_position_embeddings {
        return Err(Error::Mismatch(format!(
            "the data has rows of {} tokens, the model takes at most {} (max_position_embeddings); prepare the data \
             with a shorter --sequence-length",
            dataset.sequence_length(),
            model.max_position_embeddings
        )));
    }
    Ok(())
}

/// Writes the bounds out that the kind of mixer brings along, so that a run keeps those it began with.
pub(super) fn resolve_bounds(mixer: &mut MixerTable) {
    if mixer.kind == MixerKind::Bounded {
        mixer.max_change.get_or_insert(MAX_CHANGE);
        mixer.max_drift.get_or_insert(MAX_DRIFT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advised_hidden_size_suits_heads_and_products() {
        assert_eq!(
            [(400, 6), (400, 9), (100, 9), (5, 9)].map(|(hidden, heads)| near_multiple(hidden, heads)),
            [384, 396, 99, 9]
        );
    }

    #[test]
    fn only_a_qwen2_whose_heads_are_narrower_than_its_stream_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let model = |class: &str, kind: &str, hidden: i64| {
            let config = serde_json::json!({
                "architectures": [class], "model_type": kind, "vocab_size": 64, "hidden_size": hidden, "head_dim": 8,
                "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            });
            let path = folder.path().join("config.json");
            std::fs::write(&path, config.to_string()).unwrap();
            RawConfig::read(&path).unwrap().model().unwrap()
        };
        let warning = loads_in_some_only(&model("Qwen2ForCausalLM", "qwen2", 40)).unwrap();
        assert!(warning.contains("take hidden_size = 32"), "{warning}");
        assert_eq!(loads_in_some_only(&model("Qwen2ForCausalLM", "qwen2", 32)), None);
        assert_eq!(loads_in_some_only(&model("Qwen3ForCausalLM", "qwen3", 40)), None);
    }
}
