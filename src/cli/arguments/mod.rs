//! The command line, as clap reads it. The doc comments here and in the files below are the `--help` text.

mod bench;
mod eval;
mod generate;
mod init;
mod inspect;
mod plan;
mod report;
mod watch;

pub use bench::{Bench, BenchCheck, BenchLatency, BenchStep, Switch};
pub use eval::{Eval, TaskArgument};
pub use generate::Generate;
pub use init::Init;
pub use inspect::{Inspect, InspectMasks, InspectModel, InspectRun};
pub use plan::Plan;
pub use report::Report;
pub use watch::{Tensorboard, Watch};

use crate::config::{Dtype, resumable};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::num::NonZeroU64;
use std::path::PathBuf;

/// Prunes a Hugging Face checkpoint to an exact shape by learned masks, then continues its pre-training while
/// re-weighting the data domains (Sheared-LLaMA, arXiv 2310.06694).
///
/// The usual order: `doctor`, `data prepare`, `init`, `plan`, `prune`, `pretrain`, `eval`.
/// `shearling demo` runs all of it on generated text in a few minutes.
#[derive(Debug, Parser)]
#[command(name = "shearling", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check libtorch, devices, threads and disk with a small computation.
    Doctor(Doctor),
    /// Turn text into token rows, and look at them.
    #[command(subcommand)]
    Data(Data),
    /// Write a commented configuration to prune a model and one to continue it, for this machine.
    ///
    /// Needs the model's config.json, not its weights: `shearling init MODEL --target-params 0.5B --data DIR`. The shape keeps
    /// the model's proportions in units that other tools take; steps and batch follow from a budget (--hours or --tokens),
    /// rows per forward from the memory. Every value has its reason beside it. docs/guides/init.md has the rules.
    Init(Init),
    /// Dry run of a configuration: shapes, parameters, rows, memory, FLOPs, time and disk; nothing is written.
    ///
    /// A config.json is enough: weights and data are looked at where they are, and what could not be looked at is said. A
    /// stage whose source is not written yet takes its shape from the configuration that will write it. All problems are
    /// listed in one go; exit code 1 if there are any.
    Plan(Plan),
    /// Learn masks until the target shape is met, then write the small model as a Hugging Face folder.
    ///
    /// The run folder gets checkpoints/, masks/, metrics.jsonl and at the end pruned/, the Hugging Face folder. It
    /// is published only if its logits equal the masked model's on real rows; otherwise the exit code is 1.
    #[command(after_long_help = changeable())]
    Prune(Run),
    /// Train (or continue to train) a model on weighted domains, then write it as a Hugging Face folder (model/).
    #[command(after_long_help = changeable())]
    Pretrain(Run),
    /// Write a Hugging Face folder from any step of a run.
    Export(Export),
    /// Losses by domain and multiple-choice accuracies of one or more Hugging Face folders, side by side.
    ///
    /// Loss, perplexity and bits per byte of every domain, on the first held-out rows of prepared data; accuracies on
    /// multiple-choice questions, asked as lm-evaluation-harness asks them. All models see the same rows and questions,
    /// and each is compared with the first one, pair by pair: `±` behind `vs` is the error of that difference.
    /// docs/guides/evaluate.md has more.
    Eval(Eval),
    /// Look at a model, at what masks have learned, or at what happened in a run.
    #[command(subcommand)]
    Inspect(Inspect),
    /// Follow a run while it goes on: progress, losses, sparsity, shares, speed.
    ///
    /// Reads metrics.jsonl and locks nothing, so it may be started and left at any time, by anybody who can read the
    /// run. Redraws in place on a terminal, elsewhere prints a line whenever something is new. Ends with the run; one
    /// that stopped half-way is waited for, since it may be resumed.
    Watch(Watch),
    /// One page of pictures and answers from one or more runs: a self-contained HTML file, or served while a run goes on.
    ///
    /// Give the runs of one model together, in any order: `shearling report runs/prune runs/recover -o report.html`.
    /// What a run folder lacks is said in the report. docs/guides/report.md tells how to read each figure.
    Report(Report),
    /// Make TensorBoard event files of a run from its metrics; `prune --tensorboard` writes them as it goes.
    Tensorboard(Tensorboard),
    /// Let a model go on from a text: the first thing to do with a pruned one.
    ///
    /// The tokenizer of the folder is used, with the special tokens that it puts before a text itself. The text ends at
    /// one of the model's end-of-text tokens, at a --stop string or after --max-tokens. Only the new text is on stdout;
    /// speed and settings are on stderr.
    Generate(Generate),
    /// Time training steps and decoding, and check the fast kernels against plain ones, on this machine.
    #[command(subcommand)]
    Bench(Bench),
    /// The whole job on generated text (or yours): train, prune, continue, compare with two baselines.
    Demo(Demo),
    /// Print a script that completes commands and options in a shell: `source <(shearling completions bash)`.
    Completions(Completions),
}

/// What `--set` may change of a run that is resumed.
fn changeable() -> String {
    format!("With --resume these keys may change by --set: {}. docs/guides/resume.md says what each does.", resumable())
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Device to try: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `data`
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Tokenize and pack text into rows, one domain per folder, with a held-out split per domain.
    Prepare(Prepare),
    /// Print what a prepared folder holds.
    Inspect(DataInspect),
}

/// `data prepare`
#[derive(Debug, Args)]
pub struct Prepare {
    /// A domain and its files or folders: name=path[,path…]. May be repeated. Files: .jsonl with `text`, .parquet with
    /// `text`, .txt; text files also .gz or .zst.
    #[arg(long = "domain", value_name = "NAME=PATH[,PATH]")]
    pub domains: Vec<String>,
    /// A folder with one folder per domain, instead of or beside --domain.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Where to write; must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The model's tokenizer.json.
    #[arg(long, value_name = "FILE", conflicts_with = "train_tokenizer", required_unless_present = "train_tokenizer")]
    pub tokenizer: Option<PathBuf>,
    /// Train a byte-level BPE of N entries on the data instead.
    #[arg(long, value_name = "N")]
    pub train_tokenizer: Option<usize>,
    /// Tokens per row.
    #[arg(long, default_value_t = 4096)]
    pub sequence_length: usize,
    /// Part of each domain held out, by document; at least two documents.
    #[arg(long, default_value_t = 0.1, allow_negative_numbers = true)]
    pub validation_fraction: f64,
    /// Do not begin documents with BOS.
    #[arg(long)]
    pub no_bos: bool,
    /// Do not end documents with EOS.
    #[arg(long)]
    pub no_eos: bool,
    /// Token id of BOS, when the tokenizer's files do not tell.
    #[arg(long, value_name = "ID")]
    pub bos_id: Option<u32>,
    /// Token id of EOS, when the tokenizer's files do not tell.
    #[arg(long, value_name = "ID")]
    pub eos_id: Option<u32>,
    /// Name of the text field or column.
    #[arg(long, default_value = "text")]
    pub text_field: String,
    /// Seed of the split.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads; default all cores. The output does not depend on it.
    #[arg(long)]
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
    /// Configuration (see configs/).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override a key: table.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `prune` and `pretrain`
#[derive(Debug, Args)]
pub struct Run {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Resume the run in this folder from its last good checkpoint, with the configuration saved there; `--set` may
    /// change a few keys (see below).
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    pub resume: Option<PathBuf>,
    /// Device: auto, cpu, cuda or cuda:N; overrides run.device.
    #[arg(long)]
    pub device: Option<String>,
    /// Also write TensorBoard event files, to RUN/tensorboard; the same as run.tensorboard = true.
    #[arg(long)]
    pub tensorboard: bool,
    /// Stop with a checkpoint after this step; --resume continues.
    #[arg(long, value_name = "STEP")]
    pub stop_at: Option<NonZeroU64>,
}

/// `export`
#[derive(Debug, Args)]
pub struct Export {
    /// A run folder, or RUN@STEP; default its last step.
    pub run: String,
    /// Where to write the Hugging Face folder; must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Kind of the written weights; default prune.dtype or checkpoint.export_dtype of the run, else that of its source.
    #[arg(long)]
    pub dtype: Option<DtypeArgument>,
    /// Write the pruned model even if it cannot be proven equal to the masked one; its card says so.
    #[arg(long)]
    pub unproven: bool,
    /// Device for folding and checking a prune run.
    #[arg(long, default_value = "auto")]
    pub device: String,
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

impl From<DtypeArgument> for Dtype {
    fn from(argument: DtypeArgument) -> Dtype {
        match argument {
            DtypeArgument::Fp32 => Dtype::Fp32,
            DtypeArgument::Bf16 => Dtype::Bf16,
            DtypeArgument::Fp16 => Dtype::Fp16,
        }
    }
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Use your text: a folder with one folder per domain.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where to work; must not exist.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    pub out: PathBuf,
    /// Multiplies all step counts: 1 takes minutes on two cores.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub scale: f64,
    /// Seed of everything.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
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
