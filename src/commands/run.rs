//! `shearling prune`, `shearling pretrain` and `shearling lte train`: run the loop, then write the Hugging Face folder.

use super::ExitStatus;
use super::beside::{configurations_beside, plain};
use super::execute::{execute_among, use_threads};
use super::finish::{finish, finish_at};
use super::next_step::next_step;
use super::ranks::{begun_before, join, tell_end};
use super::refusal::Origin;
use super::resumed::{Resumed, finished_said, resume};
use super::unread_keys::unread_keys;
use super::via;
use crate::cli::Printer;
use crate::cli::arguments::{ConfigArguments, Run};
use crate::config::{self, RunConfig, Stage};
use crate::dist::Place;
use crate::export::folder_name;
use crate::lte::file::{FILE_NAME, is_lte};
use crate::native::runtime::device;
use crate::run_dir::layout::PRUNED;
use crate::run_dir::{Activity, RunLock};
use crate::train::has_work;
use crate::train::saved_run::refuse_existing;
use anyhow::Context;
use std::num::NonZeroU64;
use std::path::Path;

/// Runs a stage from the command line; as `place` among several processes, if it is one of them.
pub fn run(arguments: &Run, stage: Stage, place: Option<&Place>) -> anyhow::Result<ExitStatus> {
    let printer = Printer::new(false);
    let given = arguments.resume.is_none().then(|| load(&arguments.config)).transpose()?;
    // The same command, started again, goes on with its run, which has these settings already.
    let again = given.as_ref().and_then(|config| begun_before(place, config));
    let sets = if again.is_some() { &[] } else { arguments.config.set.as_slice() };
    let resumed = arguments.resume.as_ref().or(again.as_ref());
    let mut config = match (resumed, given) {
        (None, given) => given.map_or_else(|| load(&arguments.config), Ok)?,
        (Some(folder), _) => match resume(folder, sets, stage, &printer)? {
            Resumed::Run(config) => *config,
            Resumed::Finished { model, steps } => {
                printer.note(finished_said(folder, stage, &model, steps));
                return finish_at(&model, &printer);
            }
        },
    };
    if let Some(device) = &arguments.device {
        config.run.device = device.clone();
    }
    config.run.threads = arguments.threads.threads.or(config.run.threads);
    config.run.tensorboard |= arguments.tensorboard;
    if let (Stage::Pretrain, Some(file)) = (stage, arguments.config.config.as_deref()) {
        require_source(&config, file)?;
    }
    let resumes = resumed.is_some();
    if !resumes {
        refuse_grouped(&config, stage)?;
    }
    let one_shot = config.cuts_at_once();
    let origin = if one_shot { Origin::OneShot } else { Origin::Run(config.run.directory.clone()) };
    let several_cuts = stage == Stage::Prune && !config.prune.via.is_empty();
    if let Some(place) = place.filter(|_| several_cuts) {
        anyhow::bail!(
            "prune.via is several runs, which one process does one after the other; this is rank {} of {}: start it without a \
             launcher, or do the runs by themselves (plan --config names them)",
            place.rank,
            place.size
        );
    }
    if !has_work(&config, stage, place.map_or(0, |place| place.rank)) {
        return Ok(ExitStatus::Done);
    }
    // A cut at once is the work of one.
    let place = place.filter(|_| !one_shot);
    let stop_at = arguments.stop_at.map(NonZeroU64::get);
    if one_shot && stop_at.is_some() {
        printer.warn("--stop-at has no effect where a source is cut at once: no step is taken");
    }
    // A folder that is there will be refused, and an error needs no warning beside it.
    if !resumes && !config.run.directory.exists() {
        unread_keys(&config, &arguments.config)?.into_iter().for_each(|warning| printer.warn(warning));
    }
    let as_given = config.clone();
    if several_cuts {
        refuse_existing(&config.run.directory)?;
        match via::run_up_to_last(&config, arguments.config.config.as_deref(), &printer) {
            Ok(Some(last)) => config = last,
            Ok(None) => return Ok(ExitStatus::Done),
            Err(error) => return finish(Err(error), &origin, &printer),
        }
    }
    use_threads(&config);
    let device = match place {
        Some(place) => device::of_rank(&config.run.device, place.local_rank, place.local_size)?,
        None => device::parse(&config.run.device)?,
    };
    let world = join(place, &config, device)?;
    let written = execute_among(config, stage, resumes, stop_at, (&world, device), &printer);
    if let Err(error) = &written {
        tell_end(&world, error);
    }
    if let Ok(Some(_)) = &written {
        let model = as_given.run.directory.join(folder_name(stage));
        printer.note(next_step(&as_given, stage, arguments.config.config.as_deref(), &model));
    }
    finish(written, &origin, &printer)
}

/// Refuses a source that another configuration is still to write, with the command that does, or that a process is about to.
fn require_source(config: &RunConfig, file: &Path) -> anyhow::Result<()> {
    let Some(source) = config.model.source.as_deref().filter(|source| !source.exists()) else { return Ok(()) };
    let run = source.parent().filter(|_| source.file_name().is_some_and(|name| name == PRUNED));
    if let Some((run, Activity::Process(process))) = run.map(|run| (run, RunLock::activity(run))) {
        anyhow::bail!(
            "{} (model.source) is not there yet: a prune is running in {} (process {process}) and writes it at its end; wait \
             for that, then give this command again",
            source.display(),
            run.display()
        );
    }
    let writes = |path: &std::path::PathBuf| {
        config::load(path, &[]).is_ok_and(|config| plain(&config.run.directory.join(PRUNED)) == plain(source))
    };
    match configurations_beside(file).into_iter().find(writes) {
        Some(first) => anyhow::bail!(
            "{} (model.source) is not there yet: shearling prune --config {} writes it",
            source.display(),
            first.display()
        ),
        None => Ok(()),
    }
}

/// Refuses a source whose units are grouped into experts: no run of these stages would know of them.
fn refuse_grouped(config: &RunConfig, stage: Stage) -> anyhow::Result<()> {
    let Some(source) = config.model.source.as_deref().filter(|source| is_lte(source)) else { return Ok(()) };
    let reason = match stage {
        Stage::Prune => "to cut units or dimensions would leave it with experts and routers of another model",
        Stage::Pretrain => {
            "it would be trained as if every expert ran for every token, and its experts and routers would be lost"
        }
        Stage::Lte => return Ok(()),
    };
    anyhow::bail!(
        "{} (model.source) is an LTE folder, it has {}: {reason}. Prune and pretrain the model that it was made from and \
         group what comes of it (shearling lte group), or train this one with its experts (shearling lte train)",
        source.display(),
        FILE_NAME
    )
}

/// Loads `--config` with its overrides.
pub(super) fn load(arguments: &ConfigArguments) -> anyhow::Result<RunConfig> {
    let path = arguments.config.as_ref().context("give a configuration with --config FILE (see configs/)")?;
    Ok(config::load(path, &arguments.set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (run, first, next) =
            (folder.path().join("run"), folder.path().join("first.toml"), folder.path().join("next.toml"));
        let write = |file: &Path, directory: &Path, source: &Path, rest: &str| {
            let text = format!(
                "[run]\ndirectory = {:?}\n[model]\nsource = {:?}\n[data]\npath = 'd'\n{rest}",
                directory.display().to_string(),
                source.display().to_string()
            );
            std::fs::write(file, text).unwrap();
        };
        write(&first, &run, Path::new("m"), "[target]\n");
        write(&next, &folder.path().join("later"), &run.join(PRUNED), "");
        std::fs::create_dir(&run).unwrap();
        let config = config::load(&next, &[]).unwrap();
        let refused = || require_source(&config, &next).unwrap_err().to_string();
        assert!(
            refused().contains(&format!("shearling prune --config {} writes it", first.display())),
            "{}",
            refused()
        );
        let lock = RunLock::acquire(&run).unwrap();
        // Where the system does not tell who holds a lock, nobody is known to.
        if RunLock::activity(&run) != Activity::Unknown {
            let said = refused();
            assert!(said.contains(&format!("(process {})", std::process::id())) && said.contains("wait"), "{said}");
        }
        drop(lock);
        assert!(refused().contains("shearling prune --config"));
        std::fs::create_dir(run.join(PRUNED)).unwrap();
        assert!(require_source(&config, &next).is_ok());
    }
}
