//! The demo's sizes, steps and learning rates: the configurations of its seven runs.

use crate::config::{
    Checkpoint, Data, Dist, Divergence, Eval, Lte, Masks, Mixer, Model, MomentKind, Prune, PruneMethod, RandomModel,
    Run, RunConfig, Target, Train,
};
use crate::files::DType;
use shearling_domains::MixerKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SEQUENCE_LENGTH: usize = 128;
const VOCAB_SIZE: usize = 1024;
const BYTES_PER_DOMAIN: u64 = 1_500_000;
const BATCH_ROWS: usize = 16;
const SOURCE_STEPS: f64 = 560.0;
const PRUNE_STEPS: f64 = 200.0;
const RECOVER_STEPS: f64 = 240.0;
const LEARNING_RATE: f64 = 3e-3;
const PRUNE_LEARNING_RATE: f64 = 1e-3;
const RECOVER_LEARNING_RATE: f64 = 2e-3;
const LTE_STEPS: f64 = 120.0;
const LTE_LEARNING_RATE: f64 = 1e-3;
/// Fourteen experts of 16 units: those of 32 would be too few to choose from.
const LTE_EXPERT_SIZE: i64 = 16;
const EVAL_ROWS: usize = 16;
const FINAL_ROWS: usize = 64;

/// Everything the demo's runs have in common.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The demo's folder.
    pub folder: PathBuf,
    /// Its prepared data.
    pub data: PathBuf,
    /// Seed of everything.
    pub seed: u64,
    device: String,
    scale: f64,
}

/// Source shape: hidden, intermediate, layers, heads.
const SOURCE: [i64; 4] = [128, 352, 6, 8];
/// Target shape, smaller in all four.
const TARGET: [i64; 4] = [96, 224, 4, 6];
const HEAD_DIM: i64 = 16;

impl Recipe {
    /// The recipe in `folder`, all step counts times `scale`.
    pub fn new(folder: &Path, device: &str, seed: u64, scale: f64) -> Recipe {
        let (folder, device) = (folder.to_path_buf(), device.to_string());
        Recipe { data: folder.join("data"), folder, seed, device, scale }
    }

    /// Where its runs compute.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Tokens per row.
    pub fn sequence_length(&self) -> usize {
        SEQUENCE_LENGTH
    }

    /// Entries of the trained tokenizer.
    pub fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    /// Generated text.
    pub fn bytes_per_domain(&self) -> u64 {
        BYTES_PER_DOMAIN
    }

    /// Validation rows per domain that the runs evaluate.
    pub fn eval_rows(&self) -> usize {
        EVAL_ROWS
    }

    /// Validation rows per domain of the final table.
    pub fn final_rows(&self) -> usize {
        FINAL_ROWS
    }

    /// Rows per forward.
    pub fn micro_batch(&self) -> usize {
        BATCH_ROWS
    }

    /// Layers of the source.
    pub fn source_layers(&self) -> i64 {
        SOURCE[2]
    }

    /// Steps of pruning and of recovery; the baselines take both together.
    pub fn stage_steps(&self) -> (u64, u64) {
        (self.steps(PRUNE_STEPS), self.steps(RECOVER_STEPS))
    }

    /// The source, from scratch on the plain mix.
    pub fn source(&self) -> RunConfig {
        self.run("source", random(SOURCE), self.steps(SOURCE_STEPS), LEARNING_RATE, Mixer::default())
    }

    /// Learned masks.
    pub fn prune(&self, source: &Path, references: &BTreeMap<String, f64>) -> RunConfig {
        let steps = self.steps(PRUNE_STEPS);
        let mut config = self.run("prune", from(source), steps, PRUNE_LEARNING_RATE, dynamic(references));
        config.target = Some(target());
        config.prune.method = Some(PruneMethod::Learned);
        config
    }

    /// The pruned model continued.
    pub fn recover(&self, pruned: &Path, references: &BTreeMap<String, f64>) -> RunConfig {
        let steps = self.steps(RECOVER_STEPS);
        self.run("recover", from(pruned), steps, RECOVER_LEARNING_RATE, dynamic(references))
    }

    /// Baseline: the target shape from scratch, on the tokens of pruning and recovery.
    pub fn scratch(&self, references: &BTreeMap<String, f64>) -> RunConfig {
        self.run("scratch", random(TARGET), self.both(), LEARNING_RATE, dynamic(references))
    }

    /// Baseline: the strongest one-shot cut.
    pub fn one_shot(&self, source: &Path) -> RunConfig {
        let mut config = self.run("one-shot", from(source), 1, PRUNE_LEARNING_RATE, Mixer::default());
        config.target = Some(target());
        config
    }

    /// The one-shot cut continued, on the tokens of pruning and recovery.
    pub fn one_shot_recover(&self, cut: &Path, references: &BTreeMap<String, f64>) -> RunConfig {
        self.run("one-shot-recover", from(cut), self.both(), RECOVER_LEARNING_RATE, dynamic(references))
    }

    /// The one-shot cut taught to run half of its units.
    pub fn lte(&self, model: &Path, references: &BTreeMap<String, f64>) -> RunConfig {
        let mut config = self.run("lte", from(model), self.lte_steps(), LTE_LEARNING_RATE, dynamic(references));
        config.lte = Some(Lte { expert_size: LTE_EXPERT_SIZE, ..Lte::default() });
        config
    }

    /// Steps in which it is taught.
    pub fn lte_steps(&self) -> u64 {
        self.steps(LTE_STEPS)
    }

    fn both(&self) -> u64 {
        let (prune, recover) = self.stage_steps();
        prune + recover
    }

    fn steps(&self, steps: f64) -> u64 {
        ((steps * self.scale).round() as u64).max(2)
    }

    fn run(&self, name: &str, model: Model, steps: u64, learning_rate: f64, mixer: Mixer) -> RunConfig {
        let every_steps = (steps / 10).max(1);
        RunConfig {
            run: Run {
                directory: self.folder.join(name),
                seed: self.seed,
                device: self.device.clone(),
                dtype: DType::F32.into(),
                threads: None,
                tensorboard: false,
            },
            model,
            target: None,
            data: Data { path: self.data.clone(), max_epochs: 1000.0, prefetch: 2 },
            mixer,
            distill: None,
            lte: None,
            train: Train {
                steps,
                batch_rows: BATCH_ROWS,
                micro_batch_rows: None,
                learning_rate,
                warmup_steps: steps / 20,
                final_lr_fraction: 0.1,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.0,
                clip_norm: 1.0,
                max_skipped_steps: 10,
                divergence: Divergence::Stop,
                activation_checkpointing: 0,
                selective_recomputation: false,
                moments: MomentKind::Fp32,
                moments_on_host: false,
            },
            masks: Masks::default(),
            prune: Prune::default(),
            eval: Eval { every_steps, rows_per_domain: EVAL_ROWS },
            checkpoint: Checkpoint { every_steps: steps, ..Checkpoint::default() },
            dist: Dist::default(),
        }
    }
}

fn random([hidden_size, intermediate_size, num_hidden_layers, num_attention_heads]: [i64; 4]) -> Model {
    let random = RandomModel {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: None,
        head_dim: Some(HEAD_DIM),
        vocab_size: None,
        rope_theta: 10000.0,
        tie_word_embeddings: false,
    };
    Model { source: None, random: Some(random) }
}

fn from(source: &Path) -> Model {
    Model { source: Some(source.to_path_buf()), random: None }
}

fn target() -> Target {
    let [hidden_size, intermediate_size, num_hidden_layers, num_attention_heads] = TARGET.map(Some);
    Target { hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, ..Target::default() }
}

fn dynamic(references: &BTreeMap<String, f64>) -> Mixer {
    Mixer { kind: MixerKind::Dynamic, reference_loss: Some(references.clone()), ..Mixer::default() }
}
