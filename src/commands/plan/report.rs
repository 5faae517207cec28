//! The answer of `plan`, as text and as JSON.

use super::advice::{self, written_dtype};
use super::mix::MixReach;
use super::places::Places;
use super::rows::{self, DomainRows};
use crate::cli::arguments::Plan;
use crate::cli::table::{Table, bytes, duration, grouped};
use crate::commands::inspect::{shape_json, shape_table};
use crate::commands::speed::{CARD_UTILISATION, Place};
use crate::eval::rows_read;
use crate::files::available_bytes;
use crate::hf::ModelConfig;
use crate::model::count::{ParameterCount, forward_flops_per_token, training_flops_per_token};
use crate::native::runtime::cards::Card;
use crate::native::runtime::device;
use crate::run_dir::STEPS_AT_ONCE;
use crate::train::Outline;
use crate::train::decide::Intervals;
use crate::train::memory::checkpoint_bytes;
use crate::train::setup::compute_dtype;
use serde_json::{Value, json};

/// The answer.
pub(super) struct PlanReport {
    small: Option<ModelConfig>,
    domains: Vec<DomainRows>,
    mix: Option<MixReach>,
    places: Places,
    checkpoint_bytes: f64,
    written_bytes: f64,
    tokens: f64,
    /// A teacher's with them.
    train_flops: f64,
    /// Of its forward; `None` without a teacher of known shape.
    teacher_flops: Option<f64>,
    /// `None` where the rows to evaluate are not known.
    eval_flops: Option<f64>,
    seconds: Option<(f64, String)>,
    /// Of the outline and of the advice.
    pub(super) warnings: Vec<String>,
}

/// The time at the rate that this machine multiplies at, where the run would be here.
fn measured_seconds(outline: &Outline, flops: f64) -> Option<(f64, String)> {
    let place = Place::here().ok().filter(|place| place.device == outline.device)?;
    let said =
        format!("{}, measured here (`shearling bench step --config FILE` times the step itself)", place.rate_said);
    Some((flops / place.flops?, said))
}

impl PlanReport {
    pub(super) fn new(outline: &Outline, arguments: &Plan, card: Option<&Card>) -> PlanReport {
        let config = &outline.config;
        let small = outline.target();
        let domains = DomainRows::of(outline);
        let tokens = config.train.steps as f64 * config.train.batch_rows as f64 * outline.row_tokens as f64;
        let forward = |model: &ModelConfig| forward_flops_per_token(model, outline.row_tokens);
        let teacher_flops = outline.teacher.as_ref().map(|teacher| forward(teacher) * tokens);
        let own_flops = training_flops_per_token(&outline.model, outline.row_tokens) * tokens;
        let train_flops = own_flops + teacher_flops.unwrap_or(0.0);
        // The teacher is evaluated once, before the first step.
        let evaluated = |tokens: f64| {
            let once = tokens / evaluations(outline).max(1) as f64;
            forward(&outline.model) * tokens + outline.teacher.as_ref().map_or(0.0, forward) * once
        };
        let eval_flops = eval_tokens(outline).map(evaluated);
        let all_flops = train_flops + eval_flops.unwrap_or(0.0);
        let seconds = match (arguments.tokens_per_second, arguments.tflops, card) {
            (Some(rate), ..) => Some((all_flops / train_flops * tokens / rate, "at the given rate".to_string())),
            (None, Some(tflops), _) => Some((all_flops / (tflops * 1e12), "at the given rate".to_string())),
            (None, None, Some(card)) => {
                let rate = CARD_UTILISATION * card.bf16_tflops;
                let said = format!(
                    "on one {} at {rate:.0} TFLOP/s, 28 % of its peak as measured with a 7B on an H200",
                    card.name
                );
                Some((all_flops / (rate * 1e12), said))
            }
            (None, None, None) => measured_seconds(outline, all_flops),
        };
        let places = Places::new(outline, card);
        let checkpoint_bytes = checkpoint_bytes(&outline.model, config);
        let written = ParameterCount::of(small.as_ref().unwrap_or(&outline.model)).total() as f64;
        let written_bytes = written * written_dtype(outline).1.bytes() as f64;
        let mut warnings = outline.findings.warnings.clone();
        let mix = MixReach::of(outline);
        warnings.extend(advice::warnings(outline, small.as_ref(), &domains, mix.as_ref()));
        warnings.extend(mix.as_ref().and_then(MixReach::warning));
        warnings.extend(places.warning());
        let mut report = PlanReport {
            small,
            domains,
            mix,
            places,
            checkpoint_bytes,
            written_bytes,
            tokens,
            train_flops,
            teacher_flops,
            eval_flops,
            seconds,
            warnings,
        };
        report.warnings.extend(report.full_disk(outline));
        report.warnings.extend(report.long_evaluations());
        report
    }

    /// Bytes that a run leaves on its disk at most: the last and the best checkpoint, one being written, the model.
    fn disk_bytes(&self) -> f64 {
        f64::from(STEPS_AT_ONCE) * self.checkpoint_bytes + self.written_bytes
    }

    fn full_disk(&self, outline: &Outline) -> Option<String> {
        let folder = &outline.config.run.directory;
        let free = folder.ancestors().find_map(|folder| available_bytes(folder).ok())?;
        ((free as f64) < self.disk_bytes()).then(|| {
            format!(
                "the run may take {} of disk, {} are free at {} (run.directory)",
                bytes(self.disk_bytes()),
                bytes(free as f64),
                folder.display()
            )
        })
    }

    fn long_evaluations(&self) -> Option<String> {
        let share = self.eval_flops? / self.train_flops;
        (share > 0.5).then(|| {
            format!(
                "evaluations take {:.0} % of the time of training; raise eval.every_steps or lower eval.rows_per_domain",
                100.0 * share
            )
        })
    }

    pub(super) fn text(&self, outline: &Outline) -> String {
        let train = &outline.config.train;
        let mut text = format!("{}\n", self.shapes(outline));
        if !self.domains.is_empty() {
            text.push_str(&format!("{}\n", rows::table(&self.domains)));
        }
        text.push_str(&self.mix.as_ref().and_then(MixReach::line).unwrap_or_default());
        let micro = train.batch_rows / train.micro_batch().max(1);
        let assumed = if outline.dataset.is_some() { "" } else { " (assumed)" };
        text.push_str(&format!(
            "{} steps × {} rows ({micro} micro-batch{} of {}) × {} tokens{assumed} = {} tokens\n",
            grouped(train.steps),
            train.batch_rows,
            if micro == 1 { "" } else { "es" },
            train.micro_batch(),
            outline.row_tokens,
            grouped(self.tokens as i64)
        ));
        text.push_str(&match self.eval_flops {
            Some(flops) => format!(
                "FLOPs: {:.3e} training + {flops:.3e} in {} evaluations ({:.1} %)\n",
                self.train_flops,
                evaluations(outline),
                100.0 * flops / self.train_flops
            ),
            None => format!("FLOPs: {:.3e} training; evaluations come on top\n", self.train_flops),
        });
        if let Some(flops) = self.teacher_flops {
            let share = 100.0 * flops / self.train_flops;
            text.push_str(&format!("of the training FLOPs the teacher's forward takes {flops:.3e} ({share:.1} %)\n"));
        }
        text.push_str(&match &self.seconds {
            Some((seconds, said)) => format!("time: about {} {said}\n", duration(*seconds)),
            None => "time: not known here; give --tokens-per-second, --tflops or --card\n".to_string(),
        });
        text.push_str(&format!("memory (estimated, {}): {}\n", computed(outline), self.places.memory));
        text.push_str(&self.places.text(outline.device));
        let (_, dtype) = written_dtype(outline);
        text.push_str(&format!(
            "disk: {} per checkpoint, up to three at a time\nwritten model: {}, {}\n",
            bytes(self.checkpoint_bytes),
            dtype.name(),
            bytes(self.written_bytes)
        ));
        text.push_str(&list("not checked", &outline.findings.not_checked));
        let stage = outline.stage.name();
        text.push_str(&list(&format!("{stage} would refuse this run"), &outline.findings.problems));
        text
    }

    fn shapes(&self, outline: &Outline) -> String {
        let mut models = vec![("now", &outline.model)];
        models.extend(self.small.as_ref().map(|small| ("target", small)));
        models.extend(outline.teacher.as_ref().map(|teacher| ("teacher", teacher)));
        let mut text = shape_table(&models).to_string();
        if let Some(spec) = &outline.spec {
            let (before, after) = (spec.prunable_params(), spec.target_prunable_params());
            let sparsity = 100.0 * (1.0 - after as f64 / before as f64);
            let mut table = Table::new(["mask", "rows", "units", "target"]);
            for module in spec.modules() {
                let numbers = [module.rows, module.size, module.target].map(|number| number.to_string());
                table.row(std::iter::once(module.module.to_string()).chain(numbers));
            }
            let (before, after) = (grouped(before), grouped(after));
            text.push_str(&format!("\n{table}prunable parameters {before} → {after} (sparsity {sparsity:.1} %)\n"));
        }
        text
    }

    pub(super) fn json(&self, outline: &Outline) -> Value {
        let model = |model: &ModelConfig| {
            json!({ "shape": shape_json(model), "parameters": ParameterCount::of(model),
                    "total_parameters": ParameterCount::of(model).total() })
        };
        let (_, written) = written_dtype(outline);
        json!({
            "stage": outline.stage.name(),
            "now": model(&outline.model),
            "target": self.small.as_ref().map(model),
            "teacher": outline.teacher.as_ref().map(model),
            "masks": outline.spec.as_ref().map(|spec| spec.modules()),
            "domains": self.domains.iter().map(DomainRows::json).collect::<Vec<_>>(),
            "mixer": self.mix.as_ref().map(MixReach::json),
            "steps": outline.config.train.steps,
            "row_tokens": outline.row_tokens,
            "tokens": self.tokens,
            "training_flops": self.train_flops,
            "teacher_flops": self.teacher_flops,
            "evaluation_flops": self.eval_flops,
            "seconds": self.seconds.as_ref().map(|(seconds, _)| seconds),
            "device": device::name(outline.device),
            "dtype": compute_dtype(outline.config.run.dtype, outline.device),
            "memory": self.places.memory,
            "memory_bytes": self.places.memory.total_bytes(),
            "fits": self.places.json(),
            "checkpoint_bytes": self.checkpoint_bytes,
            "written_dtype": written,
            "written_bytes": self.written_bytes,
            "disk_bytes": self.disk_bytes(),
            "problems": outline.findings.problems,
            "warnings": self.warnings,
            "not_checked": outline.findings.not_checked,
        })
    }
}

fn evaluations(outline: &Outline) -> u64 {
    Intervals::new(&outline.config, None).evaluations(outline.spec.is_some())
}

/// Tokens of all evaluations of a run, where the domains are known.
fn eval_tokens(outline: &Outline) -> Option<f64> {
    let config = &outline.config;
    let rows = match &outline.dataset {
        Some(dataset) => rows_read(dataset, config.eval.rows_per_domain),
        None if outline.domains.is_empty() => return None,
        None => (outline.domains.len() * config.eval.rows_per_domain) as u64,
    };
    let evaluations = evaluations(outline);
    Some(evaluations as f64 * rows as f64 * outline.row_tokens as f64)
}

fn computed(outline: &Outline) -> String {
    let place = if outline.device.is_cuda() { "GPU" } else { "CPU" };
    format!("{} on a {place}", compute_dtype(outline.config.run.dtype, outline.device).name())
}

fn list(title: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("{title}:\n{}", lines.iter().map(|line| format!("  {line}\n")).collect::<String>())
}
