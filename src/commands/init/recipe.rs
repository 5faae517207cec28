//! Everything that the two files say, decided.

use super::budget::{Budget, CUT_SHARE, CutRows, LEAST_CONTINUE_STEPS, LEAST_PRUNE_STEPS, LEAST_TOP_K_STEPS, Stages};
use super::part::Part;
use crate::cli::arguments::{Init, Masks, TypedCount};
use crate::cli::table::{duration, estimated};
use crate::commands::model_folder::config_folder;
use crate::commands::plan;
use crate::commands::run_cost::RunCost;
use crate::commands::shapes::{Need, Wish, find};
use crate::commands::speed::Place;
use crate::config::{Prune, Stage as Command};
use crate::files::DType;
use crate::hf::{ModelConfig, RawConfig};
use crate::model::count::ParameterCount;
use crate::prune::shape::{planned_config, resized, source_shape};
use crate::train::Outline;
use crate::train::references::reference_rows;
use anyhow::Context;
use shearling_domains::Dataset;
use shearling_masks::{MaskPreset, MaskSpec, Shape};
use std::path::{Component, Path, PathBuf};

/// What both files say.
#[derive(Debug)]
pub(super) struct Recipe {
    /// What the model is called.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: PathBuf,
    pub(super) model: ModelConfig,
    pub(super) target: ModelConfig,
    pub(super) shape: Shape,
    /// Parameters asked for.
    pub(super) asked: Option<TypedCount>,
    /// For which machine, in words.
    pub(super) place: String,
    /// FLOP/s of training there, if known.
    flops: Option<f64>,
    /// The same in words.
    pub(super) rate_said: String,
    /// What `auto` comes to there.
    pub(super) dtype_said: String,
    pub(super) row_tokens: i64,
    pub(super) reference_file: Option<PathBuf>,
    /// Of the final model.
    pub(super) export: DType,
    pub(super) file: PathBuf,
    pub(super) next_file: PathBuf,
    /// Masks to learn; without them the source is cut at once.
    pub(super) masks: Option<MaskPreset>,
    /// Rows that a cut at once reads.
    pub(super) cut_rows: CutRows,
    /// Whether the budget is less than the fewest steps take.
    pub(super) exceeded: bool,
    pub(super) prune: Part,
    pub(super) next: Part,
    pub(super) warnings: Vec<String>,
}

impl Recipe {
    /// From the command line; reads the model's config.json and the manifest of the data, and measures this machine
    /// unless a card is named.
    pub(super) fn new(arguments: &Init) -> anyhow::Result<Recipe> {
        let place = Place::new(arguments.card.as_deref())?;
        let mut budget = budget(arguments, &place)?;
        let mut recipe = Recipe::within(arguments, &place, budget)?;
        // The cut and evaluations take their part of the time, and steps what is left of it.
        for _ in 0..MOST_ATTEMPTS {
            let (Budget::Flops(flops), Some(over)) = (budget, recipe.over_time(arguments.hours)) else { break };
            budget = Budget::Flops(flops / over);
            let shorter = Recipe::within(arguments, &place, budget)?;
            if shorter.exceeded {
                break;
            }
            recipe = shorter;
        }
        let warning = recipe.too_long(arguments.hours);
        recipe.warnings.extend(warning);
        Ok(recipe)
    }

    /// The same with a budget for the steps of both stages.
    fn within(arguments: &Init, place: &Place, budget: Budget) -> anyhow::Result<Recipe> {
        let folder = config_folder(&arguments.model)?;
        let model = RawConfig::read(&folder.join(RawConfig::FILE_NAME))?.model()?;
        let shape = find(&model, &wish(arguments))?;
        let spec = MaskSpec::new(&source_shape(&model), &shape)?;
        if spec.modules().is_empty() {
            anyhow::bail!("nothing to prune: give --target-params, or a size that is smaller than the model's");
        }
        let target = resized(&model, &shape);
        let name = name_of(&folder);
        let data = arguments.data.clone().unwrap_or_else(|| Path::new("data").join(&name));
        let next_data = arguments.continue_data.clone().unwrap_or_else(|| data.clone());
        let (dataset, next_dataset) = (open(&data)?, open(&next_data)?);
        let row_tokens = row_tokens(arguments, &model, place, [&dataset, &next_dataset])?;
        let masks = arguments.masks.map(preset);
        let stages = match masks {
            Some(preset) => Stages::new(&model, &target, row_tokens, budget, least_steps(preset)),
            None => Stages::after_a_cut(&model, &target, row_tokens, budget, usual_cut_rows().calibration),
        };
        let mut warnings = Vec::new();
        warnings.extend(place.busy.clone());
        let shorter = |preset| shorter_rows(&model, &target, row_tokens, budget, least_steps(preset));
        let exceeded = stages.exceeded.then(|| masks.and_then(shorter));
        warnings.extend(not_there(arguments, row_tokens));
        let file = arguments.out.clone().unwrap_or_else(|| {
            // By what was asked for: what results of it is near.
            let asked = arguments.target_params.as_ref();
            let count = asked.map_or(ParameterCount::of(&target).total(), |asked| asked.number as i64);
            PathBuf::from(format!("{name}-to-{}.toml", short(count)))
        });
        let next_file = continued(&file)?;
        let least = masks.map_or(1, least_steps);
        let mut prune = Part::new(Command::Prune, stages.prune, least, &file, data, dataset.as_ref());
        let (least, dataset) = (LEAST_CONTINUE_STEPS, next_dataset.as_ref());
        let mut next = Part::new(Command::Pretrain, stages.next, least, &next_file, next_data, dataset);
        let measured =
            arguments.reference_file.as_deref().filter(|file| file.is_file()).map(reference_rows).transpose()?;
        let measured = measured.flatten();
        if let Some(rows) = measured {
            prune.evaluate_on(rows, "held-out rows, as many as the reference losses were measured on");
        }
        // A cut at once evaluates nothing: then what the next stage has time for is what counts.
        if next.data == prune.data && (measured.is_some() || masks.is_some()) {
            // Reference losses hold for the rows that they were measured on.
            next.evaluate_on(prune.eval_rows, &prune.eval_rows_said);
        }
        let mut recipe = Recipe {
            prune,
            next,
            asked: arguments.target_params.clone(),
            place: place.name.clone(),
            flops: place.flops,
            rate_said: place.rate_said.clone(),
            dtype_said: place.dtype_said(),
            export: model.dtype.unwrap_or(DType::BF16),
            reference_file: arguments.reference_file.clone(),
            masks,
            cut_rows: usual_cut_rows(),
            exceeded: exceeded.is_some(),
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
        recipe.fit(place)?;
        recipe.time()?;
        recipe.shorten_the_cut(hours(arguments, place))?;
        if let Some(shorter) = exceeded {
            let warning = too_small(&recipe, shorter);
            recipe.warnings.push(warning);
        }
        Ok(recipe)
    }

    /// Lowers the rows of a cut at once until it takes its part of so many `hours` and no more, as far as they go.
    fn shorten_the_cut(&mut self, hours: Option<f64>) -> anyhow::Result<()> {
        let Some(hours) = hours.filter(|_| self.masks.is_none()) else { return Ok(()) };
        let most = CUT_SHARE * 3600.0 * hours;
        while self.prune.time.as_ref().is_some_and(|(seconds, _)| *seconds > most)
            && let Some(fewer) = self.cut_rows.fewer()
        {
            self.cut_rows = fewer;
            self.prune.stage.batch_rows = fewer.calibration;
            self.time()?;
        }
        Ok(())
    }

    /// Seconds of both stages.
    fn takes(&self) -> Option<f64> {
        Some(self.prune.time.as_ref()?.0 + self.next.time.as_ref()?.0)
    }

    /// By which factor both stages take longer than the `hours` that were given, where that is noticeable.
    fn over_time(&self, hours: Option<f64>) -> Option<f64> {
        Some(self.takes()? / (3600.0 * hours?)).filter(|over| *over > OVER_TIME)
    }

    /// What to say where they take longer all the same.
    fn too_long(&self, hours: Option<f64>) -> Option<String> {
        self.over_time(hours).filter(|_| !self.exceeded)?;
        let unknown = if self.next.rows.is_none() { ", evaluations not counted" } else { "" };
        Some(format!(
            "both stages take about {}{unknown}, more than the {} of --hours: the cut and evaluations alone leave little of it, \
             and fewer steps make no sense",
            duration(self.takes()?),
            duration(3600.0 * hours?)
        ))
    }

    /// Tells both stages how long they take, as `plan` counts it.
    fn time(&mut self) -> anyhow::Result<()> {
        let Some(rate) = self.flops else { return Ok(()) };
        let outlines = self.outlines()?;
        for (part, outline) in [&mut self.prune, &mut self.next].into_iter().zip(&outlines) {
            let cost = RunCost::of(outline);
            let seconds = cost.flops() / rate;
            part.time = Some((seconds, cost.time_said(seconds)));
        }
        Ok(())
    }

    /// Both stages as `plan` would see them, the second one only where the first has a target that can be reached.
    pub(super) fn outlines(&self) -> anyhow::Result<Vec<Outline>> {
        let source = RawConfig::read(&self.folder.join(RawConfig::FILE_NAME))?;
        let [prune, next] = self.configs()?;
        let device = crate::train::setup::Device::Cpu;
        let first = plan::outline(prune, device, Some(source.clone()), Some(self.row_tokens))?;
        let pruned = first.spec.as_ref().map(|spec| planned_config(&source, spec, DType::F32)).transpose()?;
        let second = pruned.map(|pruned| plan::outline(next, device, Some(pruned), Some(self.row_tokens)));
        Ok(std::iter::once(first).chain(second.transpose()?).collect())
    }

    /// How to plan a stage; without data the length of its rows has to be said.
    pub(super) fn plan_command(&self, file: &Path, part: &Part) -> String {
        let rows = if part.rows.is_none() { format!(" --sequence-length {}", self.row_tokens) } else { String::new() };
        format!("shearling plan --config {}{rows}", file.display())
    }
}

/// Rows of a cut at once with time enough.
pub(super) fn usual_cut_rows() -> CutRows {
    let usual = Prune::default();
    CutRows { calibration: usual.calibration_rows, check: usual.check_rows }
}

/// The name that a folder was given by, also if that was `.`; the model that a run wrote is called as the run.
fn name_of(folder: &Path) -> String {
    // A link is called as it is, not as what it leads to; only `..` has no name before it is followed.
    let followed = folder.components().any(|part| part == Component::ParentDir);
    let absolute = if followed { std::fs::canonicalize(folder) } else { std::path::absolute(folder) };
    let absolute = absolute.unwrap_or_else(|_| folder.to_path_buf());
    let named = absolute.iter().rev().map(|part| part.to_string_lossy().into_owned());
    let written = [crate::run_dir::layout::MODEL, crate::run_dir::layout::PRUNED];
    named.into_iter().find(|name| !written.contains(&name.as_str()) && name != "/").unwrap_or("model".to_string())
}

fn preset(masks: Masks) -> MaskPreset {
    match masks {
        Masks::TopK => MaskPreset::TopK,
        Masks::LlmShearing => MaskPreset::LlmShearing,
        Masks::Deterministic => MaskPreset::Deterministic,
    }
}

/// Steps of masks that a stage has at least.
pub(super) fn least_steps(preset: MaskPreset) -> u64 {
    match preset {
        MaskPreset::TopK | MaskPreset::Deterministic => LEAST_TOP_K_STEPS,
        MaskPreset::LlmShearing => LEAST_PRUNE_STEPS,
    }
}

fn wish(arguments: &Init) -> Wish {
    let size = |size: Option<std::num::NonZeroU32>| size.map(|size| i64::from(size.get()));
    Wish {
        need: arguments.target_params.as_ref().map(|asked| Need::Parameters(asked.number.min(i64::MAX as u64) as i64)),
        hidden_size: size(arguments.hidden_size),
        intermediate_size: size(arguments.intermediate_size),
        layers: size(arguments.layers),
        heads: size(arguments.heads),
        kv_heads: size(arguments.kv_heads),
    }
}

/// Files that were named and are not there, in case their names are misspelt.
fn not_there(arguments: &Init, row_tokens: i64) -> Vec<String> {
    let data = [("--data", arguments.data.as_deref()), ("--continue-data", arguments.continue_data.as_deref())];
    let missing =
        data.into_iter().filter_map(|(option, path)| Some((option, path?))).filter(|(_, path)| !path.exists());
    let mut said: Vec<String> = missing
        .map(|(option, path)| {
            format!(
                "{option}: there is no {} yet: rows of {row_tokens} tokens are assumed, and domains that are alike",
                path.display()
            )
        })
        .collect();
    said.extend(arguments.reference_file.as_deref().filter(|file| !file.exists()).map(|file| {
        format!(
            "--reference-file: there is no {} yet: shearling eval MODEL --data DIR --write-reference FILE measures it",
            file.display()
        )
    }));
    said
}

/// The prepared data, if it is there.
fn open(path: &Path) -> anyhow::Result<Option<Dataset>> {
    Ok(path.exists().then(|| Dataset::open(path)).transpose()?)
}

/// Tokens per row: the data's, or as asked, or 4,096 on a GPU and 1,024 on a CPU, where attention is slow.
fn row_tokens(
    arguments: &Init,
    model: &ModelConfig,
    place: &Place,
    data: [&Option<Dataset>; 2],
) -> anyhow::Result<i64> {
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

/// Hours of both stages, unless tokens are given.
fn hours(arguments: &Init, place: &Place) -> Option<f64> {
    let usual = if place.device.is_cuda() { 24.0 } else { 1.0 };
    arguments.tokens.is_none().then(|| arguments.hours.unwrap_or(usual))
}

fn budget(arguments: &Init, place: &Place) -> anyhow::Result<Budget> {
    if let Some(tokens) = arguments.tokens {
        return Ok(Budget::Tokens(tokens as f64));
    }
    let hours = hours(arguments, place).unwrap_or_default();
    if !(hours.is_finite() && hours > 0.0) {
        anyhow::bail!("--hours {hours} must be a positive number");
    }
    let rate = place.flops.with_context(|| format!("the speed of {} is not known; give --tokens", place.name))?;
    Ok(Budget::Flops(hours * 3600.0 * rate))
}

/// Beyond the budget by this factor is too long.
const OVER_TIME: f64 = 1.02;
/// How often a budget is lowered to what the cut and evaluations leave.
const MOST_ATTEMPTS: usize = 4;

/// Rows below which text is cut into pieces too small to learn from.
const SHORTEST_ROWS: i64 = 128;

/// The longest rows with which the budget is enough, halved from `tokens`.
fn shorter_rows(
    source: &ModelConfig,
    target: &ModelConfig,
    tokens: i64,
    budget: Budget,
    least_steps: u64,
) -> Option<i64> {
    let halved = std::iter::successors(Some(tokens / 2), |tokens| Some(tokens / 2));
    let mut possible = halved.take_while(|tokens| *tokens >= SHORTEST_ROWS);
    possible.find(|tokens| !Stages::new(source, target, *tokens, budget, least_steps).exceeded)
}

fn too_small(recipe: &Recipe, shorter: Option<i64>) -> String {
    let seconds = recipe.prune.time.as_ref().zip(recipe.next.time.as_ref()).map(|(prune, next)| prune.0 + next.0);
    let takes = seconds.map_or(String::new(), |seconds| format!(" (in all about {})", estimated(seconds)));
    let Some(preset) = recipe.masks else {
        return format!(
            "the budget is less than {LEAST_CONTINUE_STEPS} steps of the continuation, which the files have nevertheless{takes}; give more with \
             --hours or --tokens, or shorter rows with --sequence-length"
        );
    };
    if preset != MaskPreset::LlmShearing {
        return format!(
            "the budget is less than the files take, which have the fewest steps that make sense{takes}; give more with --hours \
             or --tokens"
        );
    }
    format!(
        "the budget is less than masks need to settle: the files have the fewest steps with which most do{takes}; {}",
        match shorter {
            Some(tokens) => format!(
                "rows of {tokens} tokens would keep to it (--sequence-length {tokens}, here and of data prepare), or give \
                 more with --hours"
            ),
            None => "give more with --hours".to_string(),
        } + ", or cut at once and spend it all on the continuation: leave --masks out"
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_as_it_was_given() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("stored/0a1b");
        std::fs::create_dir_all(folder.join("model")).unwrap();
        let link = root.path().join("smollm2");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert_eq!([&folder, &link].map(|path| name_of(path)), ["0a1b", "smollm2"]);
        assert_eq!(name_of(&folder.join("model")), "0a1b", "the run that wrote it");
        assert_eq!(name_of(&link.join("model/..")), "0a1b", "`..` is followed first");
    }
}
