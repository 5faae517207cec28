//! How much memory and disk a run takes, reckoned from the configuration: what `plan` prints, and what a run compares
//! with what it took.
//!
//! ```text
//! peak = states + activations kept for the backward + max(what the loss, what the backward of a block needs besides)
//! ```

use crate::config::{Dtype, MomentKind, RunConfig};
use crate::model::HfModel;
use crate::model::count::ParameterCount;
use crate::model::loss::chunk_tokens;
use crate::train::setup::{Device, kind};
use serde::Serialize;

/// Bytes by use while training, on the device of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryEstimate {
    /// fp32 masters and, in bf16, the working copy.
    pub weight_bytes: f64,
    /// fp32 gradients; those of the backward are added to them one by one.
    pub gradient_bytes: f64,
    /// Moments of AdamW, unless they live on the host.
    pub optimizer_bytes: f64,
    /// What the forward of one micro-batch keeps for the backward.
    pub activation_bytes: f64,
    /// What comes and goes at the peak: logits and the head's gradient, or a block's backward.
    pub transient_bytes: f64,
    /// What the libraries take for themselves; on a GPU that is outside of what libtorch's allocator counts.
    pub workspace_bytes: f64,
}

/// What libtorch and its threads take on a CPU before the first product, as measured: code, stacks, compiled kernels.
const CPU_RUNTIME_BYTES: f64 = 80.0 * (1 << 20) as f64;

impl MemoryEstimate {
    /// Of a run of `config` on `model` with rows of `tokens` on `device`. Counts what the layers save, tensor by
    /// tensor; what the process had before the model is not in it.
    pub fn new(model: &HfModel, config: &RunConfig, tokens: i64, device: Device) -> MemoryEstimate {
        let parameters = ParameterCount::of(model).total() as f64;
        let train = &config.train;
        let micro_batch = train.micro_batch() as i64 * tokens;
        let block = BlockBytes::new(model, config.run.dtype, micro_batch as f64);
        let layers = model.num_hidden_layers as usize;
        let recomputed =
            if train.activation_checkpointing == 0 { 0 } else { layers.div_ceil(train.activation_checkpointing) };
        let again = if recomputed > 0 { block.kept } else { 0.0 };
        let folded = if config.target.is_some() { 3.0 * block.largest_weight } else { 0.0 };
        MemoryEstimate {
            weight_bytes: parameters * if config.run.dtype == Dtype::Fp32 { 4.0 } else { 6.0 },
            gradient_bytes: parameters * 4.0,
            optimizer_bytes: parameters * moment_bytes(config, device),
            activation_bytes: recomputed as f64 * block.input + (layers - recomputed) as f64 * block.kept,
            transient_bytes: loss_bytes(model, config.run.dtype, micro_batch).max(again + block.backward + folded),
            workspace_bytes: workspace_bytes(device),
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> f64 {
        let states = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes;
        states + self.activation_bytes + self.transient_bytes + self.workspace_bytes
    }
}

/// Bytes of both moments of a parameter on the device; a CPU is its own host.
fn moment_bytes(config: &RunConfig, device: Device) -> f64 {
    match (config.train.moments_on_host && device != Device::Cpu, config.train.moments) {
        (true, _) => 0.0,
        (false, MomentKind::Fp32) => 8.0,
        (false, MomentKind::Bf16) => 4.0,
    }
}

/// Bytes of one block for one micro-batch.
struct BlockBytes {
    /// Its input.
    input: f64,
    /// All that its forward saves, the input with it.
    kept: f64,
    /// What its backward needs besides.
    backward: f64,
    /// Its largest weight matrix.
    largest_weight: f64,
}

impl BlockBytes {
    fn new(model: &HfModel, dtype: Dtype, tokens: f64) -> BlockBytes {
        let element = element_bytes(dtype);
        let (d, f) = (model.hidden_size as f64, model.intermediate_size as f64);
        let q = (model.num_attention_heads * model.head_dim) as f64;
        let kv = (model.num_key_value_heads * model.head_dim) as f64;
        let head_norms = if model.qk_norm { q + kv } else { 0.0 };
        // Input and normed input of both halves; q, k and v in all heads, their output; gate, up, their product.
        let kept = 4.0 * d + 4.0 * q + head_norms + 3.0 * f;
        // Gradients of the stream and of gate and up, or of q, k, v and the heads.
        let backward = 2.0 * d + (2.0 * f).max(4.0 * q);
        let log_sum_exp = 4.0 * model.num_attention_heads as f64;
        BlockBytes {
            input: tokens * element * d,
            kept: tokens * (element * kept + log_sum_exp),
            backward: tokens * element * backward,
            largest_weight: element * d * f.max(q),
        }
    }
}

/// Output head and loss: the normed stream and its gradient, a chunk of logits, the head's gradient in fp32.
fn loss_bytes(model: &HfModel, dtype: Dtype, tokens: i64) -> f64 {
    let (d, vocab) = (model.hidden_size as f64, model.vocab_size as f64);
    let element = element_bytes(dtype);
    let chunk = chunk_tokens(model.vocab_size, kind(dtype), tokens) as f64;
    let summand = if dtype == Dtype::Fp32 { 0.0 } else { element * vocab * d };
    3.0 * element * tokens as f64 * d + element * chunk * vocab + 4.0 * vocab * d + summand
}

/// What libraries take for themselves; oneDNN multiplies transposed operands where they lie.
fn workspace_bytes(device: Device) -> f64 {
    if device == Device::Cpu { CPU_RUNTIME_BYTES } else { 0.0 }
}

fn element_bytes(dtype: Dtype) -> f64 {
    if dtype == Dtype::Fp32 { 4.0 } else { 2.0 }
}

impl std::fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
        write!(
            f,
            "{:.2} GiB = weights {:.2} + gradients {:.2} + optimiser {:.2} + activations {:.2} + transient {:.2} + \
             workspace {:.2}",
            gib(self.total_bytes()),
            gib(self.weight_bytes),
            gib(self.gradient_bytes),
            gib(self.optimizer_bytes),
            gib(self.activation_bytes),
            gib(self.transient_bytes),
            gib(self.workspace_bytes)
        )
    }
}

/// Bytes of a checkpoint: fp32 masters and two moments.
pub fn checkpoint_bytes(model: &HfModel, config: &RunConfig) -> f64 {
    let moments = if config.train.moments == MomentKind::Bf16 { 4.0 } else { 8.0 };
    (4.0 + moments) * ParameterCount::of(model).total() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama2_7b() -> HfModel {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        crate::checkpoint::HfConfig::from_raw(raw, std::path::Path::new("llama2-7b.json")).model().unwrap()
    }

    fn estimate(overrides: &str) -> MemoryEstimate {
        estimate_on(Device::Cuda(0), overrides)
    }

    fn estimate_on(device: Device, overrides: &str) -> MemoryEstimate {
        let text = format!(
            "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n\
             [train]\nsteps = 4\nbatch_rows = 32\nmicro_batch_rows = 1\nlearning_rate = 0.1\n{overrides}"
        );
        MemoryEstimate::new(&llama2_7b(), &crate::config::parse(&text, "test", &[]).unwrap(), 4096, device)
    }

    #[test]
    fn seven_billion_in_bf16_with_recomputation_fit_one_gpu() {
        let all = estimate("activation_checkpointing = 1");
        let states = all.weight_bytes + all.gradient_bytes + all.optimizer_bytes;
        assert_eq!(states, 18.0 * 6_738_415_616.0);
        // A layer keeps its input: 4096 tokens of 4096 values in bf16.
        assert_eq!(all.activation_bytes, 32.0 * 4096.0 * 4096.0 * 2.0);
        let gib = all.total_bytes() / (1u64 << 30) as f64;
        assert!((114.0..120.0).contains(&gib), "{gib}");
        let none = estimate("");
        assert!(none.activation_bytes > 15.0 * all.activation_bytes);
        let half = estimate("activation_checkpointing = 2");
        assert!(half.activation_bytes < none.activation_bytes && half.activation_bytes > all.activation_bytes);
    }

    #[test]
    fn moments_take_what_they_are_given() {
        let states = |overrides| estimate(overrides).optimizer_bytes / 6_738_415_616.0;
        assert_eq!(states("moments = 'bf16'"), 4.0);
        assert_eq!(states("moments_on_host = true"), 0.0);
        let on_cpu = estimate_on(Device::Cpu, "moments_on_host = true");
        assert_eq!(on_cpu.optimizer_bytes, 8.0 * 6_738_415_616.0, "a CPU keeps them where they are");
    }
}
