//! Everything that the two files say, decided.

use super::budget::{Budget, Stage, Stages};
use super::rows::Rows;
use super::shape::{self, Wish};
use super::speed::Place;
use super::text;
use crate::checkpoint::{HfConfig, HfModel};
use crate::cli::arguments::Init;
use crate::cli::table::bytes;
use crate::commands::model_folder::model_folder;
use crate::commands::prepared_data::open_prepared;
use crate::config::{self, MomentKind, RunConfig};
use crate::model::count::ParameterCount;
use crate::prune::shape::{resized, source_shape};
use crate::train::fit::{Fit, Settings, fitting};
use crate::train::memory::{MemoryEstimate, checkpoint_bytes};
use anyhow::Context;
use shearling_domains::{Dataset, Split};
use shearling_masks::{MaskSpec, Shape};
use std::path::{Path, PathBuf};

/// Rows of a forward beyond which a device is not faster.
const MOST_MICRO_ROWS: usize = 16;
/// How often a row may be seen, if the data allow it.
const EPOCHS: f64 = 4.0;
/// Domains that are assumed while there is no data.
const ASSUMED_DOMAINS: u64 = 7;
/// Part of the training rows that evaluations may forward; each costs a third of a step's.
const EVALUATED: f64 = 0.3;

/// The least memory without a loss of precision: what is written where nothing fits.
const ONE_ROW: Settings =
    Settings { micro_batch_rows: 1, activation_checkpointing: 1, moments: MomentKind::Fp32, moments_on_host: false };

/// What both files say.
#[derive(Debug)]
pub(super) struct Recipe {
    /// What the model is called.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: PathBuf,
    pub(super) model: HfModel,
    pub(super) target: HfModel,
    pub(super) shape: Shape,
    /// Parameters asked for.
    pub(super) asked: Option<u64>,
    /// For which machine, in words.
    pub(super) place: String,
    /// At which speed times are meant, in words.
    pub(super) rate_said: String,
    pub(super) dtype: &'static str,
    pub(super) row_tokens: i64,
    pub(super) reference_file: Option<PathBuf>,
    pub(super) export_bf16: bool,
    pub(super) file: PathBuf,
    pub(super) next_file: PathBuf,
    pub(super) prune: Part,
    pub(super) next: Part,
    pub(super) warnings: Vec<String>,
}

/// What one file says.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) stage: Stage,
    pub(super) directory: PathBuf,
    pub(super) data: PathBuf,
    /// `None` while there is no data.
    pub(super) rows: Option<Rows>,
    pub(super) max_epochs: f64,
    pub(super) eval_every: u64,
    pub(super) eval_rows: u64,
    pub(super) save_every: u64,
    pub(super) settings: Settings,
    pub(super) memory_said: String,
    pub(super) disk_said: String,
    pub(super) seconds: Option<f64>,
}

impl Recipe {
    /// From the command line; reads the model's config.json and the manifest of the data, and measures this machine
    /// unless a card is named.
    pub(super) fn new(arguments: &Init) -> anyhow::Result<Recipe> {
        let folder = folder_of(&arguments.model)?;
        let model = HfConfig::read(&folder.join(HfConfig::FILE_NAME))?.model()?;
        let shape = shape::find(&model, &wish(arguments))?;
        let spec = MaskSpec::new(&source_shape(&model), &shape)?;
        if spec.modules().is_empty() {
            anyhow::bail!("nothing to prune: give --target-params, or a size that is smaller than the model's");
        }
        let target = resized(&model, &shape);
        let name = name_of(&folder);
        let data = arguments.data.clone().unwrap_or_else(|| Path::new("data").join(&name));
        let next_data = arguments.continue_data.clone().unwrap_or_else(|| data.clone());
        let (dataset, next_dataset) = (open(&data)?, open(&next_data)?);
        let place = Place::new(arguments.card.as_deref())?;
        let row_tokens = row_tokens(arguments, &model, &place, [&dataset, &next_dataset])?;
        let budget = budget(arguments, &place)?;
        let mut stages = Stages::new(&model, &target, row_tokens, budget);
        let mut warnings = Vec::new();
        if stages.exceeded {
            warnings.push(too_small(&stages, &place));
        }
        let file = arguments
            .out
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("{name}-to-{}.toml", short(ParameterCount::of(&target).total()))));
        let next_file = continued(&file)?;
        let [epochs, next_epochs] = [(&dataset, &mut stages.prune, 300), (&next_dataset, &mut stages.next, 100)].map(
            |(dataset, stage, least)| match dataset {
                Some(dataset) => within(dataset, stage, least),
                None => EPOCHS,
            },
        );
        let run = Path::new("runs").join(file.file_stem().unwrap_or_default());
        let next_run = Path::new("runs").join(next_file.file_stem().unwrap_or_default());
        let seconds = place.flops.map(|flops| stages.seconds(flops));
        let part = |stage: Stage, directory: PathBuf, data: PathBuf, dataset: &Option<Dataset>, max_epochs, seconds| {
            let rows = dataset.as_ref().map(|dataset| Rows::new(dataset, stage.rows(), max_epochs));
            Part::new(stage, directory, data, rows, max_epochs, seconds)
        };
        let mut recipe = Recipe {
            prune: part(stages.prune, run, data, &dataset, epochs, seconds.map(|both| both[0])),
            next: part(stages.next, next_run, next_data, &next_dataset, next_epochs, seconds.map(|both| both[1])),
            asked: arguments.target_params,
            place: place.name.clone(),
            rate_said: place.rate_said.clone(),
            dtype: place.dtype_name(),
            export_bf16: model.dtype.is_none_or(|dtype| dtype != crate::checkpoint::DType::F32),
            reference_file: arguments.reference_file.clone(),
            name,
            folder,
            model,
            target,
            shape,
            row_tokens,
            file,
            next_file,
            warnings,
        };
        recipe.fit(&place)?;
        Ok(recipe)
    }

    /// The configurations as they would be read.
    pub(super) fn configs(&self) -> anyhow::Result<[RunConfig; 2]> {
        let parse = |text: String, file: &Path| config::parse(&text, &file.display().to_string(), &[]);
        Ok([parse(text::prune(self), &self.file)?, parse(text::next(self), &self.next_file)?])
    }

    /// How to plan a stage; without data the length of its rows has to be said.
    pub(super) fn plan_command(&self, file: &Path, part: &Part) -> String {
        let rows = if part.rows.is_none() { format!(" --sequence-length {}", self.row_tokens) } else { String::new() };
        format!("shearling plan --config {}{rows}", file.display())
    }

    /// Chooses rows per forward and what else memory asks for.
    fn fit(&mut self, place: &Place) -> anyhow::Result<()> {
        let [prune, next] = self.configs()?;
        for (config, part, model) in [(prune, &mut self.prune, &self.model), (next, &mut self.next, &self.target)] {
            let found = place
                .memory_bytes
                .and_then(|bytes| fitting(&config, model, self.row_tokens, place.device, bytes, MOST_MICRO_ROWS));
            part.settings = found.unwrap_or(ONE_ROW);
            let chosen = part.settings.applied(&config);
            let estimate = MemoryEstimate::new(model, &chosen, self.row_tokens, place.device);
            let taken = bytes(estimate.total_bytes());
            part.memory_said = format!("rows per forward: about {taken} in all");
            part.disk_said = format!("{} each, up to three at a time", bytes(checkpoint_bytes(model, &chosen)));
            if let Some(memory) = place.memory_bytes.filter(|_| found.is_none()) {
                let fit = Fit::of(&estimate, memory, place.device);
                self.warnings.push(format!(
                    "{} takes about {taken} even with one row at a time and blocks computed again; {} {}",
                    part.directory.display(),
                    place.name,
                    if fit == Fit::Tight { "only just has that" } else { "has less" }
                ));
            }
        }
        Ok(())
    }
}

impl Part {
    fn new(
        stage: Stage,
        directory: PathBuf,
        data: PathBuf,
        rows: Option<Rows>,
        max_epochs: f64,
        seconds: Option<f64>,
    ) -> Part {
        let domains = rows.as_ref().map_or(ASSUMED_DOMAINS, |rows| rows.shares().count() as u64);
        let eval_every = (stage.steps / 6).clamp(1, if stage.steps > 10_000 { 400 } else { 50 });
        let evaluations = stage.steps / eval_every + 2;
        let fits = |rows: &u64| (evaluations * domains * rows) as f64 <= EVALUATED * stage.rows() as f64;
        let eval_rows = [64, 32, 16, 8].into_iter().find(fits).unwrap_or(4);
        Part {
            stage,
            directory,
            data,
            rows,
            max_epochs,
            eval_every,
            eval_rows,
            save_every: (stage.steps / 4).clamp(1, 3200),
            settings: ONE_ROW,
            memory_said: String::new(),
            disk_said: String::new(),
            seconds,
        }
    }
}

/// The folder of the model: itself, the one that holds the given config.json, or what a run has written.
fn folder_of(path: &Path) -> anyhow::Result<PathBuf> {
    let is_config = path.is_file() && path.file_name().is_some_and(|name| name == HfConfig::FILE_NAME);
    if !is_config {
        return model_folder(path);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(parent.unwrap_or(Path::new(".")).to_path_buf())
}

/// What a folder is called, also if it is given as `.`; the model that a run wrote is called as the run.
fn name_of(folder: &Path) -> String {
    let absolute = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let named = absolute.iter().rev().map(|part| part.to_string_lossy().into_owned());
    let written = [crate::commands::run::MODEL, crate::commands::run::PRUNED];
    named.into_iter().find(|name| !written.contains(&name.as_str()) && name != "/").unwrap_or("model".to_string())
}

fn wish(arguments: &Init) -> Wish {
    let size = |size: Option<std::num::NonZeroU32>| size.map(|size| i64::from(size.get()));
    Wish {
        parameters: arguments.target_params.map(|count| count.min(i64::MAX as u64) as i64),
        hidden_size: size(arguments.hidden_size),
        intermediate_size: size(arguments.intermediate_size),
        layers: size(arguments.layers),
        heads: size(arguments.heads),
        kv_heads: size(arguments.kv_heads),
    }
}

/// The prepared data, if it is there.
fn open(path: &Path) -> anyhow::Result<Option<Dataset>> {
    path.exists().then(|| open_prepared(path)).transpose()
}

/// Tokens per row: the data's, or as asked, or 4,096 on a GPU and 1,024 on a CPU, where attention is slow.
fn row_tokens(arguments: &Init, model: &HfModel, place: &Place, data: [&Option<Dataset>; 2]) -> anyhow::Result<i64> {
    let found: Vec<i64> = data.into_iter().flatten().map(|data| data.sequence_length() as i64).collect();
    let asked = arguments.sequence_length.map(|tokens| i64::from(tokens.get()));
    if let Some((found, asked)) = found.first().zip(asked).filter(|(found, asked)| *found != asked) {
        anyhow::bail!("--sequence-length {asked}, but the data has rows of {found} tokens; leave the option out");
    }
    let default = if place.device.is_cuda() { 4096 } else { 1024 };
    let tokens = found.into_iter().max().or(asked).unwrap_or(default.min(model.max_position_embeddings));
    if tokens > model.max_position_embeddings {
        anyhow::bail!(
            "rows of {tokens} tokens, but the model takes at most {} (max_position_embeddings)",
            model.max_position_embeddings
        );
    }
    Ok(tokens)
}

fn budget(arguments: &Init, place: &Place) -> anyhow::Result<Budget> {
    if let Some(tokens) = arguments.tokens {
        return Ok(Budget::Tokens(tokens as f64));
    }
    let hours = arguments.hours.unwrap_or(if place.device.is_cuda() { 24.0 } else { 1.0 });
    if !(hours.is_finite() && hours > 0.0) {
        anyhow::bail!("--hours {hours} must be a positive number");
    }
    let rate = place.flops.with_context(|| format!("the speed of {} is not known; give --tokens", place.name))?;
    Ok(Budget::Flops(hours * 3600.0 * rate))
}

fn too_small(stages: &Stages, place: &Place) -> String {
    let takes = match place.flops {
        Some(flops) => format!(" and take about {}", crate::cli::table::duration(stages.seconds(flops).iter().sum())),
        None => String::new(),
    };
    format!("the budget is less than masks need to settle: the files have the fewest steps that do{takes}")
}

/// Shortens a stage to what its data allow, at `EPOCHS` each row, but not below `least` steps: then rows are seen more
/// often. Gives the epochs.
fn within(dataset: &Dataset, stage: &mut Stage, least: u64) -> f64 {
    let rows: u64 = (0..dataset.domain_names().len()).map(|domain| dataset.rows(domain, Split::Train)).sum();
    // A tenth is left over: shares are rounded, and every domain keeps below its own limit.
    let most = (rows as f64 * EPOCHS * 0.9 / stage.batch_rows as f64) as u64;
    let steps = stage.steps.min(most.max(least));
    stage.flops *= steps as f64 / stage.steps as f64;
    stage.steps = steps;
    EPOCHS.max((stage.rows() as f64 / (rows.max(1) as f64 * 0.9)).ceil())
}

/// `NAME-continue.toml` beside `NAME.toml`.
fn continued(file: &Path) -> anyhow::Result<PathBuf> {
    let stem = file.file_stem().with_context(|| format!("--out {} names no file", file.display()))?;
    Ok(file.with_file_name(format!("{}-continue.toml", stem.to_string_lossy())))
}

/// `51M`, `1.3B`.
fn short(count: i64) -> String {
    let count = count as f64;
    let number = |value: f64| if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
    match count {
        _ if count >= 1e9 => format!("{}B", number(count / 1e9)),
        _ if count >= 1e6 => format!("{}M", number(count / 1e6)),
        _ => format!("{}k", number(count / 1e3)),
    }
}
