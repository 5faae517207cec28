//! How much memory and disk a run takes, estimated from the configuration: what `plan` prints, and what a run compares
//! with what it took.
//!
//! ```text
//! peak = states + activations kept for the backward + max(what the loss, what the backward of a block needs besides)
//! ```
//!
//! Ranks over which the state is sharded (`dist.strategy = "fsdp"`) hold their shard, and unsharded what is at work:
//!
//! ```text
//! states / n + outside of the layers (weights, gradients) + two layers (weights, gradients)
//! ```
//!
//! On a CPU that is what is taken, within 5 %. On a GPU with kernels of ours the same tensors are kept, which a test counts
//! (`tests/integration/gpu_kernels.rs`). Without them norms, SwiGLU, rotary embedding and gates are composed operators, which
//! keep fp32 copies that nobody counted here tensor by tensor: `composed_bytes` adds them by measured factors.

use super::compute::{Device, compute_dtype};
use crate::config::{MomentKind, RunConfig};
use crate::files::DType;
use crate::model::ModelConfig;
use crate::model::count::ParameterCount;
use crate::model::loss::chunk_tokens;
use crate::model::routed_count::RoutedCount;
use crate::native::kernels;
use serde::Serialize;

/// Bytes by use while training, on the device of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryEstimate {
    /// fp32 masters; in bf16, half of each is the number that forward uses.
    pub weight_bytes: f64,
    /// fp32 gradients; those of the backward are added to them one by one.
    pub gradient_bytes: f64,
    /// Moments of AdamW, unless they live on the host.
    pub optimizer_bytes: f64,
    /// What the forward of one micro-batch keeps for the backward.
    pub activation_bytes: f64,
    /// What comes and goes at the peak: logits and the head's gradient, or a block's backward.
    pub transient_bytes: f64,
    /// What composed operators keep besides, on a GPU without kernels of ours: measured, not counted.
    pub composed_bytes: f64,
    /// What is unsharded at a time of sharded weights and gradients; 0 where each rank holds all of them.
    pub unsharded_bytes: f64,
    /// What layers with a router keep besides, and the routers with gradients and moments; 0 without.
    pub router_bytes: f64,
    /// A teacher's weights, and its residual stream until the loss; 0 without one.
    pub teacher_bytes: f64,
    /// What the libraries take for themselves; on a GPU that is outside of what libtorch's allocator counts.
    pub workspace_bytes: f64,
}

/// What libtorch and its threads take on a CPU before the first product, as measured: code, stacks, compiled kernels.
const CPU_RUNTIME_BYTES: f64 = 80.0 * (1 << 20) as f64;

/// Activations and transient of a step of composed operators on CUDA, as measured on an H200, in multiples of those counted
/// here: 2.1 for 1.3 B and for 51 M parameters without masks, 2.4 for 1.3 B and 135 M with masks, 1.5 for 7 B with all blocks
/// computed again.
const COMPOSED_PLAIN: f64 = 2.1;
const COMPOSED_MASKED: f64 = 2.4;

impl MemoryEstimate {
    /// Of a run of `config` on `model`, learning from `teacher` if there is one, with rows of `tokens` on `device`. Counts
    /// what the layers save, tensor by tensor; what the process had before the model is not in it.
    pub fn new(
        model: &ModelConfig,
        teacher: Option<&ModelConfig>,
        config: &RunConfig,
        tokens: i64,
        device: Device,
    ) -> MemoryEstimate {
        MemoryEstimate::by(kernels::composes(device), model, teacher, config, tokens, device)
    }

    /// The same, with operators that are `composed` or not.
    fn by(
        composed: bool,
        model: &ModelConfig,
        teacher: Option<&ModelConfig>,
        config: &RunConfig,
        tokens: i64,
        device: Device,
    ) -> MemoryEstimate {
        let parameters = ParameterCount::of(model).total() as f64;
        let train = &config.train;
        let micro_batch = train.micro_batch() as i64 * tokens;
        let dtype = compute_dtype(config.run.dtype, device);
        // Composed operators are not ours to ask.
        let selective = train.selective_recomputation && !composed;
        let block = BlockBytes::new(model, dtype, micro_batch as f64, selective);
        let routers = RouterBytes::new(model, config, dtype, micro_batch as f64);
        let layers = model.num_hidden_layers as usize;
        let recomputed =
            if train.activation_checkpointing == 0 { 0 } else { layers.div_ceil(train.activation_checkpointing) };
        let again = if recomputed > 0 { block.kept } else { 0.0 };
        let folded = if config.target.is_some() { 3.0 * block.largest_weight } else { 0.0 };
        let activation_bytes = recomputed as f64 * block.input + (layers - recomputed) as f64 * block.kept;
        let teacher = TeacherBytes::new(teacher, config, micro_batch, device);
        let loss_bytes = loss_bytes(model, config, dtype, teacher.logit, micro_batch);
        // The teacher's forward is over before the model's begins.
        let transient_bytes = loss_bytes
            .max(again + block.backward + routers.backward + folded)
            .max(teacher.forward - teacher.stream - activation_bytes);
        let factor = if config.target.is_some() { COMPOSED_MASKED } else { COMPOSED_PLAIN };
        let composed = if composed { factor - 1.0 } else { 0.0 };
        MemoryEstimate {
            weight_bytes: parameters * weight_bytes(config, dtype),
            gradient_bytes: parameters * if config.freezes_weights() { 0.0 } else { 4.0 },
            optimizer_bytes: parameters * moment_bytes(config, device),
            activation_bytes,
            transient_bytes,
            composed_bytes: composed * (activation_bytes + transient_bytes),
            unsharded_bytes: 0.0,
            router_bytes: routers.states + routers.kept(layers, recomputed),
            teacher_bytes: teacher.weights + teacher.stream,
            workspace_bytes: workspace_bytes(device),
        }
    }

    /// Of work that trains nothing and takes `bytes` at its peak.
    pub fn of_work(bytes: f64, device: Device) -> MemoryEstimate {
        MemoryEstimate {
            weight_bytes: 0.0,
            gradient_bytes: 0.0,
            optimizer_bytes: 0.0,
            activation_bytes: 0.0,
            transient_bytes: bytes,
            composed_bytes: 0.0,
            unsharded_bytes: 0.0,
            router_bytes: 0.0,
            teacher_bytes: 0.0,
            workspace_bytes: workspace_bytes(device),
        }
    }

    /// Of one of `ranks` over which the state of the run is sharded; 1 leaves it as it is.
    pub fn sharded(self, ranks: usize, model: &ModelConfig, config: &RunConfig, device: Device) -> MemoryEstimate {
        if ranks == 1 {
            return self;
        }
        let share = 1.0 / ranks as f64;
        let element = element_bytes(compute_dtype(config.run.dtype, device));
        let gradient = if config.freezes_weights() { 0.0 } else { 4.0 };
        let count = ParameterCount::of(model);
        let outside = (count.embedding + count.head + model.hidden_size) as f64;
        let layer = (count.total() as f64 - outside) / model.num_hidden_layers.max(1) as f64;
        MemoryEstimate {
            weight_bytes: self.weight_bytes * share,
            gradient_bytes: self.gradient_bytes * share,
            optimizer_bytes: self.optimizer_bytes * share,
            // The sum of a layer's gradients arrives beside those of the step so far.
            unsharded_bytes: (outside + 2.0 * layer) * (element + gradient) + layer * gradient * share,
            ..self
        }
    }

    /// All of it.
    pub fn total_bytes(&self) -> f64 {
        let states = self.weight_bytes
            + self.gradient_bytes
            + self.optimizer_bytes
            + self.unsharded_bytes
            + self.teacher_bytes
            + self.router_bytes;
        states + self.activation_bytes + self.transient_bytes + self.composed_bytes + self.workspace_bytes
    }
}

/// Bytes of a parameter: its fp32 master, of which the bf16 number is a half; a frozen one is in the dtype of the computation.
fn weight_bytes(config: &RunConfig, dtype: DType) -> f64 {
    if config.freezes_weights() { element_bytes(dtype) } else { 4.0 }
}

/// Bytes of both moments of a parameter on the device; a CPU is its own host.
fn moment_bytes(config: &RunConfig, device: Device) -> f64 {
    if config.freezes_weights() {
        return 0.0;
    }
    let on_host = config.train.moments_on_host && device != Device::Cpu;
    if on_host { 0.0 } else { bytes_of_moments(config.train.moments) }
}

/// Bytes of both moments of a parameter.
fn bytes_of_moments(moments: MomentKind) -> f64 {
    match moments {
        MomentKind::Fp32 => 8.0,
        MomentKind::Bf16 => 4.0,
        MomentKind::EightBit => 2.0,
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
    /// With `selective` recomputation outputs of norms and SwiGLU are not kept.
    fn new(model: &ModelConfig, dtype: DType, tokens: f64, selective: bool) -> BlockBytes {
        let element = element_bytes(dtype);
        let (d, f) = (model.hidden_size as f64, model.intermediate_size as f64);
        let q = (model.num_attention_heads * model.head_dim) as f64;
        let kv = (model.num_key_value_heads * model.head_dim) as f64;
        let head_norms = if model.qk_norm { q + kv } else { 0.0 };
        // Input and normed input of both halves; q, k and v in all heads, their output; gate, up, their product.
        let (kept_inputs, made_again) = if selective { (0.0, f.max(d)) } else { (2.0 * d + f, 0.0) };
        let kept = 2.0 * d + 4.0 * q + head_norms + 2.0 * f + kept_inputs;
        // Gradients of the stream and of gate and up, or of q, k, v and the heads.
        let backward = 2.0 * d + (2.0 * f).max(4.0 * q) + made_again;
        let log_sum_exp = 4.0 * model.num_attention_heads as f64;
        BlockBytes {
            input: tokens * element * d,
            kept: tokens * (element * kept + log_sum_exp),
            backward: tokens * element * backward,
            largest_weight: element * d * f.max(q),
        }
    }
}

/// Bytes of routers for one micro-batch; all 0 without.
#[derive(Default)]
struct RouterBytes {
    /// fp32 weights, gradients and two moments, of all routers.
    states: f64,
    /// What a layer with a router keeps for its backward.
    layer: f64,
    /// Share of the layers that have one.
    share: f64,
    /// What the backward of such a layer needs besides.
    backward: f64,
}

impl RouterBytes {
    fn new(model: &ModelConfig, config: &RunConfig, dtype: DType, tokens: f64) -> RouterBytes {
        let Some(lte) = &config.lte else { return RouterBytes::default() };
        let layers = (0..model.num_hidden_layers).filter(|layer| lte.routes(*layer)).count();
        let count = RoutedCount::new(model, layers as i64, lte.expert_size);
        let element = element_bytes(dtype);
        let (f, experts) = (model.intermediate_size as f64, count.experts as f64);
        // In fp32 the normed input is not copied, and gates are multiplied as they are.
        let copies = if dtype == DType::F32 { 0.0 } else { 4.0 * model.hidden_size as f64 + element * experts };
        // The product of inner units and gates; logits, scores and gates in fp32.
        let layer = tokens * (element * f + 4.0 * 3.0 * experts + copies);
        let share = layers as f64 / model.num_hidden_layers.max(1) as f64;
        // The gradient of the gates before it is summed over the units of an expert.
        RouterBytes { states: 16.0 * count.parameters as f64, layer, share, backward: tokens * element * f }
    }

    /// Kept by all layers but those that are computed again, of which one is at work.
    fn kept(&self, layers: usize, recomputed: usize) -> f64 {
        let again = if recomputed > 0 { 1.0 } else { 0.0 };
        self.layer * (self.share * (layers - recomputed) as f64 + again)
    }
}

/// Bytes of a teacher for one micro-batch; all 0 without one.
#[derive(Default)]
struct TeacherBytes {
    weights: f64,
    /// Its normed residual stream, kept until the loss.
    stream: f64,
    /// What a block of its forward holds, without a graph.
    forward: f64,
    /// One logit.
    logit: f64,
}

impl TeacherBytes {
    fn new(teacher: Option<&ModelConfig>, config: &RunConfig, tokens: i64, device: Device) -> TeacherBytes {
        let Some((teacher, distill)) = teacher.zip(config.distill.as_ref()) else { return TeacherBytes::default() };
        let dtype = compute_dtype(distill.dtype, device);
        let element = element_bytes(dtype);
        TeacherBytes {
            weights: if config.shares_teacher() { 0.0 } else { element * ParameterCount::of(teacher).total() as f64 },
            stream: element * (tokens * teacher.hidden_size) as f64,
            forward: BlockBytes::new(teacher, dtype, tokens as f64, false).kept,
            logit: element,
        }
    }
}

/// Output head and loss: the normed stream and its gradient, a chunk of logits (of a teacher's too, of `taught` bytes
/// each), the head's gradient in fp32 unless it is frozen.
fn loss_bytes(model: &ModelConfig, config: &RunConfig, dtype: DType, taught: f64, tokens: i64) -> f64 {
    let (d, vocab) = (model.hidden_size as f64, model.vocab_size as f64);
    let element = element_bytes(dtype);
    let logit = element + taught;
    let chunk = chunk_tokens(model.vocab_size, logit as i64, tokens) as f64;
    let head = match (config.freezes_weights(), dtype) {
        (true, _) => 0.0,
        (false, DType::F32) => 4.0 * vocab * d,
        (false, _) => (4.0 + element) * vocab * d,
    };
    3.0 * element * tokens as f64 * d + logit * chunk * vocab + head
}

/// What libraries take for themselves; oneDNN multiplies transposed operands where they lie.
fn workspace_bytes(device: Device) -> f64 {
    if device == Device::Cpu { CPU_RUNTIME_BYTES } else { 0.0 }
}

fn element_bytes(dtype: DType) -> f64 {
    if dtype == DType::F32 { 4.0 } else { 2.0 }
}

impl std::fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
        let parts = [
            ("weights", self.weight_bytes),
            ("gradients", self.gradient_bytes),
            ("optimiser", self.optimizer_bytes),
            ("unsharded", self.unsharded_bytes),
            ("activations", self.activation_bytes),
            ("transient", self.transient_bytes),
            ("composed operators", self.composed_bytes),
            ("routers", self.router_bytes),
            ("teacher", self.teacher_bytes),
            ("workspace", self.workspace_bytes),
        ];
        let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0.0);
        let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {:.2}", gib(bytes))).collect();
        write!(f, "{:.2} GiB = {}", gib(self.total_bytes()), parts.join(" + "))
    }
}

/// Bytes of a checkpoint: fp32 masters and two moments.
pub fn checkpoint_bytes(model: &ModelConfig, config: &RunConfig) -> f64 {
    let parameters = ParameterCount::of(model).total() as f64;
    let moments = if config.freezes_weights() { 0.0 } else { bytes_of_moments(config.train.moments) };
    (4.0 + moments) * parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama2_7b() -> ModelConfig {
        let config = include_str!("../../tests/fixtures/configs/llama2-7b.json");
        let serde_json::Value::Object(raw) = serde_json::from_str(config).unwrap() else { panic!("an object") };
        crate::hf::RawConfig::from_raw(raw, std::path::Path::new("llama2-7b.json")).model().unwrap()
    }

    fn estimate(overrides: &str) -> MemoryEstimate {
        estimate_on(Device::Cuda(0), overrides)
    }

    fn estimate_on(device: Device, overrides: &str) -> MemoryEstimate {
        let text = format!(
            "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n\
             [train]\nsteps = 4\nbatch_rows = 32\nmicro_batch_rows = 1\nlearning_rate = 0.1\n{overrides}"
        );
        MemoryEstimate::new(&llama2_7b(), None, &crate::config::parse(&text, "test", &[]).unwrap(), 4096, device)
    }

    #[test]
    fn seven_billion_in_bf16_with_recomputation_fit_one_gpu() {
        let all = estimate("activation_checkpointing = 1");
        let states = all.weight_bytes + all.gradient_bytes + all.optimizer_bytes;
        assert_eq!(states, 16.0 * 6_738_415_616.0);
        // A layer keeps its input: 4096 tokens of 4096 values in bf16.
        assert_eq!(all.activation_bytes, 32.0 * 4096.0 * 4096.0 * 2.0);
        let none = estimate("");
        assert!(none.activation_bytes > 15.0 * all.activation_bytes);
        let half = estimate("activation_checkpointing = 2");
        assert!(half.activation_bytes < none.activation_bytes && half.activation_bytes > all.activation_bytes);
    }

    /// Peaks on an H200 with libtorch 2.11.0+cu130 and composed operators, when a master had a bf16 copy of 2 bytes beside it:
    /// hidden, intermediate, layers, heads, KV heads, vocabulary; whether masks train; rows per forward and their tokens; blocks
    /// computed again; GiB taken.
    #[test]
    fn what_was_measured_on_a_gpu_is_met_within_three_per_cent() {
        let large = [2048, 5504, 24, 16, 16, 32_000];
        let runs = [
            (large, false, 4, 4096, 0, 73.5),
            (large, true, 4, 4096, 0, 81.7),
            ([576, 1536, 30, 9, 3, 49_152], true, 8, 1024, 0, 13.1),
            ([384, 1024, 20, 6, 3, 49_152], false, 8, 1024, 0, 5.4),
            ([4096, 11_008, 32, 32, 32, 32_000], true, 1, 4096, 1, 116.0),
        ];
        for (sizes, masks, rows, tokens, recomputed, measured) in runs {
            let mut model = llama2_7b();
            model.head_dim = if sizes[5] == 32_000 { 128 } else { 64 };
            model.tie_word_embeddings = sizes[5] != 32_000;
            [model.hidden_size, model.intermediate_size, model.num_hidden_layers] = [sizes[0], sizes[1], sizes[2]];
            [model.num_attention_heads, model.num_key_value_heads, model.vocab_size] = [sizes[3], sizes[4], sizes[5]];
            model.sliding_window.truncate(sizes[2] as usize);
            let text = format!(
                "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n{}[data]\npath = 'd'\n[train]\nsteps = 4\n\
                 batch_rows = 16\nmicro_batch_rows = {rows}\nlearning_rate = 0.1\nactivation_checkpointing = {recomputed}\n",
                if masks { "[target]\n" } else { "" }
            );
            let config = crate::config::parse(&text, "test", &[]).unwrap();
            let estimate = MemoryEstimate::by(true, &model, None, &config, tokens, Device::Cuda(0));
            let copy = 2.0 * ParameterCount::of(&model).total() as f64;
            let gib = (estimate.total_bytes() + copy) / (1u64 << 30) as f64;
            assert!((gib / measured - 1.0).abs() < 0.03, "{sizes:?}: {gib:.1} of {measured}");
        }
    }

    #[test]
    fn a_teacher_takes_its_weights_its_stream_and_its_logits() {
        let text = "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 32\nmicro_batch_rows = 1\nlearning_rate = 0.1\n";
        let of = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| set.to_string()).collect();
            let config = crate::config::parse(text, "test", &set).unwrap();
            let (model, device) = (llama2_7b(), Device::Cuda(0));
            let teacher = config.distill.as_ref().map(|_| &model);
            MemoryEstimate::new(&model, teacher, &config, 4096, device)
        };
        let (without, with) = (of(&[]), of(&["distill.weight=0.5"]));
        assert_eq!(without.teacher_bytes, 0.0);
        assert_eq!(with.teacher_bytes, 2.0 * 6_738_415_616.0 + 2.0 * 4096.0 * 4096.0);
        assert_eq!(of(&["distill.weight=0.5", "distill.dtype=fp32"]).teacher_bytes, 2.0 * with.teacher_bytes);
        // Half as many rows at a time, each with the logits of both: the same bytes, to a row.
        assert!((with.transient_bytes / without.transient_bytes - 1.0).abs() < 1e-3);
        assert!(with.to_string().contains(" + teacher 12.58"), "{with}");
    }

    /// A run of `lte train` on a CPU: hidden 128, intermediate 352, 6 layers, 8 heads, vocabulary 4,096, 8 rows of 256 tokens at a
    /// time, experts of 16 units, routers in every layer: 279,945,216 bytes at the peak.
    #[test]
    fn a_run_with_routers_takes_what_was_measured() {
        let mut model = llama2_7b();
        (model.head_dim, model.vocab_size, model.tie_word_embeddings) = (16, 4096, false);
        [model.hidden_size, model.intermediate_size, model.num_hidden_layers] = [128, 352, 6];
        [model.num_attention_heads, model.num_key_value_heads] = [8, 8];
        model.sliding_window.truncate(6);
        let of = |routers: &str| {
            let text = format!(
                "[run]\ndirectory = 'a'\ndtype = 'fp32'\n[model]\nsource = 'm'\n[data]\npath = 'd'\n[train]\nsteps = 60\n\
                 batch_rows = 16\nmicro_batch_rows = 8\nlearning_rate = 0.1\n{routers}"
            );
            MemoryEstimate::new(&model, None, &crate::config::parse(&text, "test", &[]).unwrap(), 256, Device::Cpu)
        };
        let (dense, routed) = (of(""), of("[lte]\nexpert_size = 16\n"));
        assert!((routed.total_bytes() / 279_945_216.0 - 1.0).abs() < 0.03, "{routed}");
        assert_eq!(dense.router_bytes, 0.0);
        let half = of("[lte]\nexpert_size = 16\nlayers = [0, 2, 4]\n");
        assert_eq!(2.0 * half.router_bytes, routed.router_bytes);
        assert!(routed.to_string().contains(" + routers 0.02"), "{routed}");
    }

    #[test]
    fn a_rank_holds_its_shard_and_two_layers() {
        let text = "[run]\ndirectory = 'a'\ndtype = 'bf16'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n\
                    [train]\nsteps = 4\nbatch_rows = 32\nmicro_batch_rows = 1\nlearning_rate = 0.1\n";
        let config = crate::config::parse(text, "test", &[]).unwrap();
        let (model, device) = (llama2_7b(), Device::Cuda(0));
        let whole = MemoryEstimate::new(&model, None, &config, 4096, device);
        assert_eq!(whole.sharded(1, &model, &config, device), whole);
        let sharded = whole.sharded(8, &model, &config, device);
        let states =
            |estimate: &MemoryEstimate| estimate.weight_bytes + estimate.gradient_bytes + estimate.optimizer_bytes;
        assert_eq!(states(&sharded), states(&whole) / 8.0);
        // Embedding and head of 32,000 rows of 4,096, the final norm; layers of 202,383,360.
        let (outside, layer) = (2.0 * 32_000.0 * 4096.0 + 4096.0, 202_383_360.0);
        assert_eq!(sharded.unsharded_bytes, 6.0 * (outside + 2.0 * layer) + 4.0 * layer / 8.0);
        assert_eq!(sharded.activation_bytes, whole.activation_bytes);
    }

    #[test]
    fn moments_take_what_they_are_given() {
        let states = |overrides| estimate(overrides).optimizer_bytes / 6_738_415_616.0;
        assert_eq!(states("moments = 'bf16'"), 4.0);
        assert_eq!(states("moments = '8bit'"), 2.0);
        assert_eq!(states("moments_on_host = true"), 0.0);
        let on_cpu = estimate_on(Device::Cpu, "moments_on_host = true");
        assert_eq!(on_cpu.optimizer_bytes, 8.0 * 6_738_415_616.0, "a CPU keeps them where they are");
    }
}
