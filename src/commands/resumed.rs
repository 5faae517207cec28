//! What `--resume RUN` means: the configuration that the run goes on with, or that it has nothing left to do.

use crate::cli::Printer;
use crate::config::{self, RunConfig, Stage};
use crate::run_dir::RunDir;
use crate::run_dir::layout::{PRUNED, RESOLVED_CONFIG};
use crate::train::same_run::check_same_run;
use crate::train::saved_run::saved_config;
use crate::train::schedule::Schedule;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// What there is to do in a run folder.
pub(super) enum Resumed {
    /// Steps, or at least the model to write.
    Run(Box<RunConfig>),
    /// Nothing: all these steps are done, and this is the model.
    Finished { model: PathBuf, steps: u64 },
}

/// Reads the run in `folder`, with `--set` overrides, to go on as `stage`. Opens neither data nor model.
pub(super) fn resume(folder: &Path, sets: &[String], stage: Stage, printer: &Printer) -> anyhow::Result<Resumed> {
    let saved = saved_config(folder)?;
    if saved.cuts_at_once() {
        let shown = folder.display();
        anyhow::bail!(
            "{shown} was cut at once, and that is done: there is nothing to resume. Train on with shearling pretrain and \
             model.source = \"{shown}/{PRUNED}\", or cut again into another run.directory"
        );
    }
    require_stage(folder, &saved, stage)?;
    let mut config = with_overrides(&saved, sets)?;
    if config.run.directory != saved.run.directory {
        anyhow::bail!(
            "run.directory is where the run is; to have it elsewhere move the folder, then --resume it there"
        );
    }
    config.run.directory = folder.to_path_buf();
    if config.train.steps != saved.train.steps && config.target.is_some() {
        // Masks that have reached their targets keep them.
        config.masks.warmup_steps.get_or_insert(saved.masks.target_warmup(saved.train.steps));
    }
    if let (Some(before), Some(lte)) = (&saved.lte, &mut config.lte) {
        // Stages that were shares of the steps stay where they were.
        let kept = before.resolved(&saved.train);
        lte.router_steps = lte.router_steps.or(kept.router_steps);
        lte.density_steps = lte.density_steps.or(kept.density_steps);
    }
    check_same_run(&saved, &config)?;
    let done = RunDir::open(folder)?.list_steps()?.last().copied().unwrap_or(0);
    let written = folder.join(crate::export::folder_name(stage));
    if done >= config.train.steps && written.exists() {
        return Ok(Resumed::Finished { model: written, steps: done });
    }
    if config.train.steps < done {
        anyhow::bail!(
            "the run has done {done} steps, train.steps = {} would be fewer; --set train.steps={done} ends it where it is",
            config.train.steps
        );
    }
    if done > 0 && written.exists() {
        let (shown, steps) = (written.display(), config.train.steps);
        anyhow::bail!(
            "{shown} is the model of this run at step {done}; to train on to step {steps}, move it away first: {}",
            move_away(&written, done)
        );
    }
    require_sources(folder, &config)?;
    tell_learning_rate(&saved, &config, done, printer);
    Ok(Resumed::Run(Box::new(config)))
}

/// How to move away the model of so many steps, whose place a longer run needs.
fn move_away(model: &Path, steps: u64) -> String {
    let shown = model.display();
    format!("mv {shown} {shown}-{steps}")
}

/// That a run in `folder` has nothing left to do, and what can be done with it.
pub(super) fn finished_said(folder: &Path, stage: Stage, model: &Path, steps: u64) -> String {
    let (shown, command, moved) = (folder.display(), stage.command(), move_away(model, steps));
    format!(
        "{shown} is finished: all its steps are done and its model is written. To train on: {moved} && shearling {command} \
         --resume {shown} --set train.steps=MORE; to write the model in another dtype: shearling export {shown} --out DIR \
         --dtype DTYPE"
    )
}

/// Refuses a folder whose model was cut at once for what takes the steps of a run: it has no `wanted`.
pub(super) fn refuse_cut_at_once(run: &Path, wanted: &str) -> anyhow::Result<()> {
    let shown = run.display();
    if saved_config(run).is_ok_and(|config| config.cuts_at_once()) && run.join(PRUNED).is_dir() {
        anyhow::bail!("{shown} was cut at once, without a step: there is no {wanted}. Its model is {shown}/{PRUNED}");
    }
    Ok(())
}

/// The saved configuration with overrides; paths among them are relative to the working directory.
fn with_overrides(saved: &RunConfig, sets: &[String]) -> anyhow::Result<RunConfig> {
    let mut config = config::parse(&config::resolved_toml(saved)?, RESOLVED_CONFIG, sets)?;
    config.root_paths(&working_directory()?);
    Ok(config)
}

/// Where relative paths of this process begin.
pub(super) fn working_directory() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("the working directory cannot be told")
}

/// A run is resumed by the command that began it: another one would find fault with a configuration that is right.
fn require_stage(run: &Path, saved: &RunConfig, stage: Stage) -> anyhow::Result<()> {
    let begun = Stage::of(saved);
    if begun == stage {
        return Ok(());
    }
    let (run, command) = (run.display(), begun.command());
    anyhow::bail!("{run} is a {command} run; resume with: shearling {command} --resume {run}")
}

/// What the run reads must still be there, and can be named anew where it was moved.
fn require_sources(run: &Path, config: &RunConfig) -> anyhow::Result<()> {
    let read = [("model.source", config.model.source.as_deref()), ("data.path", Some(config.data.path.as_path()))];
    let gone = read.into_iter().filter_map(|(key, path)| Some((key, path?))).filter(|(_, path)| !path.exists());
    let gone: Vec<(&str, &Path)> = gone.collect();
    if gone.is_empty() {
        return Ok(());
    }
    let named = gone.iter().map(|(key, path)| format!("{key} = {}", path.display())).collect::<Vec<_>>().join(", ");
    let sets = gone.iter().map(|(key, _)| format!(" --set {key}=NEW")).collect::<String>();
    let (command, shown) = (Stage::of(config).command(), run.display());
    anyhow::bail!("not found: {named}, which this run reads; if moved: shearling {command} --resume {shown}{sets}")
}

/// Other steps or another rate change the course of the learning rate.
fn tell_learning_rate(saved: &RunConfig, config: &RunConfig, done: u64, printer: &Printer) {
    let (before, after) = (&saved.train, &config.train);
    if done == 0 || (before.steps, before.learning_rate) == (after.steps, after.learning_rate) {
        return;
    }
    let last = before.learning_rate * Schedule::of(before).factor(done - 1);
    let next = after.learning_rate * Schedule::of(after).factor(done);
    printer.note(format!(
        "learning rate: {last:.2e} at step {done}, {next:.2e} at step {}: the schedule of {} steps with a peak of {:.2e}",
        done + 1,
        after.steps,
        after.learning_rate
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_on_from_a_finished_run_moves_its_model_away_first() {
        let said = finished_said(Path::new("runs/a"), Stage::Pretrain, Path::new("runs/a/model"), 28);
        let command = "mv runs/a/model runs/a/model-28 && shearling pretrain --resume runs/a --set train.steps=MORE";
        assert!(said.contains(command), "{said}");
    }
}
