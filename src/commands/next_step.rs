//! What comes after a stage: the command that continues, told before the path of the model, which is the last thing said.

use super::beside::{configurations_beside, plain};
use crate::cli::shell::shell_word;
use crate::config::{self, ComputeDtype, RunConfig, Stage};
use crate::files::DType;
use crate::run_dir::layout::{METRICS, PRUNED};
use crate::train::saved_run::saved_config;
use std::path::{Path, PathBuf};

/// The lines about a finished stage of `config`, read from `file` unless it was resumed, that wrote `model`.
pub(super) fn next_step(config: &RunConfig, stage: Stage, file: Option<&Path>, model: &Path) -> String {
    // A resumed run has no file; configurations mostly lie where it is resumed.
    let place = file.unwrap_or(Path::new("run.toml"));
    match Some(place).filter(|_| stage == Stage::Prune).and_then(|place| continuation(place, model)) {
        Some(file) => format!("next: shearling pretrain --config {}", word(&file)),
        None if stage == Stage::Prune => format!("next: {}", eval(config, file, model)),
        None if stage == Stage::Lte => format!("next: {}", lte(config, model)),
        None => {
            format!("next: {} --out eval.json\n      {} --eval eval.json", eval(config, file, model), report(config))
        }
    }
}

/// The configuration beside `file` that trains the pruned model on, as `init` writes one.
fn continuation(file: &Path, pruned: &Path) -> Option<PathBuf> {
    let continues = |path: &PathBuf| {
        config::load(path, &[]).is_ok_and(|config| {
            let source = config.model.source.as_deref().map(plain);
            Stage::of(&config) == Stage::Pretrain && source == Some(plain(pruned))
        })
    };
    configurations_beside(file).into_iter().find(continues).map(|path| plain(&path))
}

/// Compares what the stage began with and what it wrote, and before both the model that was pruned, where `file` lies
/// beside the configuration that says so; on the rows of the run's own evaluations, as it computes.
fn eval(config: &RunConfig, file: Option<&Path>, model: &Path) -> String {
    let began = config.model.source.as_deref();
    let pruned = began.and_then(|began| source_of(began, file));
    let models = pruned.as_deref().into_iter().chain(began).chain([model]).map(word).collect::<Vec<_>>();
    let dtype = match config.run.dtype {
        ComputeDtype::Fixed(DType::BF16) => " --dtype bf16",
        _ => "",
    };
    let rows = config.eval.rows_per_domain;
    format!("shearling eval {} --data {} --rows {rows}{dtype}", models.join(" "), word(&config.data.path))
}

/// What running few units costs, and the layout for decoding.
fn lte(config: &RunConfig, model: &Path) -> String {
    let dense = config.model.source.as_deref().map_or(String::new(), |source| format!(" --dense {}", word(source)));
    let (shown, rows, data) = (word(model), config.eval.rows_per_domain, word(&config.data.path));
    let packed = word(&config.run.directory.join("packed"));
    format!(
        "shearling lte eval {shown} --data {data} --rows {rows}{dense}\n      shearling lte pack {shown} --out {packed}\n      shearling report {} -o lte-report.html",
        word(&config.run.directory)
    )
}

/// What the run that wrote `pruned` cut, or will cut by a configuration beside `file`.
fn source_of(pruned: &Path, file: Option<&Path>) -> Option<PathBuf> {
    let run = pruned.parent().filter(|_| pruned.file_name().is_some_and(|name| name == PRUNED));
    if let Some(saved) = run.and_then(|run| saved_config(run).ok()) {
        return saved.model.source;
    }
    let configurations = configurations_beside(file?).into_iter().filter_map(|path| config::load(&path, &[]).ok());
    let mut prunes = configurations.filter(|config| plain(&config.run.directory.join(PRUNED)) == plain(pruned));
    prunes.find_map(|config| config.model.source)
}

/// Shows the run, after the one that wrote its source.
fn report(config: &RunConfig) -> String {
    let is_run = |run: &&Path| run.join(METRICS).is_file() || run.join(PRUNED).is_dir();
    let before = config.model.source.as_deref().and_then(Path::parent).filter(is_run);
    let runs = before.into_iter().chain([config.run.directory.as_path()]).map(word).collect::<Vec<_>>();
    format!("shearling report {} -o report.html", runs.join(" "))
}

/// A path for the shell; without the working directory, as a user would write it.
fn word(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| Some(path.strip_prefix(here).ok()?.to_path_buf()));
    shell_word(&below.as_deref().filter(|path| !path.as_os_str().is_empty()).unwrap_or(path).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path, name: &str, source: &str, more: &str) -> RunConfig {
        let text = format!(
            "[run]\ndirectory = 'runs/{name}'\n[model]\nsource = '{source}'\n[data]\npath = 'my data'\n\
             [train]\nsteps = 4\nbatch_rows = 2\nlearning_rate = 0.1\n{more}"
        );
        std::fs::write(folder.join(name).with_extension("toml"), &text).unwrap();
        config::parse(&text, name, &[]).unwrap()
    }

    #[test]
    fn a_pruned_model_is_trained_on_by_the_configuration_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("small.toml");
        let prune = config(folder.path(), "small", "models/a", "[target]\nhidden_size = 64\n");
        let pruned = Path::new("runs/small/pruned");
        let alone = next_step(&prune, Stage::Prune, Some(&file), pruned);
        assert_eq!(alone, "next: shearling eval models/a runs/small/pruned --data 'my data' --rows 64");
        config(folder.path(), "other", "runs/elsewhere/pruned", "");
        config(folder.path(), "small-continue", "./runs/small/pruned", "");
        let found = next_step(&prune, Stage::Prune, Some(&file), pruned);
        let expected = folder.path().join("small-continue.toml");
        assert_eq!(found, format!("next: shearling pretrain --config {}", expected.display()));
        assert_eq!(next_step(&prune, Stage::Prune, None, pruned), alone, "a resumed run has no file");
    }

    #[test]
    fn a_trained_model_is_compared_and_reported() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("prune");
        std::fs::create_dir(&run).unwrap();
        let source = run.join("pruned").display().to_string();
        let next = config(folder.path(), "next", &source, "");
        let said = |next: &RunConfig| next_step(next, Stage::Pretrain, None, Path::new("runs/next/model"));
        let expected =
            format!("next: shearling eval {source} runs/next/model --data 'my data' --rows 64 --out eval.json\n");
        let text = said(&next);
        assert!(text.starts_with(&expected), "{text}");
        assert!(text.ends_with("shearling report runs/next -o report.html --eval eval.json"), "{text}");
        // A folder that was cut at once has no metrics; this one has its model.
        std::fs::create_dir(run.join("pruned")).unwrap();
        assert!(said(&next).contains(&format!("report {} runs/next -o", run.display())));
    }
}
