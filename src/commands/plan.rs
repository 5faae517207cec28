//! `shearling plan`: everything a run will be, before it starts. Opens the files the run would open and refuses what
//! the run would refuse, an existing run folder apart; writes nothing.

use super::Verdict;
use super::inspect::{shape_json, shape_table};
use super::plan_mix::MixReach;
use super::run::load;
use crate::checkpoint::{DType, HfModel};
use crate::cli::Printer;
use crate::cli::arguments::Plan;
use crate::cli::table::{Table, bytes, duration, grouped};
use crate::config::{Dtype, PruneMethod, RunConfig, Stage};
use crate::eval::rows_read;
use crate::model::count::{ParameterCount, training_flops_per_token};
use crate::native::device;
use crate::prune::shape;
use crate::train::Setup;
use crate::train::memory::{MemoryEstimate, checkpoint_bytes};
use crate::train::written::written_dtype;
use serde_json::{Value, json};
use shearling_domains::{MixerKind, Split, rows_needed};

/// `shearling plan`
pub fn run(arguments: &Plan) -> anyhow::Result<Verdict> {
    let printer = Printer::new(arguments.json);
    for (name, rate) in [("tokens-per-second", arguments.tokens_per_second), ("tflops", arguments.tflops)] {
        if let Some(rate) = rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            anyhow::bail!("--{name} {rate} must be a positive number");
        }
    }
    let config = load(&arguments.config)?;
    let stage = if config.target.is_some() { Stage::Prune } else { Stage::Pretrain };
    // Shapes and rows do not depend on the device.
    let setup = Setup::new(config, stage, tch::Device::Cpu)?;
    let report = Report::new(&setup, arguments)?;
    printer.data(report.text(&setup), || report.json(&setup));
    for warning in &report.warnings {
        printer.warn(warning);
    }
    Ok(Verdict::Done)
}

/// What a domain needs and has.
struct DomainRows {
    name: String,
    proportion: f64,
    needed: u64,
    available: u64,
}

impl DomainRows {
    fn epochs(&self) -> f64 {
        self.needed as f64 / self.available.max(1) as f64
    }
}

/// The answer.
struct Report {
    small: Option<HfModel>,
    domains: Vec<DomainRows>,
    mix: MixReach,
    memory: MemoryEstimate,
    checkpoint_bytes: f64,
    written: Dtype,
    tokens: f64,
    train_flops: f64,
    eval_flops: f64,
    seconds: Option<f64>,
    warnings: Vec<String>,
}

impl Report {
    fn new(setup: &Setup, arguments: &Plan) -> anyhow::Result<Report> {
        let config = &setup.config;
        let small = setup.spec.as_ref().map(|spec| shape::resized(&setup.model, spec.target()));
        let domains = domain_rows(setup);
        let row_tokens = setup.dataset.sequence_length() as i64;
        let tokens = config.train.steps as f64 * config.train.batch_rows as f64 * row_tokens as f64;
        let per_token = training_flops_per_token(&setup.model, row_tokens);
        let evaluations = (config.train.steps / config.eval.every_steps + 1) as f64;
        let eval_tokens =
            evaluations * rows_read(&setup.dataset, config.eval.rows_per_domain) as f64 * row_tokens as f64;
        // A forward is a third of a step's FLOPs.
        let (train_flops, eval_flops) = (per_token * tokens, per_token / 3.0 * eval_tokens);
        let seconds = match (arguments.tokens_per_second, arguments.tflops) {
            (Some(rate), _) => Some((tokens + eval_tokens / 3.0) / rate),
            (None, Some(tflops)) => Some((train_flops + eval_flops) / (tflops * 1e12)),
            (None, None) => None,
        };
        let memory = MemoryEstimate::new(&setup.model, config, row_tokens, planned_device(config));
        let mix = MixReach::new(setup)?;
        let mut warnings = warnings(setup, small.as_ref(), &domains, &mix);
        warnings.extend(mix.warning());
        let checkpoint_bytes = checkpoint_bytes(&setup.model, config);
        let written = written_dtype(config, setup.stage)?;
        Ok(Report {
            small,
            domains,
            mix,
            memory,
            checkpoint_bytes,
            written,
            tokens,
            train_flops,
            eval_flops,
            seconds,
            warnings,
        })
    }

    fn text(&self, setup: &Setup) -> String {
        let train = &setup.config.train;
        let mut models = vec![("now", &setup.model)];
        models.extend(self.small.as_ref().map(|small| ("target", small)));
        let mut text = format!("{}\n", shape_table(&models));
        if let Some(spec) = &setup.spec {
            let (before, after) = (spec.prunable_params(), spec.target_prunable_params());
            let sparsity = 100.0 * (1.0 - after as f64 / before as f64);
            let mut table = Table::new(["mask", "rows", "units", "target"]);
            for module in spec.modules() {
                let numbers = [module.rows, module.size, module.target].map(|number| number.to_string());
                table.row(std::iter::once(module.module.to_string()).chain(numbers));
            }
            let (before, after) = (grouped(before), grouped(after));
            text.push_str(&format!("{table}prunable parameters {before} → {after} (sparsity {sparsity:.1} %)\n\n"));
        }
        text.push_str(&format!("{}\n", self.domains_table()));
        text.push_str(&self.mix.line().unwrap_or_default());
        let micro = train.batch_rows / train.micro_batch();
        text.push_str(&format!(
            "{} steps × {} rows ({micro} micro-batches of {}) × {} tokens = {} tokens\n",
            grouped(train.steps),
            train.batch_rows,
            train.micro_batch(),
            setup.dataset.sequence_length(),
            grouped(self.tokens as i64)
        ));
        text.push_str(&format!(
            "FLOPs: {:.3e} training + {:.3e} evaluation ({:.1} %)\n",
            self.train_flops,
            self.eval_flops,
            100.0 * self.eval_flops / self.train_flops
        ));
        text.push_str(&match self.seconds {
            Some(seconds) => format!("time at the given rate: {}\n", duration(seconds)),
            None => "time: give --tokens-per-second or --tflops\n".to_string(),
        });
        text.push_str(&format!("memory (estimate): {}\n", self.memory));
        text.push_str(&format!("disk: {} per checkpoint, up to three at a time\n", bytes(self.checkpoint_bytes)));
        let model = self.small.as_ref().unwrap_or(&setup.model);
        let weights = DType::from(self.written).bytes() as f64 * ParameterCount::of(model).total() as f64;
        text.push_str(&format!("written model: {}, {}\n", self.written.name(), bytes(weights)));
        text
    }

    fn domains_table(&self) -> Table {
        let mut table = Table::new(["domain", "share", "rows needed", "rows there", "epochs"]);
        for domain in &self.domains {
            table.row([
                domain.name.clone(),
                format!("{:.4}", domain.proportion),
                grouped(domain.needed),
                grouped(domain.available),
                format!("{:.2}", domain.epochs()),
            ]);
        }
        table
    }

    fn json(&self, setup: &Setup) -> Value {
        let model = |model: &HfModel| {
            json!({ "shape": shape_json(model), "parameters": ParameterCount::of(model),
                    "total_parameters": ParameterCount::of(model).total() })
        };
        let domain = |domain: &DomainRows| {
            json!({ "domain": domain.name, "proportion": domain.proportion, "rows_needed": domain.needed,
                    "rows_available": domain.available, "epochs": domain.epochs() })
        };
        json!({
            "now": model(&setup.model),
            "target": self.small.as_ref().map(model),
            "masks": setup.spec.as_ref().map(|spec| spec.modules()),
            "domains": self.domains.iter().map(domain).collect::<Vec<_>>(),
            "mixer": self.mix.json(),
            "steps": setup.config.train.steps,
            "tokens": self.tokens,
            "training_flops": self.train_flops,
            "evaluation_flops": self.eval_flops,
            "seconds": self.seconds,
            "memory": self.memory,
            "checkpoint_bytes": self.checkpoint_bytes,
            "written_dtype": self.written,
            "warnings": self.warnings,
        })
    }
}

/// Where the run would be: the plan for a GPU may be made where there is none.
fn planned_device(config: &RunConfig) -> tch::Device {
    device::parse(&config.run.device).unwrap_or(tch::Device::Cuda(0))
}

fn domain_rows(setup: &Setup) -> Vec<DomainRows> {
    let train = &setup.config.train;
    let needed = rows_needed(&setup.proportions, train.batch_rows, train.steps);
    let names = setup.dataset.domain_names().iter().enumerate();
    let domain = |(index, name): (usize, &String)| DomainRows {
        name: name.clone(),
        proportion: setup.proportions[index],
        needed: needed[index],
        available: setup.dataset.rows(index, Split::Train),
    };
    names.map(domain).collect()
}

fn warnings(setup: &Setup, small: Option<&HfModel>, domains: &[DomainRows], mix: &MixReach) -> Vec<String> {
    let config = &setup.config;
    let mut warnings = setup.warnings();
    if config.target.is_some() && config.prune.method == PruneMethod::Magnitude {
        warnings
            .push("prune.method = \"magnitude\" cuts at once: no step is taken and no checkpoint written".to_string());
    }
    for domain in domains.iter().filter(|domain| domain.epochs() > config.data.max_epochs) {
        warnings.push(format!(
            "domain {} needs {:.1} epochs at its first proportion, data.max_epochs = {}: it will run out and leave the mix",
            domain.name,
            domain.epochs(),
            config.data.max_epochs
        ));
    }
    if config.mixer.kind != MixerKind::Static {
        let rows = (config.train.steps * config.train.batch_rows as u64) as f64;
        for domain in domains {
            let most = domain.available as f64 * config.data.max_epochs / rows;
            if most < mix.highest(&domain.name) && domain.epochs() <= config.data.max_epochs {
                warnings.push(format!(
                    "domain {} can hold at most {:.1} % of the run before it runs out; the mixer may ask for more",
                    domain.name,
                    100.0 * most
                ));
            }
        }
    }
    let shapes =
        small.into_iter().flat_map(|m| [("hidden_size", m.hidden_size), ("intermediate_size", m.intermediate_size)]);
    for (key, value) in shapes.filter(|(_, value)| value % 64 != 0) {
        warnings.push(format!("target.{key} = {value} is no multiple of 64: slower on GPUs and in quantised formats"));
    }
    warnings.extend(mask_warnings(config));
    warnings
}

fn mask_warnings(config: &RunConfig) -> Option<String> {
    let warmup = config.masks.target_warmup(config.train.steps);
    (config.target.is_some() && warmup * 2 > config.train.steps).then(|| {
        format!(
            "masks.warmup_steps = {warmup} takes more than half of train.steps = {}: little time is left to settle",
            config.train.steps
        )
    })
}
