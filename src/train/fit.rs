//! Whether a run fits into a memory, and with which settings it would.

use super::compute::Device;
use super::memory::MemoryEstimate;
use crate::config::{MicroBatchRows, MomentKind, RunConfig};
use crate::model::ModelConfig;
use crate::native::runtime::memory;
use serde::Serialize;

/// What a device keeps for itself beside the tensors: on a GPU the context of CUDA and what its allocator cannot use.
const DEVICE_BYTES: f64 = (1u64 << 30) as f64;
/// How far the estimate may be off.
const MARGIN: f64 = 1.05;

/// Share of the memory that is free on a host that a run may fill: others live there too.
pub const CPU_SHARE: f64 = 0.6;
/// Rows of a forward beyond which a CPU is not faster.
pub const MOST_CPU_ROWS: usize = 16;

/// Memory of a device that a run may fill, where the system tells.
pub fn memory_to_fill(device: Device) -> Option<f64> {
    let share = if device.is_cuda() { 1.0 } else { CPU_SHARE };
    memory::usable_bytes(device).map(|bytes| bytes as f64 * share)
}

/// Ranks among which a run is done.
#[derive(Clone, Copy, Debug)]
pub struct Sharing {
    /// How many share its micro-batches.
    pub ranks: usize,
    /// Over how many of them its state is sharded; 1 where each holds all of it.
    pub shard_ranks: usize,
}

impl Sharing {
    /// A process by itself.
    pub const ALONE: Sharing = Sharing { ranks: 1, shard_ranks: 1 };
}

/// Whether a run goes into a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// With room for what the estimate is off.
    Yes,
    /// Only if the estimate is exact.
    Tight,
    /// It does not.
    No,
}

impl Fit {
    /// Of an estimate, in `bytes` of memory.
    pub fn of(estimate: &MemoryEstimate, bytes: f64, device: Device) -> Fit {
        let own = if device.is_cuda() { DEVICE_BYTES } else { 0.0 };
        let needed = estimate.total_bytes();
        match bytes {
            _ if needed * MARGIN + own <= bytes => Fit::Yes,
            _ if needed <= bytes => Fit::Tight,
            _ => Fit::No,
        }
    }
}

/// What trades time for memory in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Rows per forward.
    pub micro_batch_rows: usize,
    /// Every n-th block is computed again; 0 for none.
    pub activation_checkpointing: usize,
    /// Whether outputs of norms and SwiGLU are made again.
    pub selective_recomputation: bool,
    /// Dtype of the moments.
    pub moments: MomentKind,
    /// Whether the moments are on the host.
    pub moments_on_host: bool,
}

impl Settings {
    /// Those of a run.
    pub fn of(config: &RunConfig) -> Settings {
        let train = &config.train;
        Settings {
            micro_batch_rows: train.micro_batch(),
            activation_checkpointing: train.activation_checkpointing,
            selective_recomputation: train.selective_recomputation,
            moments: train.moments,
            moments_on_host: train.moments_on_host,
        }
    }

    /// `config` with these.
    pub fn applied(&self, config: &RunConfig) -> RunConfig {
        let mut config = config.clone();
        config.train.micro_batch_rows = Some(self.micro_batch_rows.into());
        config.train.activation_checkpointing = self.activation_checkpointing;
        config.train.selective_recomputation = self.selective_recomputation;
        config.train.moments = self.moments;
        config.train.moments_on_host = self.moments_on_host;
        config
    }

    /// Those that differ from `before`, as keys.
    pub fn changed_from(&self, before: &Settings) -> Vec<String> {
        let moments = self.moments.name();
        let (rows, blocks) = (self.micro_batch_rows, self.activation_checkpointing);
        let keys = [
            (before.micro_batch_rows != rows, format!("train.micro_batch_rows = {rows}")),
            (
                before.selective_recomputation != self.selective_recomputation,
                format!("train.selective_recomputation = {}", self.selective_recomputation),
            ),
            (before.activation_checkpointing != blocks, format!("train.activation_checkpointing = {blocks}")),
            (before.moments != self.moments, format!("train.moments = \"{moments}\"")),
            (
                before.moments_on_host != self.moments_on_host,
                format!("train.moments_on_host = {}", self.moments_on_host),
            ),
        ];
        keys.into_iter().filter_map(|(changed, key)| changed.then_some(key)).collect()
    }
}

/// The settings that cost the least speed and still fit into `bytes`: as many rows at a time as possible, at most
/// `most_rows`; then outputs of norms and SwiGLU made again, then blocks; then the same with moments in bf16, in 8 bits; then
/// moments on the host. `None` if nothing fits. The state is
/// sharded over `ranks`; 1 holds all of it.
#[allow(clippy::too_many_arguments)]
pub fn fitting(
    config: &RunConfig,
    model: &ModelConfig,
    teacher: Option<&ModelConfig>,
    tokens: i64,
    device: Device,
    bytes: f64,
    most_rows: usize,
    ranks: usize,
) -> Option<Settings> {
    let mut sacrifices = vec![
        (0, false, MomentKind::Fp32, false),
        (0, true, MomentKind::Fp32, false),
        (1, false, MomentKind::Fp32, false),
        (0, true, MomentKind::Bf16, false),
        (1, false, MomentKind::Bf16, false),
        (0, true, MomentKind::EightBit, false),
        (1, false, MomentKind::EightBit, false),
    ];
    sacrifices.extend(device.is_cuda().then_some((1, false, MomentKind::Fp32, true)));
    let mut settings =
        sacrifices.into_iter().flat_map(|(blocks, selective_recomputation, moments, moments_on_host)| {
            let rows = (1..=config.train.batch_rows.min(most_rows)).rev();
            let rows = rows.filter(|rows| config.train.batch_rows.is_multiple_of(*rows));
            rows.map(move |micro_batch_rows| Settings {
                micro_batch_rows,
                activation_checkpointing: blocks,
                selective_recomputation,
                moments,
                moments_on_host,
            })
        });
    settings.find(|settings| {
        let config = settings.applied(config);
        let estimate = MemoryEstimate::new(model, teacher, &config, tokens, device);
        let estimate = estimate.sharded(ranks, model, &config, device);
        Fit::of(&estimate, bytes, device) == Fit::Yes
    })
}

/// What `train.micro_batch_rows = "auto"` comes to: as many rows as fit into `bytes`, of those with which every rank gets as
/// many micro-batches; if there are no such, with which every rank gets one at least. One row where nothing fits.
pub fn filling_rows(
    config: &RunConfig,
    model: &ModelConfig,
    teacher: Option<&ModelConfig>,
    tokens: i64,
    device: Device,
    bytes: Option<f64>,
    sharing: Sharing,
) -> usize {
    let (batch, ranks) = (config.train.batch_rows, sharing.ranks.max(1));
    let most = if device.is_cuda() { batch } else { batch.min(MOST_CPU_ROWS) };
    let dealt = |each: usize| (1..=most.min(batch / ranks)).rev().filter(move |rows| batch.is_multiple_of(rows * each));
    let fits = |rows: &usize| {
        let Some(bytes) = bytes else { return true };
        let mut config = config.clone();
        config.train.micro_batch_rows = Some(MicroBatchRows::Rows(*rows));
        let estimate = MemoryEstimate::new(model, teacher, &config, tokens, device);
        Fit::of(&estimate.sharded(sharing.shard_ranks, model, &config, device), bytes, device) == Fit::Yes
    };
    dealt(ranks).find(fits).or_else(|| dealt(1).find(fits)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_as_many_rows_as_fit_and_can_be_dealt() {
        let (config, model, gib) = (config(), llama2_7b(), (1u64 << 30) as f64);
        let of = |device, memory: f64, ranks| {
            let sharing = Sharing { ranks, shard_ranks: 1 };
            filling_rows(&config, &model, None, 4096, device, Some(memory * gib), sharing)
        };
        let gpu = Device::Cuda(0);
        assert_eq!([10_000.0, 300.0, 141.0, 10.0].map(|memory| of(gpu, memory, 1)), [32, 8, 1, 1]);
        assert_eq!(of(Device::Cpu, 10_000.0, 1), MOST_CPU_ROWS);
        // Of 32 rows 8 ranks have 4 each; 3 cannot have as many, but share four micro-batches of 8.
        assert_eq!(of(gpu, 10_000.0, 8), 4);
        assert_eq!(of(gpu, 10_000.0, 3), 8);
        assert_eq!(of(gpu, 10_000.0, 32), 1);
    }

    fn llama2_7b() -> ModelConfig {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        crate::hf::RawConfig::from_raw(raw, std::path::Path::new("llama2-7b.json")).model().unwrap()
    }

    fn config() -> RunConfig {
        let text = "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 32\nlearning_rate = 0.1\n";
        crate::config::parse(text, "test", &[]).unwrap()
    }

    fn changed(gib: f64) -> Option<Vec<String>> {
        let (config, device) = (config(), Device::Cuda(0));
        let found = fitting(&config, &llama2_7b(), None, 4096, device, gib * (1u64 << 30) as f64, 32, 1)?;
        Some(found.changed_from(&Settings::of(&config)))
    }

    #[test]
    fn less_memory_asks_for_more_sacrifices() {
        assert_eq!(changed(2000.0).unwrap(), [] as [&str; 0], "all rows at once");
        assert_eq!(changed(250.0).unwrap().len(), 1, "fewer rows at a time");
        assert_eq!(changed(140.4).unwrap(), ["train.micro_batch_rows = 1"], "an H200, nothing recomputed");
        let sacrificed = |gib: f64| changed(gib).unwrap().last().cloned().unwrap();
        assert_eq!(sacrificed(115.0), "train.activation_checkpointing = 1");
        assert_eq!(sacrificed(94.0), "train.moments = \"bf16\"");
        assert_eq!(sacrificed(79.6), "train.moments = \"8bit\"", "an H100");
        assert_eq!(sacrificed(60.0), "train.moments_on_host = true");
        assert_eq!(changed(24.0), None);
    }

    #[test]
    fn a_run_that_only_just_fits_is_tight() {
        let mut config = config();
        config.train.micro_batch_rows = Some(1.into());
        let device = Device::Cuda(0);
        let estimate = MemoryEstimate::new(&llama2_7b(), None, &config, 4096, device);
        let needed = estimate.total_bytes();
        let found = [0.99, 1.01, 1.2].map(|part| Fit::of(&estimate, needed * part, device));
        assert_eq!(found, [Fit::No, Fit::Tight, Fit::Yes]);
    }
}
