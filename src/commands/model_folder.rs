//! Which Hugging Face folder a path on the command line means: `eval`, `generate`, `inspect model` and `bench latency`
//! take a run as well, for what it has written; `init` and `plan` a config.json alone.

use crate::hf::{RawConfig, not_a_model};
use crate::run_dir::layout::{CHECKPOINTS, MODEL, PRUNED};
use crate::run_dir::{Activity, RunDir, RunLock, only_begun};
use std::path::{Path, PathBuf};

/// The folder itself, or the model that a run wrote into its own.
///
/// # Errors
/// There is no `config.json` in any of these places.
pub(super) fn model_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let places = [path.to_path_buf(), path.join(MODEL), path.join(PRUNED)];
    if let Some(found) = places.into_iter().find(|folder| folder.join("config.json").is_file()) {
        return Ok(found);
    }
    let shown = path.display();
    let expected =
        format!("expected a Hugging Face folder with config.json and weights, or a run with {MODEL}/ or {PRUNED}/");
    if path.join(CHECKPOINTS).is_dir() {
        let running = matches!(RunLock::activity(path), Activity::Process(_));
        let end = if running { "it is going on, so wait for its end" } else { "let it end (--resume)" };
        let steps = RunDir::open(path).and_then(|run| run.list_steps()).unwrap_or_default();
        let export = match steps.is_empty() {
            true => String::new(),
            false => format!(", or take its last step: shearling export {shown} --out FOLDER"),
        };
        anyhow::bail!(
            "{shown} is a run that has not written its model: no {MODEL}/ and no {PRUNED}/ is in it; {end}{export}"
        );
    }
    if let Some(begun) = only_begun(path) {
        anyhow::bail!("{shown} has no model: {begun}");
    }
    let hint = not_a_model(path).map(|hint| format!("; {hint}")).unwrap_or_default();
    if !path.exists() {
        anyhow::bail!("{shown} does not exist: {expected}{hint}");
    }
    anyhow::bail!("{shown} is not a model: {expected}{hint}")
}

/// The folder of a model of which only the config.json is needed: as [`model_folder`], or the folder of the given config.json.
pub(super) fn config_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let is_config = path.is_file() && path.file_name().is_some_and(|name| name == RawConfig::FILE_NAME);
    if !is_config {
        return model_folder(path);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(parent.unwrap_or(Path::new(".")).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::layout::step_folder;

    #[test]
    fn a_folder_means_itself_and_a_run_what_it_wrote() {
        let root = tempfile::tempdir().unwrap();
        let put = |folder: &Path| {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
        };
        let run = root.path().join("run");
        put(&run.join(PRUNED));
        assert_eq!(model_folder(&run).unwrap(), run.join(PRUNED));
        put(&run.join(MODEL));
        assert_eq!(model_folder(&run).unwrap(), run.join(MODEL));
        put(&run);
        assert_eq!(model_folder(&run).unwrap(), run);
        assert_eq!(config_folder(&run.join("config.json")).unwrap(), run);
    }

    #[test]
    fn what_has_no_model_says_what_it_is() {
        let root = tempfile::tempdir().unwrap();
        let told = |path: &Path| model_folder(path).unwrap_err().to_string();
        assert!(told(&root.path().join("none")).contains("does not exist: expected"));
        assert!(told(Path::new("org/name")).contains("hf download org/name --local-dir name"));
        assert!(told(root.path()).contains("is not a model: expected a Hugging Face folder with config.json"));
        std::fs::create_dir(root.path().join(CHECKPOINTS)).unwrap();
        let begun = told(root.path());
        assert!(begun.contains("--resume") && !begun.contains("shearling export"), "{begun}");
        std::fs::create_dir(step_folder(root.path(), 8)).unwrap();
        assert!(told(root.path()).contains("shearling export"));
    }
}
