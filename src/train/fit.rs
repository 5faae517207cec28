//! Whether a run fits into a memory, and with which settings it would.

use super::memory::MemoryEstimate;
use super::setup::Device;
use crate::config::{MomentKind, RunConfig};
use crate::model::ModelConfig;
use serde::Serialize;

/// What a device keeps for itself beside the tensors: on a GPU the context of CUDA and what its allocator cannot use.
const DEVICE_BYTES: f64 = (1u64 << 30) as f64;
/// How far the estimate may be off.
const MARGIN: f64 = 1.05;

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
            moments: train.moments,
            moments_on_host: train.moments_on_host,
        }
    }

    /// `config` with these.
    pub fn applied(&self, config: &RunConfig) -> RunConfig {
        let mut config = config.clone();
        config.train.micro_batch_rows = Some(self.micro_batch_rows);
        config.train.activation_checkpointing = self.activation_checkpointing;
        config.train.moments = self.moments;
        config.train.moments_on_host = self.moments_on_host;
        config
    }

    /// Those that differ from `before`, as keys.
    pub fn changed_from(&self, before: &Settings) -> Vec<String> {
        let moments = if self.moments == MomentKind::Bf16 { "bf16" } else { "fp32" };
        let (rows, blocks) = (self.micro_batch_rows, self.activation_checkpointing);
        let keys = [
            (before.micro_batch_rows != rows, format!("train.micro_batch_rows = {rows}")),
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
/// `most_rows`; then blocks computed again, then moments in bf16, then moments on the host. `None` if nothing fits. `ranks`
/// divide the states of the run among them; 1 holds them all.
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
    let mut sacrifices = vec![(0, MomentKind::Fp32, false), (1, MomentKind::Fp32, false), (1, MomentKind::Bf16, false)];
    sacrifices.extend(device.is_cuda().then_some((1, MomentKind::Fp32, true)));
    let mut settings = sacrifices.into_iter().flat_map(|(activation_checkpointing, moments, moments_on_host)| {
        let rows = (1..=config.train.batch_rows.min(most_rows)).rev();
        let rows = rows.filter(|rows| config.train.batch_rows.is_multiple_of(*rows));
        rows.map(move |micro_batch_rows| Settings {
            micro_batch_rows,
            activation_checkpointing,
            moments,
            moments_on_host,
        })
    });
    settings.find(|settings| {
        let config = settings.applied(config);
        let estimate = MemoryEstimate::new(model, teacher, &config, tokens, device);
        let estimate = estimate.divided(ranks, model, &config, device);
        Fit::of(&estimate, bytes, device) == Fit::Yes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let less = changed(130.0).unwrap();
        assert!(less.contains(&"train.activation_checkpointing = 1".to_string()), "{less:?}");
        assert!(changed(100.0).unwrap().contains(&"train.moments = \"bf16\"".to_string()));
        assert!(changed(80.0).unwrap().contains(&"train.moments_on_host = true".to_string()));
        assert_eq!(changed(24.0), None);
    }

    #[test]
    fn a_run_that_only_just_fits_is_tight() {
        let mut config = config();
        config.train.micro_batch_rows = Some(1);
        let device = Device::Cuda(0);
        let estimate = MemoryEstimate::new(&llama2_7b(), None, &config, 4096, device);
        let needed = estimate.total_bytes();
        let found = [0.99, 1.01, 1.2].map(|part| Fit::of(&estimate, needed * part, device));
        assert_eq!(found, [Fit::No, Fit::Tight, Fit::Yes]);
    }
}
