//! The tree of a run's configuration, one struct per TOML table. The doc line of a field is its reference.

use super::dist::Dist;
use super::lte::Lte;
use super::micro_batch::MicroBatchRows;
use super::pruning::{HiddenBasis, Masks, Prune, PruneMethod};
use crate::files::DType;
use serde::{Deserialize, Serialize};
use shearling_domains::MixerKind;
use shearling_masks::MaskPreset;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// More threads than any machine has cores for; beyond it a number is a slip of the keyboard.
pub const MOST_THREADS: usize = 1024;

/// The whole configuration of `prune`, `pretrain` or `lte train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Where the run is written and on what it runs.
    pub run: Run,
    /// The model to start from.
    pub model: Model,
    /// The shape to prune to; `prune` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The prepared data.
    pub data: Data,
    /// How the domains are mixed.
    #[serde(default)]
    pub mixer: Mixer,
    /// Steps, batch, learning rate of the weights; without use where a source is cut at once.
    #[serde(default)]
    pub train: Train,
    /// A teacher whose predictions are learned beside the text; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    /// Masks and multipliers; `prune` only.
    #[serde(default)]
    pub masks: Masks,
    /// How the pruned model is made and checked; `prune` only.
    #[serde(default)]
    pub prune: Prune,
    /// Routers and how they train; `lte train` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lte: Option<Lte>,
    /// Evaluation on the held-out rows.
    #[serde(default)]
    pub eval: Eval,
    /// What is kept of the run.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// How several processes do it together.
    #[serde(default)]
    pub dist: Dist,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Folder of this run; must not exist yet unless `--resume` is given.
    pub directory: PathBuf,
    /// Seed of everything random: initial weights, gate noise, data order.
    #[serde(default)]
    pub seed: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; `--device` overrides it.
    #[serde(default = "auto")]
    pub device: String,
    /// Dtype of the forward and backward pass; masters, masks and gradient sums are always fp32.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// CPU threads of libtorch; as many as suit the machine when absent. `--threads` overrides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
    /// Writes TensorBoard event files beside `metrics.jsonl`, from the same records.
    #[serde(default)]
    pub tensorboard: bool,
}

fn auto() -> String {
    "auto".to_string()
}

/// `run.dtype`: a dtype by name, or the machine's choice.
///
/// The default of the key is `fp32` and not `auto`: a configuration that names no dtype computes the same on every
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "DtypeName", into = "DtypeName")]
pub enum ComputeDtype {
    /// bf16 where the device of the run multiplies it in hardware, else fp32. A run resolves it before it starts.
    Auto,
    /// This one.
    Fixed(DType),
}

impl Default for ComputeDtype {
    fn default() -> ComputeDtype {
        ComputeDtype::Fixed(DType::default())
    }
}

impl From<DType> for ComputeDtype {
    fn from(dtype: DType) -> ComputeDtype {
        ComputeDtype::Fixed(dtype)
    }
}

/// How [`ComputeDtype`] is spelt in a file: one flat list of names, so that an error shows all of them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DtypeName {
    Auto,
    Fp32,
    Bf16,
    Fp16,
}

impl From<DtypeName> for ComputeDtype {
    fn from(name: DtypeName) -> ComputeDtype {
        match name {
            DtypeName::Auto => ComputeDtype::Auto,
            DtypeName::Fp32 => ComputeDtype::Fixed(DType::F32),
            DtypeName::Bf16 => ComputeDtype::Fixed(DType::BF16),
            DtypeName::Fp16 => ComputeDtype::Fixed(DType::F16),
        }
    }
}

impl From<ComputeDtype> for DtypeName {
    fn from(dtype: ComputeDtype) -> DtypeName {
        match dtype {
            ComputeDtype::Auto => DtypeName::Auto,
            ComputeDtype::Fixed(DType::F32) => DtypeName::Fp32,
            ComputeDtype::Fixed(DType::BF16) => DtypeName::Bf16,
            ComputeDtype::Fixed(DType::F16) => DtypeName::Fp16,
        }
    }
}

/// `[model]`: exactly one of `source` and `random`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Hugging Face folder with `config.json` and safetensors weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// A new Llama with random weights, vocabulary and special tokens from the data; `pretrain` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<RandomModel>,
}

/// `[model.random]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomModel {
    /// D.
    pub hidden_size: i64,
    /// F.
    pub intermediate_size: i64,
    /// L.
    pub num_hidden_layers: i64,
    /// H.
    pub num_attention_heads: i64,
    /// K; default H.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<i64>,
    /// E; default D / H.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<i64>,
    /// V; default that of the data, which it must not be below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<i64>,
    /// Base of the rotary embedding.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Whether the output head is the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn rope_theta() -> f64 {
    10000.0
}

/// `[target]`: what is not given stays as in the source. `head_dim` never changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// D.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_size: Option<i64>,
    /// F.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate_size: Option<i64>,
    /// L.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_hidden_layers: Option<i64>,
    /// H.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_attention_heads: Option<i64>,
    /// K; when absent and the source has K = H it follows H, else it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<i64>,
    /// Only to say what the source has: a value that differs is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<i64>,
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Folder written by `shearling data prepare`.
    pub path: PathBuf,
    /// How often a domain may be repeated before it is dropped from the mix.
    #[serde(default = "max_epochs")]
    pub max_epochs: f64,
    /// Batches read ahead.
    #[serde(default = "prefetch")]
    pub prefetch: usize,
}

fn max_epochs() -> f64 {
    4.0
}

fn prefetch() -> usize {
    2
}

/// `[mixer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixer {
    /// `static`, `bounded` (moves a little at a time), `dynamic` (Algorithm 1 of the paper) or `signed` (the released code).
    pub kind: MixerKind,
    /// Initial proportions by domain, summing to 1; all domains alike when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proportions: Option<BTreeMap<String, f64>>,
    /// Loss each domain should reach, nats per token; needed unless `static`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_loss: Option<BTreeMap<String, f64>>,
    /// Takes the reference losses from this file of `shearling eval --write-reference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_file: Option<PathBuf>,
    /// Step size η of the update.
    pub eta: f64,
    /// Smoothing c: after an update, proportions are (1−c)·w + c/k.
    pub smoothing: f64,
    /// No domain falls below this proportion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// No domain rises above this proportion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap: Option<f64>,
    /// Largest factor on the odds of a domain in one update; `bounded` has 1.1, the others none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_change: Option<f64>,
    /// Largest factor between the odds of a domain and its initial ones; `bounded` has 6, the others none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drift: Option<f64>,
}

impl Default for Mixer {
    fn default() -> Mixer {
        Mixer {
            kind: MixerKind::Static,
            proportions: None,
            reference_loss: None,
            reference_file: None,
            eta: 1.0,
            smoothing: 1e-4,
            floor: None,
            cap: None,
            max_change: None,
            max_drift: None,
        }
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimiser steps.
    #[serde(default)]
    pub steps: u64,
    /// Rows per optimiser step.
    #[serde(default)]
    pub batch_rows: usize,
    /// Rows per forward; the batch is accumulated over `batch_rows / micro_batch_rows` of them. All rows where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_rows: Option<MicroBatchRows>,
    /// Peak learning rate of the weights.
    #[serde(default)]
    pub learning_rate: f64,
    /// Steps of linear warm-up of all learning rates.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Where the cosine ends, as a fraction of the peak.
    #[serde(default = "final_lr")]
    pub final_lr_fraction: f64,
    /// β of AdamW's first moment.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// β of AdamW's second moment.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// ε of AdamW.
    #[serde(default = "adam_eps")]
    pub eps: f64,
    /// Decoupled weight decay of the matrices (norms and biases have none).
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest global gradient norm over weights, masks and multipliers together.
    #[serde(default = "clip_norm")]
    pub clip_norm: f64,
    /// Trades time for memory: every n-th block keeps only its input for the backward and is computed again there; 0
    /// keeps everything, 1 recomputes every block.
    #[serde(default)]
    pub activation_checkpointing: usize,
    /// Trades little time for memory: what norms and SwiGLU give is made again in the backward where a product needs it.
    #[serde(default)]
    pub selective_recomputation: bool,
    /// Steps with a non-finite loss or gradient in a row after which the run stops.
    #[serde(default = "max_skipped")]
    pub max_skipped_steps: u64,
    /// What becomes of a run whose losses say that it diverges.
    #[serde(default)]
    pub divergence: Divergence,
    /// Dtype in which AdamW's moments of the weights are kept; bf16 halves their memory, 8 bits quarter it.
    #[serde(default)]
    pub moments: MomentKind,
    /// Keeps the moments of the weights in host memory and streams them through the device at each update; without
    /// effect on the CPU.
    #[serde(default)]
    pub moments_on_host: bool,
}

/// What becomes of a run whose losses say that it diverges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Divergence {
    /// It ends with an error, and writes no model.
    #[default]
    Stop,
    /// It warns and goes on.
    Warn,
}

/// Dtype in which AdamW's moments are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentKind {
    /// Exact.
    #[default]
    Fp32,
    /// Rounded to nearest at each update; needs β below 1 − 2⁻⁸.
    Bf16,
    /// Rounded by chance at each update, right in the mean; needs β₁² < β₂.
    #[serde(rename = "8bit")]
    EightBit,
}

fn final_lr() -> f64 {
    0.1
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.95
}

fn adam_eps() -> f64 {
    1e-8
}

fn clip_norm() -> f64 {
    1.0
}

fn max_skipped() -> u64 {
    10
}

impl Default for Train {
    /// Nothing that a run needs to be told: `steps`, `batch_rows` and `learning_rate` are 0, which only a cut at once takes.
    fn default() -> Train {
        Train {
            steps: 0,
            batch_rows: 0,
            micro_batch_rows: None,
            learning_rate: 0.0,
            warmup_steps: 0,
            final_lr_fraction: final_lr(),
            beta1: beta1(),
            beta2: beta2(),
            eps: adam_eps(),
            weight_decay: 0.0,
            clip_norm: clip_norm(),
            activation_checkpointing: 0,
            selective_recomputation: false,
            max_skipped_steps: max_skipped(),
            divergence: Divergence::default(),
            moments: MomentKind::default(),
            moments_on_host: false,
        }
    }
}

impl MomentKind {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            MomentKind::Fp32 => "fp32",
            MomentKind::Bf16 => "bf16",
            MomentKind::EightBit => "8bit",
        }
    }
}

impl Train {
    /// Rows per forward; the least there can be while that is not resolved.
    pub fn micro_batch(&self) -> usize {
        match self.micro_batch_rows {
            None => self.batch_rows,
            Some(MicroBatchRows::Rows(rows)) => rows,
            Some(MicroBatchRows::Auto) => 1,
        }
    }

    /// Rows per forward while units are scored: those of training, or 8 where it does not say.
    pub fn scoring_batch(&self) -> usize {
        let known = self.micro_batch_rows != Some(MicroBatchRows::Auto) && self.micro_batch() > 0;
        if known { self.micro_batch() } else { 8 }
    }
}

/// `[distill]`: the loss of a token is (1−λ)·cross entropy + λ·T²·KL(teacher ‖ model), both distributions at temperature T.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// Hugging Face folder of the frozen teacher, of the model's own vocabulary; `prune` takes `model.source` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// λ: the share of the divergence in the loss, above 0 and at most 1; cross entropy has the rest.
    pub weight: f64,
    /// T: both models' logits are divided by it before the divergence is taken.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Dtype in which the teacher is held and computes: `bf16`, `fp32` or `auto` (bf16 where the device multiplies it in
    /// hardware, else fp32).
    #[serde(default = "teacher_dtype")]
    pub dtype: ComputeDtype,
}

fn temperature() -> f64 {
    1.0
}

fn teacher_dtype() -> ComputeDtype {
    ComputeDtype::Fixed(DType::BF16)
}

impl RunConfig {
    /// The folder of the teacher, if there is to be one and it is known which: that of `[distill]`, or the model to prune.
    pub fn teacher(&self) -> Option<&PathBuf> {
        let distill = self.distill.as_ref()?;
        let pruned = self.model.source.as_ref().filter(|_| self.target.is_some());
        distill.teacher.as_ref().or(pruned)
    }

    /// The basis in which hidden dimensions are dropped.
    pub fn hidden_basis(&self) -> HiddenBasis {
        let published = self.prune.method() == PruneMethod::Learned && self.masks.preset != MaskPreset::TopK;
        let default = match self.prune.method() {
            PruneMethod::Magnitude => HiddenBasis::Units,
            _ if published => HiddenBasis::Units,
            _ => HiddenBasis::Principal,
        };
        self.prune.basis.unwrap_or(default)
    }

    /// Steps, and rows of each, that are drawn from the training data: those of training, or all calibration rows once.
    pub fn draws(&self) -> (u64, usize) {
        if self.cuts_at_once() { (1, self.prune.calibration_rows) } else { (self.train.steps, self.train.batch_rows) }
    }

    /// Whether masks alone are trained.
    pub fn freezes_weights(&self) -> bool {
        self.target.is_some() && self.masks.frozen_weights
    }

    /// Whether the teacher is the very model that is masked, without its gates: frozen weights need no second copy.
    pub fn shares_teacher(&self) -> bool {
        self.freezes_weights() && self.distill.is_some() && self.teacher() == self.model.source.as_ref()
    }

    /// Whether this does nothing but cut its source at once: a prune in several cuts trains between them.
    pub fn takes_no_step(&self) -> bool {
        self.cuts_at_once() && self.prune.via.is_empty()
    }

    /// Whether this cuts its source at once, without a step of training.
    pub fn cuts_at_once(&self) -> bool {
        self.target.is_some() && self.prune.method().is_one_shot()
    }
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// Steps between evaluations; the mixer is updated at each.
    pub every_steps: u64,
    /// Validation rows per domain: a small fixed set keeps the evaluations cheap.
    pub rows_per_domain: usize,
}

impl Default for Eval {
    fn default() -> Eval {
        Eval { every_steps: 50, rows_per_domain: 64 }
    }
}

/// `[checkpoint]`: the last and the best are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Steps between checkpoints; one is always written at the end.
    pub every_steps: u64,
    /// Size at which a written weight file is split.
    pub max_shard_bytes: u64,
    /// Kind of the exported model of `pretrain`; default that of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub export_dtype: Option<DType>,
}

impl Default for Checkpoint {
    fn default() -> Checkpoint {
        Checkpoint { every_steps: 500, max_shard_bytes: 5_000_000_000, export_dtype: None }
    }
}
