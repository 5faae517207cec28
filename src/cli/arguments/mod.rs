//! The command line, as clap reads it. The doc comments here and in the files below are the `--help` text.

mod bench;
mod eval;
mod examples;
mod generate;
mod init;
mod inspect;
mod lte;
mod plan;
mod quantities;
mod report;
mod watch;

pub use bench::{Bench, BenchCheck, BenchExperts, BenchLatency, BenchLaunches, BenchStep, Switch};
pub use eval::{Eval, TaskArgument};
pub use generate::Generate;
pub use init::{Init, Masks};
pub use inspect::{Inspect, InspectMasks, InspectModel, InspectRun};
pub use lte::{GroupingArgument, Lte, LteEval, LteGroup, LtePack};
pub use plan::Plan;
pub use quantities::TypedCount;
pub use report::Report;
pub use watch::{Tensorboard, Watch};

use crate::config::{MOST_THREADS, MomentKind, resumable};
use crate::files::DType;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// Prunes a Hugging Face checkpoint to an exact shape, at once or by learned masks, then continues its pre-training while
/// re-weighting the data domains (Sheared-LLaMA, arXiv 2310.06694).
///
/// The usual order: `doctor`, `data prepare`, `init`, `plan`, `prune`, `pretrain`, `eval`.
/// `shearling demo` runs all of it on generated text in a few minutes. `shearling COMMAND --help` has details and
/// examples. Results go to stdout, everything else to stderr; exit code 0: done, 1: a check failed, 2: an error.
#[derive(Debug, Parser)]
#[command(name = "shearling", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// On a GPU, compute with libtorch's own operators instead of kernels of ours: slower, and more memory.
    #[arg(long, global = true, help_heading = "On a GPU")]
    pub no_kernels: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check this machine: libtorch, devices, threads, bf16 and disk, with a small computation.
    ///
    /// Every line is OK, WARN or ERROR, with a hint where something can be done. The exit code is 1 if there is an ERROR.
    Doctor(Doctor),
    /// Turn text into token rows (`data prepare`), and look at them (`data inspect`).
    #[command(subcommand)]
    Data(Data),
    /// Write a commented configuration to prune a model and one to continue it, for this machine.
    ///
    /// Needs the model's config.json, not its weights: `shearling init MODEL --target-params 0.5B --data DIR`. The shape keeps
    /// the model's proportions, in sizes that transformers loads and GPUs like (multiples of 128 or 64); steps and batch size
    /// follow from a budget (--hours or --tokens), the micro-batch from the memory. Every value has its reason beside it.
    /// docs/guides/init.md has the rules.
    Init(Init),
    /// Dry run of a configuration: shapes, parameters, rows, memory, FLOPs, time and disk; nothing is written. Or: target
    /// shapes for a size, memory or latency, and what each costs.
    ///
    /// A config.json is enough: weights and data are looked at where they are, and what could not be looked at is said. A
    /// stage whose source is not written yet takes its shape from the configuration that will write it. All problems are
    /// listed in one go; exit code 1 if there are any.
    ///
    /// `plan MODEL --target-params 1.3B`, or --target-memory, or --target-latency, lists shapes that the model can be pruned
    /// to (widths in proportion, deeper, shallower, …), with their memory, speed and cost, and prints the [target]
    /// table of one.
    /// docs/guides/plan.md has the rules.
    #[command(after_long_help = examples::PLAN)]
    Plan(Plan),
    /// Cut a model to the shape of [target], at once or by masks that are learned first, and write it as a Hugging Face folder.
    ///
    /// At once (prune.method = "activations", the default): units are scored on a few training rows, layer by layer; minutes,
    /// no training step. With prune.method = "learned" masks train together with the weights until the target shape is met;
    /// the run folder (run.directory) then gets checkpoints/, masks/ and metrics.jsonl, Ctrl-C stops the run with a
    /// checkpoint, `--resume` continues it. The pruned model is written to pruned/ in that folder, and only if its logits
    /// equal those of the masked source on held-out rows; otherwise the exit code is 1.
    #[command(after_long_help = with_changeable(examples::PRUNE))]
    Prune(Run),
    /// Continue the pre-training of a model on weighted domains, then write it as a Hugging Face folder (model/).
    ///
    /// The usual second stage: it starts from the folder pruned/ of a `prune` run. With [model.random] it trains a new model
    /// from scratch. Ctrl-C stops the run with a checkpoint, `--resume` continues it.
    #[command(after_long_help = with_changeable(examples::PRETRAIN))]
    Pretrain(Run),
    /// Teach a model to activate fewer of its intermediate units (LTE, arXiv 2402.06126): `lte group`, `train`, `eval`, `pack`.
    #[command(subcommand)]
    Lte(Lte),
    /// Write a Hugging Face folder from any checkpoint of a run.
    ///
    /// The checkpoint of a `prune` run is cut to its target shape first, and checked as at the end of the run.
    #[command(after_long_help = examples::EXPORT)]
    Export(Export),
    /// Compare models: loss by domain and multiple-choice accuracy, side by side.
    ///
    /// Loss, perplexity and bits per byte of every domain, on the first held-out rows of prepared data; accuracies on
    /// multiple-choice questions, asked as lm-evaluation-harness asks them. All models see the same rows and questions,
    /// and each is compared with the first one, row by row: `±` behind `vs` is the standard error of that difference.
    /// docs/guides/evaluate.md has more.
    #[command(after_long_help = examples::EVAL)]
    Eval(Eval),
    /// Look at a model, at what the masks have learned, or at what happened in a run.
    #[command(subcommand)]
    Inspect(Inspect),
    /// Follow a run while it is running: progress, losses, sparsity, domain proportions, speed.
    ///
    /// Reads metrics.jsonl and locks nothing, so it may be started and stopped at any time, by anybody who can read the
    /// run. Redraws in place on a terminal, elsewhere prints a line whenever something is new. Ends with the run; a run
    /// that stopped half-way is waited for, since it may be resumed.
    Watch(Watch),
    /// Write one page of figures and answers about runs: a self-contained HTML file, or served while a run is running.
    ///
    /// Give the runs of one model together, in any order. What a run folder lacks is said in the report.
    /// docs/guides/report.md explains how to read each figure.
    #[command(after_long_help = examples::REPORT)]
    Report(Report),
    /// Write TensorBoard event files from a run's metrics; `prune --tensorboard` writes them during the run.
    Tensorboard(Tensorboard),
    /// Generate text from a prompt: the first thing to try with a pruned model.
    ///
    /// Uses the folder's tokenizer, with the special tokens (BOS) that it puts before a text. The text stops at one of
    /// the model's EOS tokens, at a --stop string or after --max-tokens. Only the new text is on stdout; settings and
    /// speed are on stderr. No chat template is applied.
    #[command(after_long_help = examples::GENERATE)]
    Generate(Generate),
    /// Time training steps and decoding on this machine, and check the fast kernels against plain operators.
    #[command(subcommand)]
    Bench(Bench),
    /// The whole job on generated text (or yours): train, prune, continue, compare with two baselines.
    ///
    /// Needs no model and no data, and takes minutes on two cores. Every stage is an ordinary run whose configuration is
    /// kept, so that it can be looked at, changed and repeated.
    #[command(after_long_help = examples::DEMO)]
    Demo(Demo),
    /// Print a script that completes commands and options in a shell: `source <(shearling completions bash)`.
    Completions(Completions),
}

/// Examples, and what `--set` may change of a run that is resumed.
fn with_changeable(examples: &str) -> String {
    format!(
        "{examples}\nWith --resume these keys may change by --set: {}. docs/guides/resume.md says what each does.",
        resumable()
    )
}

impl Command {
    /// What `--threads` asks for, of a command that computes with libtorch.
    pub fn threads(&self) -> Option<NonZeroUsize> {
        let argument = match self {
            Command::Doctor(arguments) => &arguments.threads,
            Command::Prune(arguments) | Command::Pretrain(arguments) => &arguments.threads,
            Command::Lte(Lte::Group(arguments)) => &arguments.threads,
            Command::Lte(Lte::Train(arguments)) => &arguments.threads,
            Command::Lte(Lte::Eval(arguments)) => &arguments.threads,
            Command::Export(arguments) => &arguments.threads,
            Command::Eval(arguments) => &arguments.threads,
            Command::Generate(arguments) => &arguments.threads,
            Command::Bench(Bench::Step(arguments)) => &arguments.threads,
            Command::Bench(Bench::Latency(arguments)) => &arguments.threads,
            Command::Bench(Bench::Experts(arguments)) => &arguments.threads,
            Command::Bench(Bench::Check(arguments)) => &arguments.threads,
            Command::Demo(arguments) => &arguments.threads,
            // The others compute nothing; `data prepare --threads` is about other threads than libtorch's.
            _ => return None,
        };
        argument.threads
    }
}

/// `--threads` of commands that compute.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ThreadsArgument {
    /// CPU threads to compute with [default: OMP_NUM_THREADS, else one per physical core that this process may use].
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub threads: Option<NonZeroUsize>,
}

fn thread_count(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MOST_THREADS);
    count.ok_or_else(|| format!("expected a number from 1 to {MOST_THREADS}"))
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Device to try: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `data`
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Tokenize text and pack it into rows, one domain per folder, with a held-out split per domain.
    #[command(after_long_help = examples::PREPARE)]
    Prepare(Prepare),
    /// Print what a prepared folder holds: rows and tokens by domain and split, its tokenizer, the settings.
    Inspect(DataInspect),
}

/// `data prepare`
#[derive(Debug, Args)]
pub struct Prepare {
    /// A domain and its files or folders: name=path[,path…]. May be repeated. Files: .jsonl (.ndjson, .json) with `text`,
    /// .parquet with `text`, .txt; text files also .gz or .zst.
    #[arg(long = "domain", value_name = "NAME=PATH[,PATH]")]
    pub domains: Vec<String>,
    /// A folder with one folder per domain, instead of --domain or together with it.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The tokenizer.json of the model that will read the rows, or the folder it lies in.
    #[arg(long, value_name = "FILE", conflicts_with = "train_tokenizer", required_unless_present = "train_tokenizer")]
    pub tokenizer: Option<PathBuf>,
    /// Train a byte-level BPE tokenizer with N entries on this text instead, for a model from scratch.
    #[arg(long, value_name = "N")]
    pub train_tokenizer: Option<usize>,
    /// Tokens per row: the context length to train at.
    #[arg(long, default_value_t = 4096)]
    pub sequence_length: usize,
    /// Fraction of each domain that is held out for evaluation, by whole documents; at least two documents.
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub validation_fraction: f64,
    /// Do not put BOS before documents. Nor is it put there where tokenizer_config.json says "add_bos_token": false.
    #[arg(long)]
    pub no_bos: bool,
    /// Do not put EOS after documents.
    #[arg(long)]
    pub no_eos: bool,
    /// Token id of BOS, where the tokenizer's files do not name it or say that there is none.
    #[arg(long, value_name = "ID")]
    pub bos_id: Option<u32>,
    /// Token id of EOS, where the tokenizer's files do not name it.
    #[arg(long, value_name = "ID")]
    pub eos_id: Option<u32>,
    /// Name of the field (JSON lines) or column (Parquet) with the text.
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Leave out up to N documents that cannot be read (a broken line of JSON, a row without text) instead of stopping at
    /// the first.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip_broken: u64,
    /// Seed of the choice of held-out documents.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads that read and tokenize [default: all cores]. The output does not depend on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// `data inspect`
#[derive(Debug, Args)]
pub struct DataInspect {
    /// Folder written by `data prepare`.
    pub path: PathBuf,
    /// Recompute every hash; exit code 1 if a file differs.
    #[arg(long)]
    pub verify: bool,
    /// Print the text of the first N training rows of each domain.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preview: u64,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// A configuration with overrides.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// Configuration file (TOML); configs/ has examples, docs/guides/configuration.md lists every key.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override a key of the configuration, for example train.steps=100. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `prune` and `pretrain`
#[derive(Debug, Args)]
pub struct Run {
    /// Configuration and overrides.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Resume the run in this folder from its last intact checkpoint, with the configuration saved there; `--set` may
    /// change a few keys (listed by --help, below).
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    pub resume: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:N. Overrides run.device.
    #[arg(long)]
    pub device: Option<String>,
    /// How many threads; overrides run.threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// Also write TensorBoard event files to RUN/tensorboard; the same as run.tensorboard = true.
    #[arg(long)]
    pub tensorboard: bool,
    /// Save a checkpoint and stop after this step; `--resume` continues.
    #[arg(long, value_name = "STEP")]
    pub stop_at: Option<NonZeroU64>,
}

/// `export`
#[derive(Debug, Args)]
pub struct Export {
    /// A run folder (its last checkpoint), or RUN@STEP for the checkpoint of that step.
    pub run: String,
    /// Hugging Face folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// dtype of the written weights [default: prune.dtype or checkpoint.export_dtype of the run, else the source's].
    #[arg(long)]
    pub dtype: Option<DtypeArgument>,
    /// Cut a `prune` run to a smaller target than its own, without starting over: KEY=SIZE for a key of [target], such as
    /// hidden_size=1536. Of every row the units with the highest log α stay.
    #[arg(long, value_name = "KEY=SIZE")]
    pub target: Vec<String>,
    /// Write the pruned model even if it cannot be proven equal to the masked one; its card says so.
    #[arg(long)]
    pub unproven: bool,
    /// Device for folding and checking a prune run.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
}

/// A dtype on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DtypeArgument {
    /// 32-bit.
    Fp32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    Fp16,
}

/// `--moments`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MomentsArgument {
    /// 4 bytes each.
    Fp32,
    /// 2 bytes each.
    Bf16,
    /// 1 byte each.
    #[value(name = "8bit")]
    EightBit,
}

impl From<MomentsArgument> for MomentKind {
    fn from(argument: MomentsArgument) -> MomentKind {
        match argument {
            MomentsArgument::Fp32 => MomentKind::Fp32,
            MomentsArgument::Bf16 => MomentKind::Bf16,
            MomentsArgument::EightBit => MomentKind::EightBit,
        }
    }
}

impl From<DtypeArgument> for DType {
    fn from(argument: DtypeArgument) -> DType {
        match argument {
            DtypeArgument::Fp32 => DType::F32,
            DtypeArgument::Bf16 => DType::BF16,
            DtypeArgument::Fp16 => DType::F16,
        }
    }
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Use this text instead of generated text: a folder with one folder per domain.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder to work in; must not exist.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    pub out: PathBuf,
    /// Multiply all step counts by this: 1 takes minutes on two cores.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// How many threads.
    #[command(flatten)]
    pub threads: ThreadsArgument,
    /// One JSON object instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// `completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell.
    pub shell: clap_complete::Shell,
}
