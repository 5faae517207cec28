//! `prune` in several cuts, from one configuration with `[[prune.via]]`: every run before the last one, each picked up
//! where it is. The last one is a prune like any other (`commands/run.rs`).

mod stages;

pub(super) use stages::stages;

use super::execute::execute;
use super::written_shape::written_by;
use crate::cli::Printer;
use crate::cli::shell::shell_word;
use crate::config::{Run, RunConfig, Stage, Target, validate};
use crate::export::folder_name;
use crate::hf::RawConfig;
use crate::native::runtime::device;
use crate::run_dir::layout::RESOLVED_CONFIG;
use crate::train::saved_run::{is_free, saved_config};
use crate::train::{Absent, Outline};
use anyhow::Context;
use std::path::Path;

/// Does the runs before the last cut of `config`, read from `file`, and returns the configuration of that one; `None` when
/// one of them was stopped.
pub(super) fn run_up_to_last(
    config: &RunConfig,
    file: Option<&Path>,
    printer: &Printer,
) -> anyhow::Result<Option<RunConfig>> {
    validate(config, Stage::Prune)?;
    let mut stages = stages(config);
    check(&stages)?;
    let of = stages.len();
    let Some(last) = stages.pop() else { return Ok(None) };
    for (number, stage) in (1..).zip(stages) {
        printer.note(format!("run {number} of {of}: {}", described(&stage)));
        if !finish_one(stage, printer)? {
            let command = file.map_or("shearling prune with the same configuration".into(), |file| {
                format!("shearling prune --config {}", shell_word(&file.display().to_string()))
            });
            printer.note(format!(
                "or run the same command again, which resumes it and then does the remaining runs: {command}"
            ));
            return Ok(None);
        }
    }
    printer.note(format!("run {of} of {of}: {}", described(&last)));
    Ok(Some(last))
}

/// Refuses what would be refused in any of the runs, before the first one.
fn check(stages: &[RunConfig]) -> anyhow::Result<()> {
    let mut source: Option<RawConfig> = None;
    let mut problems = Vec::new();
    for (number, stage) in (1..).zip(stages) {
        let found = match (source.take(), &stage.model.source) {
            (Some(written), _) => written,
            (None, Some(folder)) => RawConfig::read(&folder.join(RawConfig::FILE_NAME))?,
            (None, None) => anyhow::bail!("prune needs model.source, the Hugging Face folder to cut"),
        };
        let device = device::parse(&stage.run.device)?;
        let outline = Outline::new(stage.clone(), Stage::of(stage), device, Some(found.clone()), None)?;
        let missing =
            |absent: &Absent| format!("{}: there is no {}; {}", absent.key, absent.path.display(), absent.remedy);
        let said = outline.findings.problems.iter().cloned().chain(outline.findings.absent.iter().map(missing));
        problems
            .extend(said.map(|problem| format!("run {number} of {} ({}): {problem}", stages.len(), described(stage))));
        if !problems.is_empty() {
            break;
        }
        source = Some(written_by(stage, &found).with_context(|| format!("run {number}, {}", described(stage)))?);
    }
    match problems.is_empty() {
        true => Ok(()),
        false => anyhow::bail!("{}", problems.join("\n")),
    }
}

/// Does a run, or what is left of it; whether its model is there at the end.
fn finish_one(stage: RunConfig, printer: &Printer) -> anyhow::Result<bool> {
    let folder = stage.run.directory.clone();
    let written = folder.join(folder_name(Stage::of(&stage)));
    if is_free(&folder) {
        return Ok(execute(stage.clone(), Stage::of(&stage), false, None, printer)?.is_some());
    }
    let saved = saved_config(&folder)?;
    require_same(&folder, &saved, &stage)?;
    if written.exists() {
        printer.note(format!("is there already: {}", written.display()));
        return Ok(true);
    }
    // Where it runs is this call's, as when a run is resumed by itself.
    let (device, threads) = (stage.run.device.clone(), stage.run.threads);
    let config = RunConfig { run: Run { directory: folder, device, threads, ..saved.run.clone() }, ..saved };
    Ok(execute(config, Stage::of(&stage), true, None, printer)?.is_some())
}

/// A folder that an earlier run left is gone on with if it is that of the same run.
fn require_same(folder: &Path, saved: &RunConfig, stage: &RunConfig) -> anyhow::Result<()> {
    let mut now = stage.clone();
    now.root_paths(&super::resumed::working_directory()?);
    let differs = [
        ("model.source", saved.model.source != now.model.source),
        ("data.path", saved.data.path != now.data.path),
        ("the target", saved.target != now.target),
        ("run.seed", saved.run.seed != now.run.seed),
        ("prune.method", saved.prune.method() != now.prune.method()),
        ("the steps", saved.train.steps != now.train.steps),
        ("the learning rate", saved.train.learning_rate != now.train.learning_rate),
        ("train.batch_rows", saved.train.batch_rows != now.train.batch_rows),
    ];
    let differing: Vec<&str> = differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if differing.is_empty() {
        return Ok(());
    }
    anyhow::bail!(
        "{} is a run of another configuration ({} differ): remove it, or choose another run.directory. What it was: {}",
        folder.display(),
        differing.join(", "),
        folder.join(RESOLVED_CONFIG).display()
    )
}

/// What a run does, in a few words.
pub(super) fn described(stage: &RunConfig) -> String {
    let folder = stage.run.directory.display();
    match &stage.target {
        Some(target) => format!("cut to {} in {folder}", sizes(target)),
        None => format!("train for {} in {folder}", crate::words::counted(stage.train.steps, "step")),
    }
}

fn sizes(target: &Target) -> String {
    let sizes = [
        ("hidden", target.hidden_size),
        ("intermediate", target.intermediate_size),
        ("layers", target.num_hidden_layers),
        ("heads", target.num_attention_heads),
        ("KV heads", target.num_key_value_heads),
    ];
    let said: Vec<String> = sizes.into_iter().filter_map(|(name, size)| Some(format!("{name} {}", size?))).collect();
    if said.is_empty() { "the shape of its source".to_string() } else { said.join(", ") }
}
