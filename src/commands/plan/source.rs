//! Which shape the model will have that a run starts from, even if it is not there yet.
//!
//! A stage that continues another names the folder which that one writes (`runs/x/pruned`). Until it is there its shape
//! is known from the other's configuration: the file given by `--source-as`, the run folder if the run has begun, or the
//! configuration beside this one whose run writes exactly that folder.

use crate::commands::beside::{configurations_beside, plain};
use crate::commands::written_shape::written_by;
use crate::config::{self, RunConfig, Stage};
use crate::export::folder_name;
use crate::hf::{RawConfig, not_a_model};
use crate::run_dir::layout::RESOLVED_CONFIG;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

/// The shape of a source and where it is known from.
#[derive(Debug)]
pub(super) struct Source {
    /// Its `config.json`, or what it will be; `None` for a model that begins at random.
    pub config: Option<RawConfig>,
    /// Configurations that it was derived from, the nearest first; none if the folder is there.
    pub derived_from: Vec<PathBuf>,
}

/// Longest chain of stages that is followed.
const MOST_STAGES: usize = 16;

/// The source of `config`, which was read from `file`. With `source_as` it is what that configuration writes.
pub(super) fn find(config: &RunConfig, file: &Path, source_as: Option<&Path>) -> anyhow::Result<Source> {
    let mut derived_from = Vec::new();
    let config = resolve(config, file, source_as, &mut derived_from)?;
    Ok(Source { config, derived_from })
}

fn resolve(
    config: &RunConfig,
    file: &Path,
    source_as: Option<&Path>,
    derived_from: &mut Vec<PathBuf>,
) -> anyhow::Result<Option<RawConfig>> {
    let Some(folder) = &config.model.source else { return Ok(None) };
    let path = folder.join(RawConfig::FILE_NAME);
    if source_as.is_none() && path.is_file() {
        return Ok(Some(RawConfig::read(&path)?));
    }
    let writer = match source_as {
        Some(writer) => Some(writer.to_path_buf()),
        None => run_behind(folder).or_else(|| configuration_beside(file, folder)),
    };
    let Some(writer) = writer else { bail!("{}", missing(folder)) };
    if derived_from.len() == MOST_STAGES || derived_from.contains(&writer) {
        bail!("the stages go in a circle: {} starts from a model that it leads to", writer.display());
    }
    derived_from.push(writer.clone());
    let before = config::load(&writer, &[])?;
    let source = resolve(&before, &writer, None, derived_from)
        .with_context(|| format!("the shape that {} writes is not known", writer.display()))?;
    let Some(source) = source else {
        bail!(
            "{} trains a new model from data: its shape is known once {} is there",
            writer.display(),
            folder.display()
        )
    };
    written_by(&before, &source).map(Some).with_context(|| format!("in {}", writer.display()))
}

/// The folder in which a run of `config` leaves its model.
fn written_folder(config: &RunConfig) -> PathBuf {
    config.run.directory.join(folder_name(Stage::of(config)))
}

/// The saved configuration of the run that will write `folder`, if it has begun.
fn run_behind(folder: &Path) -> Option<PathBuf> {
    let resolved = folder.parent()?.join(RESOLVED_CONFIG);
    let config = config::load(&resolved, &[]).ok()?;
    (folder.file_name()? == folder_name(Stage::of(&config))).then_some(resolved)
}

/// The configuration in the folder of `file` whose run writes `folder`. Files that are no configurations are passed
/// over; of several the first by name.
fn configuration_beside(file: &Path, folder: &Path) -> Option<PathBuf> {
    let writes =
        |path: &PathBuf| config::load(path, &[]).is_ok_and(|config| plain(&written_folder(&config)) == plain(folder));
    configurations_beside(file).into_iter().find(writes).map(|path| plain(&path))
}

/// The configuration beside `file` whose run writes `path`, a model's folder or a file in it.
pub(super) fn written_later(file: &Path, path: &Path) -> Option<PathBuf> {
    path.ancestors().take(2).find_map(|folder| configuration_beside(file, folder))
}

fn missing(folder: &Path) -> String {
    let shown = folder.display();
    let config = RawConfig::FILE_NAME;
    match (folder.exists(), not_a_model(folder)) {
        (true, Some(hint)) => format!("{shown} (model.source) has no {config}: {hint}"),
        (true, None) => format!(
            "{shown} (model.source) has no {config}: plan needs that file of a model, not its weights; put the model's \
             {config} there"
        ),
        (false, Some(hint)) => format!("there is no {shown} (model.source): {hint}"),
        (false, None) => format!(
            "there is no {shown} (model.source), and no configuration beside this one writes it. plan needs the model's \
             {config} in that folder, not its weights; if an earlier stage will write the folder, give its configuration with \
             --source-as"
        ),
    }
}
