//! `shearling demo`: the whole job on generated text (or the user's), with two honest baselines on the same tokens.
//!
//! ```text
//! text ─► data ─► source (from scratch) ─► prune ─► recovered
//!                    │                                 ║ compared on the held-out rows of every domain
//!                    ├─► one-shot cut (activations, principal basis) ─► continued on as many tokens ─► lte: half of its units
//!                    └── target shape from scratch, on as many tokens
//! ```
//!
//! Every stage is an ordinary run with a configuration that is written beside it, so each can be looked at, changed
//! and repeated with `shearling prune`, `pretrain` and `lte train`.

mod recipe;
mod report;
mod table;

use super::ExitStatus;
use super::data::{PrepareProgress, folders, summary};
use super::eval::evaluate_folder;
use super::execute::execute;
use super::finish::finish;
use super::refusal::Origin;
use crate::cli::Printer;
use crate::cli::arguments::Demo;
use crate::config::{RunConfig, Stage, resolved_toml};
use crate::eval::report::ModelResult;
use crate::eval::statistics::estimate;
use crate::eval::{EvalRows, RowLosses};
use crate::export::Written;
use crate::files::write_atomic;
use crate::hf::Checkpoint;
use crate::inspect::{RunHistory, RunSummary};
use crate::lte::{file, pack};
use crate::native::runtime::device;
use crate::prune::Equivalence;
use crate::run_dir::layout::METRICS;
use crate::run_dir::record::What;
use crate::train::metrics::records;
use crate::train::saved_run::is_free;
use anyhow::Context;
use recipe::Recipe;
use serde_json::json;
use shearling_domains::{Dataset, PrepareConfig, TokenizerSource, prepare, synthetic};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `shearling demo`
pub fn run(arguments: &Demo) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(arguments.json);
    if !(arguments.scale.is_finite() && arguments.scale > 0.0) {
        anyhow::bail!("--scale {} must be a positive number", arguments.scale);
    }
    if !is_free(&arguments.out) {
        anyhow::bail!("{} exists already; choose another --out", arguments.out.display());
    }
    let started = Instant::now();
    let demo = Stages::new(arguments, printer)?;
    let results = match demo.run() {
        Err(error) => return finish(Err(error), &Origin::Run(arguments.out.join("prune")), &printer),
        Ok(results) => results,
    };
    let Some(results) = results else {
        anyhow::bail!(
            "the demo was interrupted: the stages so far are in {}, but a demo does not resume; start another with \
             another --out",
            arguments.out.display()
        );
    };
    let page = report::write(&results, &demo.dataset, &arguments.device, &printer)?;
    let seconds = started.elapsed().as_secs_f64();
    printer.data(table::text(&results, seconds), || table::json(&results, seconds));
    printer.note(format!("to see what was learned, open {} in a browser", page.display()));
    let rerun = demo.recipe.folder.join("prune.toml");
    printer.note(format!("to repeat a stage: shearling prune --config {} --set run.directory=NEW", rerun.display()));
    Ok(ExitStatus::Done)
}

/// What the demo ends with.
struct Results {
    domains: Vec<String>,
    source: ModelResult,
    pruned: ModelResult,
    recovered: ModelResult,
    scratch: ModelResult,
    one_shot: ModelResult,
    /// The one-shot cut, taught to run half of its units.
    lte: ModelResult,
    /// The share that it runs on held-out rows.
    density: f64,
    /// Tokens per second decoded by the dense model and by it.
    speeds: [f64; 2],
    equivalence: Equivalence,
    one_shot_equivalence: Equivalence,
    proportions: BTreeMap<String, f64>,
    run: PathBuf,
    recipe: Recipe,
}

impl Results {
    /// The models under the names of the final table.
    fn models(&self) -> [(&'static str, &ModelResult); 5] {
        [
            ("source", &self.source),
            ("just pruned", &self.pruned),
            ("recovered", &self.recovered),
            ("from scratch", &self.scratch),
            ("one-shot cut", &self.one_shot),
        ]
    }
}

struct Stages {
    recipe: Recipe,
    dataset: Dataset,
    rows: Vec<EvalRows>,
    printer: Printer,
    device: tch::Device,
}

impl Stages {
    fn new(arguments: &Demo, printer: Printer) -> anyhow::Result<Stages> {
        let device = device::parse(&arguments.device)?;
        let recipe = Recipe::new(&arguments.out, &arguments.device, arguments.seed, arguments.scale);
        let dataset = prepare_data(&recipe, arguments.data.as_deref(), &printer)?;
        let rows = EvalRows::load(&dataset, recipe.final_rows(), device)?;
        Ok(Stages { recipe, dataset, rows, printer, device })
    }

    /// All stages; `None` when one was interrupted.
    fn run(&self) -> anyhow::Result<Option<Results>> {
        let recipe = &self.recipe;
        self.printer.note(format!("1/6 a source model of {} layers, from scratch", recipe.source_layers()));
        let Some(source) = self.stage("source", recipe.source(), Stage::Pretrain)? else { return Ok(None) };
        let source_losses = self.evaluate(&source.path)?;
        let references = references(&source_losses, recipe.eval_rows());

        self.printer.note("2/6 prune it by learned masks");
        let prune = recipe.prune(&source.path, &references);
        let Some(pruned) = self.stage("prune", prune, Stage::Prune)? else { return Ok(None) };
        self.printer.note("3/6 continue the pruned model");
        let recover = recipe.recover(&pruned.path, &references);
        let Some(recovered) = self.stage("recover", recover, Stage::Pretrain)? else { return Ok(None) };

        self.printer.note("4/6 baseline: the target shape from scratch, on as many tokens");
        let scratch = recipe.scratch(&references);
        let Some(scratch) = self.stage("scratch", scratch, Stage::Pretrain)? else { return Ok(None) };

        self.printer
            .note("5/6 baseline: a one-shot cut by activations in the principal basis, continued on as many tokens");
        let cut = recipe.one_shot(&source.path);
        let Some(cut) = self.stage("one-shot", cut, Stage::Prune)? else { return Ok(None) };
        let continued = recipe.one_shot_recover(&cut.path, &references);
        let Some(one_shot) = self.stage("one-shot-recover", continued, Stage::Pretrain)? else { return Ok(None) };

        self.printer.note("6/6 teach that model to run half of its intermediate units");
        let lte = recipe.lte(&one_shot.path, &references);
        let Some(lte) = self.stage("lte", lte, Stage::Lte)? else { return Ok(None) };

        let packed = self.packed(&lte.path)?;
        let speeds = report::lte_speeds(&one_shot.path, &packed, recipe.device(), &self.printer)?;

        Ok(Some(Results {
            domains: self.dataset.domain_names().to_vec(),
            pruned: self.evaluate(&pruned.path)?,
            recovered: self.evaluate(&recovered.path)?,
            scratch: self.evaluate(&scratch.path)?,
            one_shot: self.evaluate(&one_shot.path)?,
            lte: self.evaluate(&lte.path)?,
            density: final_density(&recipe.folder.join("lte"))?,
            speeds,
            source: source_losses,
            equivalence: pruned.equivalence.context("the pruned model was not checked")?,
            one_shot_equivalence: cut.equivalence.context("the cut model was not checked")?,
            proportions: final_proportions(&recipe.folder.join("recover"))?,
            run: recipe.folder.join("prune"),
            recipe: recipe.clone(),
        }))
    }

    /// The layout for decoding of an LTE folder.
    fn packed(&self, model: &Path) -> anyhow::Result<PathBuf> {
        let checkpoint = Checkpoint::open(model)?;
        let experts = file::read(model, checkpoint.model(), tch::Device::Cpu)?.context("the model was not taught")?;
        let out = self.recipe.folder.join("lte").join("packed");
        Ok(pack::write(&checkpoint, &experts, &out, &mut |_, _| ())?.folder)
    }

    /// Writes the configuration beside the run, then runs it.
    fn stage(&self, name: &str, config: RunConfig, stage: Stage) -> anyhow::Result<Option<Written>> {
        let path = self.recipe.folder.join(format!("{name}.toml"));
        write_atomic(&path, resolved_toml(&config)?.as_bytes())?;
        execute(config, stage, false, None, &self.printer).with_context(|| format!("stage {name}"))
    }

    fn evaluate(&self, model: &Path) -> anyhow::Result<ModelResult> {
        evaluate_folder(model, &self.dataset, &self.rows, self.recipe.micro_batch(), tch::Kind::Float, self.device)
    }
}

fn prepare_data(recipe: &Recipe, text: Option<&Path>, printer: &Printer) -> anyhow::Result<Dataset> {
    let domains = match text {
        Some(folder) => folders(folder)?,
        None => {
            let folder = recipe.folder.join("text");
            printer.note(format!("generating text in {}", folder.display()));
            synthetic::write_domains(&folder, recipe.bytes_per_domain(), recipe.seed)?
        }
    };
    let tokenizer = TokenizerSource::Train(recipe.vocab_size());
    let mut config = PrepareConfig::new(domains, &recipe.data, tokenizer, recipe.sequence_length());
    config.seed = recipe.seed;
    prepare(&config, &PrepareProgress::default())?;
    let dataset = Dataset::open(&recipe.data)?;
    printer.note(summary(&dataset));
    Ok(dataset)
}

/// Losses on the first `rows` rows, those that the runs evaluate: on others the source itself would have excess losses.
fn references(source: &ModelResult, rows: usize) -> BTreeMap<String, f64> {
    let mean = |domain: &RowLosses| {
        let first: Vec<f64> = domain.rows.iter().take(rows).copied().collect();
        Some((domain.domain.clone(), estimate(&first)?.mean))
    };
    source.domains.iter().filter_map(mean).collect()
}

/// Proportions of the last step of a run.
fn final_proportions(run: &Path) -> anyhow::Result<BTreeMap<String, f64>> {
    let summary = RunSummary::of(&RunHistory::read(run)?);
    Ok(summary.domains.into_iter().map(|domain| (domain.domain, domain.last_proportion.unwrap_or(0.0))).collect())
}

/// The share of units that ran at the last evaluation of a run.
fn final_density(run: &Path) -> anyhow::Result<f64> {
    let mut evaluations = records(&run.join(METRICS))?.into_iter().filter_map(|record| match record.what {
        What::Eval(eval) => eval.experts.and_then(|experts| experts.density),
        _ => None,
    });
    evaluations.next_back().context("the lte run has no evaluation with experts")
}

/// JSON of an evaluated model.
fn losses_json(evaluated: &ModelResult) -> serde_json::Value {
    json!({ "model": evaluated.model, "parameters": evaluated.parameters, "domains": evaluated.losses() })
}
