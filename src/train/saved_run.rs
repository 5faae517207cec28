//! What a run folder says of its run, before anything is opened: whether there is one, how it was configured.

use super::Error;
use crate::config::{self, RunConfig, Stage};
use crate::files::publish::is_staged;
use crate::files::{self, write_atomic};
use crate::run_dir::layout::{LOCK, RESOLVED_CONFIG};
use crate::run_dir::{Activity, RunLock, only_begun};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A new run gets a new folder.
///
/// # Errors
/// The folder is not free; where a process writes there, the message names it; where it is a run that can be resumed, it says
/// how.
pub fn refuse_existing(folder: &Path) -> Result<(), Error> {
    if is_free(folder) {
        return Ok(());
    }
    if let Activity::Process(process) = RunLock::activity(folder) {
        return Err(files::Error::Locked { path: folder.join(LOCK), holder: format!("process {process}") }.into());
    }
    let shown = folder.display();
    // A cut at once is done, or it has left nothing.
    let resume =
        saved_config(folder).ok().filter(|config| !config.cuts_at_once()).map_or(" or remove it".into(), |config| {
            format!(
                ", remove it, or resume the run in it with: shearling {} --resume {shown}",
                Stage::of(&config).command()
            )
        });
    Err(Error::Mismatch(format!("{shown} exists already; choose another with --set run.directory=DIR{resume}")))
}

/// Whether nothing is at a place but perhaps an empty folder, or one with what a cut at once leaves that was killed: its lock,
/// and files that never got their names.
pub fn is_free(folder: &Path) -> bool {
    let nothing = |name: &OsStr| (name == LOCK || is_staged(name)) && RunLock::activity(folder) == Activity::Nobody;
    std::fs::read_dir(folder).map_or(!folder.exists(), |mut entries| {
        entries.all(|entry| entry.is_ok_and(|entry| nothing(&entry.file_name())))
    })
}

/// Heads the configuration of a cut at once, whose file has every default of training too.
const CUT_AT_ONCE: &str = "# The source was cut at once (prune.method), without a step: of [train] only batch_rows and \
                           micro_batch_rows were read (rows per forward),\n# of [masks], [distill] and [eval] nothing.\n\n";

/// Writes the configuration of a run into its folder, every default with it.
///
/// # Errors
/// The file cannot be written.
pub fn write_config(run: &Path, config: &RunConfig) -> Result<(), Error> {
    let head = if config.takes_no_step() { CUT_AT_ONCE } else { "" };
    let text = format!("{head}{}", config::resolved_toml(config)?);
    Ok(write_atomic(&run.join(RESOLVED_CONFIG), text.as_bytes())?)
}

/// The run that a folder of a step or of a model lies in.
fn run_around(folder: &Path) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let run = folder.ancestors().skip(1).take(2).find(|above| above.join(RESOLVED_CONFIG).is_file());
    run.map_or(String::new(), |run| format!("; the run is {}: give that folder", run.display()))
}

/// The configuration that a run folder was started with.
///
/// A run writes absolute paths. Where an older one has relative ones, they are looked for from the folder in which it was
/// started, as far as that can be told, and else left as they are: relative to the working directory.
///
/// # Errors
/// The folder is not a run, or its configuration cannot be read.
pub fn saved_config(run: &Path) -> Result<RunConfig, Error> {
    let path = run.join(RESOLVED_CONFIG);
    if !run.exists() {
        return Err(Error::Mismatch(format!("{} does not exist: expected the folder of a run", run.display())));
    }
    if !path.is_file() {
        let shown = run.display();
        return Err(Error::Mismatch(match only_begun(run) {
            Some(begun) => format!("{shown} is no run yet: {begun}"),
            None => format!("{shown} is not a run folder (it has no {RESOLVED_CONFIG}){}", run_around(run)),
        }));
    }
    let mut config = config::load_saved(&path)?;
    if let Some(base) = started_in(run, &config.run.directory) {
        for path in config.paths_mut().filter(|path| base.join(path.as_path()).exists()) {
            *path = base.join(path.as_path());
        }
    }
    Ok(config)
}

/// The working directory of a run that was started with a relative `directory`, if the run is still where it was.
fn started_in(run: &Path, directory: &Path) -> Option<PathBuf> {
    let run = run.canonicalize().ok()?;
    let parts = directory.components().filter(|part| !matches!(part, std::path::Component::CurDir));
    let directory: PathBuf = parts.collect();
    if directory.is_absolute() || !run.ends_with(&directory) {
        return None;
    }
    run.ancestors().nth(directory.components().count()).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[run]\ndirectory = './runs/a'\n[model]\nsource = 'model'\n[data]\npath = 'data'\n\
                          [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n";

    #[test]
    fn relative_paths_of_an_older_run_are_found_from_where_it_was_started() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().canonicalize().unwrap();
        let run = at.join("runs/a");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::create_dir(at.join("data")).unwrap();
        std::fs::write(run.join(RESOLVED_CONFIG), CONFIG).unwrap();
        let config = saved_config(&run).unwrap();
        assert_eq!(config.data.path, at.join("data"));
        assert_eq!(config.model.source.unwrap(), PathBuf::from("model"), "what is not there stays as it was written");

        let moved = at.join("elsewhere");
        std::fs::rename(&run, &moved).unwrap();
        assert_eq!(saved_config(&moved).unwrap().data.path, PathBuf::from("data"));
    }

    #[test]
    fn a_cut_at_once_says_which_tables_it_did_not_read() {
        let root = tempfile::tempdir().unwrap();
        let written = |method: &str| {
            let config =
                config::parse(&format!("{CONFIG}[target]\n[prune]\nmethod = '{method}'\n"), "test", &[]).unwrap();
            write_config(root.path(), &config).unwrap();
            assert_eq!(saved_config(root.path()).unwrap().prune, config.prune);
            std::fs::read_to_string(root.path().join(RESOLVED_CONFIG)).unwrap()
        };
        let cut = written("taylor");
        assert!(
            cut.starts_with("# The source was cut at once") && cut.contains("of [masks], [distill] and [eval] nothing"),
            "{cut}"
        );
        assert!(written("learned").starts_with("[run]"));
    }

    #[test]
    fn what_a_killed_cut_leaves_is_nothing_and_a_folder_that_is_held_is_taken() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(LOCK), "4242\n").unwrap();
        std::fs::create_dir(root.path().join(".pruned.staging-1")).unwrap();
        assert!(is_free(root.path()));
        let _lock = RunLock::acquire(root.path()).unwrap();
        if RunLock::activity(root.path()) != Activity::Unknown {
            let message = refuse_existing(root.path()).unwrap_err().to_string();
            assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        }
    }

    #[test]
    fn only_a_run_that_can_be_resumed_is_said_to_be() {
        let root = tempfile::tempdir().unwrap();
        refuse_existing(root.path()).unwrap();
        std::fs::write(root.path().join("metrics.jsonl"), "").unwrap();
        let message = refuse_existing(root.path()).unwrap_err().to_string();
        assert!(message.contains("exists already") && !message.contains("--resume"), "{message}");
        std::fs::write(root.path().join(RESOLVED_CONFIG), CONFIG).unwrap();
        let message = refuse_existing(root.path()).unwrap_err().to_string();
        let resume = format!("shearling pretrain --resume {}", root.path().display());
        assert!(message.ends_with(&resume), "{message}");
    }
}
