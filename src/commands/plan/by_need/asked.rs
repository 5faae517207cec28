//! The model that shapes are asked for: MODEL on the command line, or the source of a configuration.

use crate::cli::arguments::Plan;
use crate::commands::model_folder::config_folder;
use crate::commands::plan::source;
use crate::commands::run::load;
use crate::config::RunConfig;
use crate::hf::{ModelConfig, RawConfig};
use anyhow::bail;
use std::path::{Path, PathBuf};

/// The model, and how it will be trained if a configuration says.
pub(super) struct Asked {
    /// As `init` takes it.
    pub(super) path: PathBuf,
    pub(super) model: ModelConfig,
    pub(super) config: Option<RunConfig>,
}

impl Asked {
    /// MODEL, or model.source of the configuration, which then comes along.
    pub(super) fn of(arguments: &Plan) -> anyhow::Result<Asked> {
        match (&arguments.model, &arguments.config.config) {
            (Some(_), Some(_)) => bail!("MODEL and --config both name a model to find shapes for; give one of them"),
            (None, None) => bail!(
                "which model? Give its folder or config.json (shearling plan MODEL --target-params 1.3B), or a configuration \
             with model.source (--config FILE)"
            ),
            (Some(path), None) => {
                refuse_configuration(path)?;
                if !arguments.config.set.is_empty() || arguments.source_as.is_some() {
                    bail!("--set and --source-as are about a configuration: give it with --config FILE, and no MODEL");
                }
                let folder = config_folder(path)?;
                let model = RawConfig::read(&folder.join(RawConfig::FILE_NAME))?.model()?;
                Ok(Asked { path: path.clone(), model, config: None })
            }
            (None, Some(file)) => {
                let config = load(&arguments.config)?;
                let raw = source::find(&config, file, arguments.source_as.as_deref())?.config;
                let (Some(raw), Some(path)) = (raw, config.model.source.clone()) else {
                    bail!("{} trains a new model (model.random): there is no source to prune", file.display())
                };
                Ok(Asked { path, model: raw.model()?, config: Some(config) })
            }
        }
    }
}

fn refuse_configuration(path: &Path) -> anyhow::Result<()> {
    if path.extension().is_some_and(|end| end == "toml") {
        bail!("{} is a configuration and no model; give it with --config", path.display());
    }
    Ok(())
}
