//! A command as one rank of several: which commands that may be, how it joins the others, what it says when it ends.

use crate::cli::arguments::{Command, Lte};
use crate::cli::interrupt::{self, Listening};
use crate::cli::printer;
use crate::config::RunConfig;
use crate::dist::{self, Launcher, Place, World, write_error_file};
use crate::native::runtime::threads::Sharing;
use crate::train::saved_run::saved_config;
use crate::train::{Observer, Trainer};
use std::path::PathBuf;
use std::time::Duration;
use tch::Device;

/// Which rank this process is, if it is one; and refuses commands that several processes would do several times.
pub(super) fn place(command: &Command) -> anyhow::Result<Option<Place>> {
    let runs = matches!(command, Command::Prune(_) | Command::Pretrain(_) | Command::Lte(Lte::Train(_)));
    let place = match Place::from_environment() {
        // Who looks at a run need not be able to take part in one.
        Err(_) if !runs => None,
        place => place?,
    };
    let Some(place) = place else { return Ok(None) };
    let looks =
        matches!(command, Command::Doctor(_) | Command::Inspect(_) | Command::Watch(_) | Command::Completions(_));
    if looks {
        return Ok(None);
    }
    printer::speak_as(place.rank, place.size);
    if !runs {
        anyhow::bail!(
            "this process is rank {} of {} (by the variables of {}), and only prune, pretrain and lte train are done by several \
             together: start this command once, without a launcher and without its variables",
            place.rank,
            place.size,
            place.launcher.name()
        );
    }
    Ok(Some(place))
}

/// How the ranks of this machine share its CPUs.
pub(super) fn sharing(place: &Place) -> Sharing {
    Sharing {
        ranks: place.local_size,
        may_bind: matches!(place.launcher, Launcher::OpenMpi | Launcher::Slurm),
        sets_one_thread: place.launcher == Launcher::Torchrun,
    }
}

/// Joins the other ranks, if there are any.
pub(super) fn join(place: Option<&Place>, config: &RunConfig, device: Device) -> anyhow::Result<World> {
    let Some(place) = place else { return Ok(World::alone()) };
    Ok(dist::join(place, device, Duration::from_secs(config.dist.timeout_seconds))?)
}

/// The run that a command began before its launcher started it again.
pub(super) fn begun_before(place: Option<&Place>, config: &RunConfig) -> Option<PathBuf> {
    let directory = &config.run.directory;
    let restarted = place.is_some_and(|place| place.restarts > 0);
    (restarted && saved_config(directory).is_ok()).then(|| directory.clone())
}

/// Tells the other ranks, and the launcher, why this one ends.
pub(super) fn tell_end(world: &World, error: &anyhow::Error) {
    let reason = format!("{error:#}");
    world.leave(&reason);
    write_error_file(&reason);
}

/// What a rank shows that does not speak: nothing. It listens to signals all the same.
#[derive(Default)]
pub(super) struct Quiet {
    listening: Option<Listening>,
}

impl Observer for Quiet {
    fn started(&mut self, _: &Trainer, _: bool) {
        self.listening = Some(Listening::begin(None));
    }

    fn interrupted(&mut self) -> bool {
        interrupt::requested()
    }
}
