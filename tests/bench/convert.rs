//! Writing a pruned 7B model against `cp` of its source: `cargo bench --bench convert -- FOLDER`.
//!
//! Makes a checkpoint of Llama 2 7B's shape in FOLDER (random bf16 weights, 13.5 GB) and repeats, in turn:
//!
//! ```text
//! cp        cp -r source copy, then its flush to the disk by itself
//! slice     to the 2.7B shape, all gates exactly 1: rows and columns are copied
//! fold      the same with gates in (0.5, 1): every weight that takes factors is multiplied and rounded
//! ```
//!
//! Cold means that the system's cache of the source was dropped before, warm that the source was read through before
//! (as much of it as memory holds). The conversion always ends with its files flushed. Everything is removed in the end.

use clap::Parser;
use rustix::fs::{Advice, fadvise, syncfs};
use serde_json::json;
use shearling::config::Target;
use shearling::files::DType;
use shearling::hf::{Checkpoint, RawConfig, ShardWriter, TensorPlan};
use shearling::model::parameters::parameters;
use shearling::prune::{CheckRows, Conversion, Transfer, shape, write_model};
use shearling_masks::{Gates, KeepPlan, MaskSpec, UnitKind};
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Arguments {
    /// Where to work; twice the source must fit.
    folder: PathBuf,
    /// Rounds of everything.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Layers of the source; 32 is 7B.
    #[arg(long, default_value_t = 32)]
    layers: i64,
    /// Size at which weight files are split.
    #[arg(long, default_value_t = 5_000_000_000)]
    max_shard_bytes: u64,
    /// Only these of: cold, warm.
    #[arg(long, value_delimiter = ',', default_values = ["cold", "warm"])]
    caches: Vec<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fs::create_dir_all(&arguments.folder)?;
    let work = tempfile::tempdir_in(&arguments.folder)?;
    let source = work.path().join("source");
    make_source(&source, arguments.layers, arguments.max_shard_bytes)?;
    settle(work.path())?;
    let bench = Bench::new(&source, work.path(), arguments.max_shard_bytes)?;
    println!("| cache | what | GB read | GB written | s | GB/s | of cp | of cp + flush | peak anonymous, GiB |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for _ in 0..arguments.rounds {
        for cache in &arguments.caches {
            bench.round(cache == "warm", cache)?;
        }
    }
    Ok(())
}

/// Llama 2 7B with another number of layers.
fn config(layers: i64) -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 32000,
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": layers, "num_attention_heads": 32,
        "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    })
}

/// A checkpoint of random weights: one block of numbers, over and over.
fn make_source(folder: &Path, layers: i64, max_shard_bytes: u64) -> Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join("config.json"), config(layers).to_string())?;
    let model = RawConfig::read(&folder.join("config.json"))?.model()?;
    let block_elements = 32 << 20;
    let block = (Tensor::f_randn([block_elements], (Kind::Float, Device::Cpu))? * 0.02).to_kind(Kind::BFloat16);
    let mut bytes = vec![0; 2 * block_elements as usize];
    block.f_copy_data_u8(&mut bytes, block_elements as usize)?;
    let plan = parameters(&model).into_iter().map(|p| TensorPlan { name: p.name, shape: p.shape, dtype: DType::BF16 });
    let plan: Vec<TensorPlan> = plan.collect();
    let mut writer = ShardWriter::create(folder, plan.clone(), max_shard_bytes)?;
    for tensor in &plan {
        let size = tensor.bytes().unwrap_or(0) as usize;
        writer.write_pieces(&tensor.name, &tensor.shape, |region| {
            (0..size)
                .step_by(bytes.len())
                .try_for_each(|start| region.write_at(start as u64, &bytes[..bytes.len().min(size - start)]))
        })?;
    }
    writer.finish()?;
    Ok(())
}

struct Bench {
    source: Checkpoint,
    bytes: u64,
    spec: MaskSpec,
    plan: KeepPlan,
    hard: Gates,
    soft: Gates,
    work: PathBuf,
    max_shard_bytes: u64,
}

/// Seconds of `cp`, without and with its flush.
struct Copied {
    plain: f64,
    flushed: f64,
}

impl Bench {
    fn new(source: &Path, work: &Path, max_shard_bytes: u64) -> Result<Bench> {
        let source = Checkpoint::open(source)?;
        let target = Target {
            hidden_size: Some(2560),
            intermediate_size: Some(6912),
            num_hidden_layers: None,
            num_attention_heads: Some(20),
            num_key_value_heads: Some(20),
            head_dim: None,
        };
        let spec = shape::mask_spec(source.model(), &target)?;
        tch::manual_seed(1);
        let (plan, hard) = KeepPlan::from_scores(&spec, &random(&spec, &Gates::none())?)?;
        let soft = random(&spec, &hard)?;
        let bytes = source.total_bytes();
        Ok(Bench { source, bytes, spec, plan, hard, soft, work: work.to_owned(), max_shard_bytes })
    }

    fn round(&self, warm: bool, cache: &str) -> Result<()> {
        self.prepare(warm)?;
        let copied = self.copy()?;
        let of_cp = 2.0 * self.bytes as f64 / copied.plain;
        let of_flushed = 2.0 * self.bytes as f64 / copied.flushed;
        let gb = self.bytes as f64 / 1e9;
        for (what, seconds, rate) in [("cp", copied.plain, of_cp), ("cp + flush", copied.flushed, of_flushed)] {
            println!("| {cache} | {what} | {gb:.2} | {gb:.2} | {seconds:.2} | {:.2} | | | |", rate / 1e9);
        }
        for (what, gates) in [("slice", &self.hard), ("fold", &self.soft)] {
            self.prepare(warm)?;
            let transfer = self.convert(gates)?;
            let rate = transfer.bytes_per_second();
            println!(
                "| {cache} | {what} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                transfer.read_bytes as f64 / 1e9,
                transfer.written_bytes as f64 / 1e9,
                transfer.elapsed.as_secs_f64(),
                rate / 1e9,
                rate / of_cp,
                rate / of_flushed,
                transfer.peak_anonymous_bytes.unwrap_or(0) as f64 / f64::from(1 << 30),
            );
        }
        Ok(())
    }

    fn copy(&self) -> Result<Copied> {
        let copy = self.work.join("copy");
        let start = Instant::now();
        let status = Command::new("cp").arg("-r").arg(self.source.dir()).arg(&copy).status()?;
        let plain = start.elapsed().as_secs_f64();
        if !status.success() {
            return Err("cp failed".into());
        }
        for entry in fs::read_dir(&copy)? {
            File::open(entry?.path())?.sync_all()?;
        }
        let flushed = start.elapsed().as_secs_f64();
        fs::remove_dir_all(&copy)?;
        settle(&self.work)?;
        Ok(Copied { plain, flushed })
    }

    fn convert(&self, gates: &Gates) -> Result<Transfer> {
        let folder = self.work.join("pruned");
        fs::create_dir(&folder)?;
        let conversion = Conversion {
            source: &self.source,
            companions: self.source.dir(),
            spec: &self.spec,
            gates,
            plan: &self.plan,
            dtype: DType::BF16,
            max_shard_bytes: self.max_shard_bytes,
            check_rows: &CheckRows::unnamed(Tensor::new()),
            device: Device::Cpu,
            unproven: false,
        };
        let transfer = write_model(&conversion, &folder, &mut |_, _, _| {})?;
        fs::remove_dir_all(&folder)?;
        settle(&self.work)?;
        Ok(transfer)
    }

    /// Fills the system's cache with the source, or drops the source from it.
    fn prepare(&self, warm: bool) -> Result<()> {
        for path in self.source.weight_files() {
            let mut file = File::open(path)?;
            match warm {
                true => drop(std::io::copy(&mut file, &mut std::io::sink())?),
                false => fadvise(&file, 0, None, Advice::DontNeed)?,
            }
        }
        Ok(())
    }
}

/// Lets the file system finish with what was removed, so that it does not slow down what comes next.
fn settle(folder: &Path) -> Result<()> {
    Ok(syncfs(File::open(folder)?)?)
}

/// Gates in (0.5, 1) for every mask, 0 where `open` is.
fn random(spec: &MaskSpec, open: &Gates) -> Result<Gates> {
    let mut gates = Gates::none();
    for module in spec.modules() {
        let shape = match module.module {
            UnitKind::Layer | UnitKind::Hidden => vec![module.size],
            _ => vec![module.rows, module.size],
        };
        let values = Tensor::f_rand(&shape, (Kind::Float, Device::Cpu))? * 0.5 + 0.5;
        let values = match open.get(module.module) {
            Some(open) => values * open,
            None => values,
        };
        gates.set(module.module, Some(values));
    }
    Ok(gates)
}
