//! Run folders whose story is known beforehand, written by hand: what is planted here is what `inspect` and the report
//! must find. No model is trained; metrics.jsonl has every field of docs/formats/metrics.md and the mask files are real.
//!
//! The facts of [`Plan::small`], a prune run of 100 steps over `web`, `code` and `books`:
//!
//! | fact | where |
//! |---|---|
//! | layer 2 of 4 is removed | [`Plan::removed_layers`] |
//! | the kv heads that stay change until step 60, MLP units until 40, layers and hidden never | [`Plan::heads_settle`] |
//! | a third of the MLP units are undecided before step 80, none after | [`Plan::masks_decide`] |
//! | the update of step 37 was skipped, its loss is not finite | [`Plan::skipped_step`] |
//! | `code` is degraded by the cut: 1.0 → 2.0; `web` and `books` hardly: 2.0 → 2.05 | [`source_loss`], [`cut_loss`] |
//! | the share of `books` drifts from 1/3 to 0.6 | [`Plan::proportion`] |
//! | the constraint of `hidden` is missed by 0.05 at the end, the others hold | [`Plan::violation`] |
//! | it was resumed after step 50 | |
//! | `code` recovers three quarters of its damage in [`Plan::recovery`] | [`recovered_loss`] |

use serde_json::{Value, json};
use shearling_masks::{HardConcrete, MaskSet, MaskSpec, Shape, UnitKind};
use std::path::Path;
use tch::{Device, Tensor};

/// Vocabulary of the planted model; embeddings are not tied.
pub const VOCAB: i64 = 64;
/// Standard error of every planted validation loss.
pub const STANDARD_ERROR: f64 = 0.01;

/// What to plant.
#[derive(Clone, Debug)]
pub struct Plan {
    pub stage: &'static str,
    pub source: Shape,
    pub target: Shape,
    pub steps: u64,
    pub eval_every: u64,
    pub domains: Vec<&'static str>,
    pub removed_layers: Vec<i64>,
    pub skipped_step: u64,
    /// Fingerprint of the data that the run records.
    pub data: &'static str,
    /// Seconds since 1970 at its start.
    pub started: f64,
}

impl Plan {
    /// A prune run that is written in a moment.
    pub fn small() -> Plan {
        Plan {
            stage: "prune",
            source: shape([16, 300, 4, 8, 4, 4]),
            target: shape([12, 150, 3, 4, 2, 4]),
            steps: 100,
            eval_every: 20,
            domains: vec!["web", "code", "books"],
            removed_layers: vec![2],
            skipped_step: 37,
            data: "planted",
            started: 1000.0,
        }
    }

    /// The run that continues the small one's model.
    pub fn recovery() -> Plan {
        let small = Plan::small();
        Plan { stage: "pretrain", source: small.target.clone(), steps: 40, skipped_step: 0, started: 2000.0, ..small }
    }

    /// Shape and length of Sheared-LLaMA's run on a 7B: 32 × 32 heads, 64 mask snapshots, 7 domains, 3,200 steps.
    pub fn seven_b() -> Plan {
        Plan {
            source: shape([4096, 11008, 32, 32, 32, 128]),
            target: shape([2048, 5504, 24, 16, 16, 128]),
            steps: 3200,
            eval_every: 50,
            domains: vec!["cc", "github", "book", "stackexchange", "wiki", "arxiv", "c4"],
            removed_layers: (0..8).map(|index| 2 + 3 * index).collect(),
            skipped_step: 37,
            ..Plan::small()
        }
    }

    pub fn is_prune(&self) -> bool {
        self.stage == "prune"
    }

    /// From here on the kv heads that stay are those that stay at the end.
    pub fn heads_settle(&self) -> u64 {
        self.steps * 3 / 5
    }

    /// From here on the MLP units that stay are those that stay at the end.
    pub fn intermediate_settles(&self) -> u64 {
        self.steps * 2 / 5
    }

    /// From here on no unit is undecided.
    pub fn masks_decide(&self) -> u64 {
        self.steps * 4 / 5
    }

    /// The last domain's share grows from an equal one to 0.6, the others share the rest.
    pub fn proportion(&self, domain: usize, step: u64) -> f64 {
        let equal = 1.0 / self.domains.len() as f64;
        let last = equal + (0.6 - equal) * step as f64 / self.steps as f64;
        match domain + 1 == self.domains.len() {
            true => last,
            false => (1.0 - last) / (self.domains.len() - 1) as f64,
        }
    }

    /// Expected − target sparsity.
    pub fn violation(&self, module: UnitKind, step: u64) -> f64 {
        if module == UnitKind::Hidden && step == self.steps { 0.05 } else { 0.001 }
    }

    /// kv heads that the cut keeps in a layer, at a step.
    pub fn kept_kv_heads(&self, layer: i64, step: u64) -> Vec<i64> {
        let (all, kept) = (self.source.num_key_value_heads, self.target.num_key_value_heads);
        let shift = layer + i64::from(step < self.heads_settle());
        (0..all).filter(|head| (head + shift) % all < kept).collect()
    }

    fn keeps(&self, module: UnitKind, row: i64, index: i64, step: u64) -> bool {
        match module {
            UnitKind::Layer => !self.removed_layers.contains(&index),
            UnitKind::KvHead => self.kept_kv_heads(row, step).contains(&index),
            UnitKind::QueryHead => index < self.target.group_size(),
            UnitKind::Intermediate => {
                let shift = if step < self.intermediate_settles() { self.source.intermediate_size / 10 } else { 0 };
                (index + row + shift) % self.source.intermediate_size < self.target.intermediate_size
            }
            UnitKind::Hidden => index < self.target.hidden_size,
        }
    }

    fn log_alpha(&self, module: UnitKind, row: i64, index: i64, step: u64) -> f32 {
        let undecided = module == UnitKind::Intermediate && step < self.masks_decide() && index % 3 == 0;
        let size = if undecided { 0.2 } else { 4.6 };
        if self.keeps(module, row, index, step) { size } else { -size }
    }

    /// The masks of a step.
    pub fn masks(&self, step: u64) -> MaskSet {
        let spec = MaskSpec::new(&self.source, &self.target).unwrap();
        let masks = MaskSet::new(spec.clone(), HardConcrete::default(), 10, 0, Device::Cpu).unwrap();
        for (module, (_, mut parameter)) in spec.modules().iter().zip(masks.log_alpha_parameters()) {
            let units = (0..module.units()).map(|unit| (unit / module.size, unit % module.size));
            let values: Vec<f32> = units.map(|(row, index)| self.log_alpha(module.module, row, index, step)).collect();
            let values = Tensor::from_slice(&values).view(&module.dims()[..]);
            tch::no_grad(|| parameter.copy_(&values));
        }
        masks
    }

    /// Steps with an evaluation and a mask snapshot.
    pub fn evaluated(&self) -> Vec<u64> {
        (1..=self.steps).filter(|step| step % self.eval_every == 0 || *step == self.steps).collect()
    }

    /// Writes the run folder.
    pub fn write(&self, run: &Path) {
        std::fs::create_dir_all(run).unwrap();
        let lines: Vec<String> = self.records().iter().map(Value::to_string).collect();
        std::fs::write(run.join("metrics.jsonl"), lines.join("\n") + "\n").unwrap();
        let config = format!("[run]\ndirectory = \"{}\"\n\n[train]\nsteps = {}\n", self.stage, self.steps);
        std::fs::write(run.join("resolved.toml"), config).unwrap();
        if self.is_prune() {
            std::fs::create_dir_all(run.join("masks")).unwrap();
            for step in self.evaluated() {
                self.masks(step).save(run.join(snapshot(step))).unwrap();
            }
        }
        let model = run.join(self.folder());
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("config.json"), format!("{:#}", self.hf_config())).unwrap();
    }

    fn folder(&self) -> &'static str {
        if self.is_prune() { "pruned" } else { "model" }
    }

    fn hf_config(&self) -> Value {
        let target = &self.target;
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
            "hidden_size": target.hidden_size, "intermediate_size": target.intermediate_size,
            "num_hidden_layers": target.num_hidden_layers, "num_attention_heads": target.num_attention_heads,
            "num_key_value_heads": target.num_key_value_heads, "head_dim": target.head_dim,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
            "max_position_embeddings": 32
        })
    }

    /// Every line of metrics.jsonl, in order.
    pub fn records(&self) -> Vec<Value> {
        let mut records = vec![self.start("start", 0), self.eval(0, "plain")];
        for step in 1..=self.steps {
            records.push(self.step(step));
            if step == self.skipped_step {
                records.push(json!({ "type": "skip", "step": step, "in_row": 1 }));
            }
            if step == self.steps / 2 {
                records.push(json!({ "type": "save", "step": step, "kept": [step] }));
                records.push(self.start("resume", step));
            }
            if self.evaluated().contains(&step) {
                records.push(self.eval(step, if self.is_prune() { "expected" } else { "plain" }));
            }
        }
        if self.is_prune() {
            records.push(self.eval(self.steps, "target"));
        }
        records.push(json!({ "type": "save", "step": self.steps, "kept": [self.steps] }));
        records.push(self.written());
        records
    }

    fn start(&self, kind: &str, step: u64) -> Value {
        let prune = self.is_prune();
        let proportions: Vec<f64> = (0..self.domains.len()).map(|domain| self.proportion(domain, step)).collect();
        let references: Vec<f64> = self.domains.iter().map(|name| source_loss(name)).collect();
        json!({
            "type": kind, "step": step, "stage": self.stage, "steps": self.steps, "version": "0.1.0",
            "domains": self.domains, "proportions": proportions, "reference_losses": references,
            "data_fingerprint": self.data, "time": self.started, "device": "Cpu", "predicted_memory_bytes": 1e6,
            "source_shape": self.source, "target_shape": prune.then_some(&self.target),
            "source_stages": if prune { json!(null) } else { json!([["pruning (learned)", 100, 51200]]) },
        })
    }

    fn step(&self, step: u64) -> Value {
        let (skipped, prune) = (step == self.skipped_step, self.is_prune());
        let loss = 2.0 + (-(step as f64) / 20.0).exp();
        let lagrangian = prune.then_some(0.25);
        let domains = self.domains.iter().enumerate().map(|(index, name)| {
            let fields = json!({
                "loss": if skipped { None } else { Some(source_loss(name) + loss - 2.0) },
                "rows": 4, "rows_total": 4 * step, "epochs": step as f64 / 1000.0, "rows_left": 100_000 - 4 * step,
                "proportion": self.proportion(index, (step - 1) / self.eval_every * self.eval_every),
            });
            (name.to_string(), fields)
        });
        let mut record = json!({
            "type": "step", "step": step, "tokens": 512 * step,
            "loss": {
                "total": if skipped { None } else { Some(loss + lagrangian.unwrap_or(0.0)) },
                "cross_entropy": if skipped { None } else { Some(loss) },
                "perplexity": if skipped { None } else { Some(loss.exp()) },
                "lagrangian": lagrangian,
            },
            "domains": Value::Object(domains.collect()),
            "learning_rate": { "weights": 1e-3 },
            "gradient_norm": { "total": if skipped { None } else { Some(0.75) }, "weights": 0.5 },
            "clip_scale": 1.0, "applied": !skipped, "skipped": u64::from(step >= self.skipped_step),
            "seconds": 0.5, "tokens_per_second": 1024.0, "model_flops_per_second": 1e9, "peak_memory_bytes": 1_000_000,
        });
        if prune {
            record["learning_rate"] = json!({ "weights": 1e-3, "masks": 1.0, "multipliers": 1.0 });
            record["gradient_norm"]["masks"] = json!(0.25);
            record["gradient_norm"]["multipliers"] = json!(0.1);
            record["constraints"] = self.constraints(step);
            let size = self.masks_spec();
            let target = 1.0 - size.target_prunable_params() as f64 / size.prunable_params() as f64;
            record["sparsity"] = json!({
                "expected": target * warmed_up(step), "target": target * warmed_up(step), "expected_parameters": 9_000.0,
            });
        }
        record
    }

    fn masks_spec(&self) -> MaskSpec {
        MaskSpec::new(&self.source, &self.target).unwrap()
    }

    fn constraints(&self, step: u64) -> Value {
        let spec = self.masks_spec();
        let modules = spec.modules().iter().map(|module| {
            let target = module.target_sparsity() * warmed_up(step);
            let violation = self.violation(module.module, step);
            json!({
                "module": module.module, "expected_sparsity": target + violation, "target_sparsity": target,
                "violation": violation, "worst_row_violation": violation.abs() * 2.0,
                "lambda_1": 0.01 * step as f64, "lambda_2": 0.02 * step as f64, "loss": 0.05,
            })
        });
        modules.collect()
    }

    fn eval(&self, step: u64, gates: &str) -> Value {
        let domains = self.domains.iter().enumerate().map(|(index, name)| {
            let part = step as f64 / self.steps as f64;
            let loss = match (self.is_prune(), gates) {
                (true, "target") => cut_loss(name),
                (true, _) => source_loss(name) + (cut_loss(name) - source_loss(name)) * part,
                (false, _) => cut_loss(name) + (recovered_loss(name) - cut_loss(name)) * part,
            };
            let fields = json!({
                "loss": loss, "standard_error": STANDARD_ERROR, "perplexity": loss.exp(), "rows": 16, "tokens": 2032,
                "reference": source_loss(name), "excess": loss - source_loss(name),
                "proportion": self.proportion(index, step),
            });
            (name.to_string(), fields)
        });
        let domains: serde_json::Map<String, Value> = domains.collect();
        let losses: Vec<f64> = domains.values().filter_map(|fields| fields["loss"].as_f64()).collect();
        let snapshot = (gates == "expected").then(|| snapshot(step));
        let masks = self.is_prune().then(|| shearling_masks::MaskReport::new(&self.masks(step)).unwrap());
        json!({
            "type": "eval", "step": step, "tokens": 512 * step, "gates": gates,
            "mean_loss": losses.iter().sum::<f64>() / losses.len() as f64,
            "domains": domains, "mixer_updated": step > 0 && step < self.steps, "row_sparsity": {},
            "masks": masks, "snapshot": snapshot,
        })
    }

    /// Parameters before and after, as planted.
    pub fn parameters(&self) -> (i64, i64) {
        let of = |shape: &Shape| {
            let spec = MaskSpec::new(shape, shape).unwrap();
            spec.prunable_params() + shape.hidden_size * (2 * shape.num_hidden_layers + 1 + 2 * VOCAB)
        };
        (of(&self.source), of(&self.target))
    }

    fn written(&self) -> Value {
        let (before, after) = self.parameters();
        let check = json!({
            "folded": 1e-7, "folded_bound": 1e-4, "written": 2e-7, "written_bound": 1e-4, "rows": 6, "tokens": 32
        });
        json!({
            "type": "written", "step": self.steps, "path": self.folder(), "parameters_before": before,
            "parameters_after": after, "shape": self.target, "dtype": "fp32",
            "equivalence": if self.is_prune() { check } else { json!(null) },
        })
    }
}

/// The snapshot of a step, relative to the run folder.
pub fn snapshot(step: u64) -> String {
    format!("masks/step-{step:08}.safetensors")
}

/// Validation loss of the source.
pub fn source_loss(domain: &str) -> f64 {
    if domain == "code" { 1.0 } else { 2.0 }
}

/// Validation loss of the model just cut.
pub fn cut_loss(domain: &str) -> f64 {
    if domain == "code" { 2.0 } else { 2.05 }
}

/// Validation loss at the end of [`Plan::recovery`].
pub fn recovered_loss(domain: &str) -> f64 {
    if domain == "code" { 1.25 } else { 2.05 }
}

/// Part of the targets that holds at a step.
fn warmed_up(step: u64) -> f64 {
    ((step - 1) as f64 / 10.0).min(1.0)
}

fn shape(dims: [i64; 6]) -> Shape {
    let [hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim] = dims;
    Shape { hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim }
}
