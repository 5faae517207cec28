//! From a TOML file and `--set` overrides to a [`RunConfig`], strictly: an unknown key is an error that names the known
//! one that was meant.

use super::advice::{advice, advice_in, not_toml};
use super::further::further;
use super::known_keys::joined;
use super::overrides::Override;
use super::refusal::place_in;
use super::{Error, RunConfig};
use std::path::Path;
use toml::Table;

/// Reads `path` and applies the overrides in order. Relative paths stay relative to the working directory.
pub fn load(path: &Path, overrides: &[String]) -> Result<RunConfig, Error> {
    if path.is_dir() {
        let message = "this is a folder: give the TOML file of a configuration, as those in configs/".to_string();
        return Err(Error::Parse { origin: path.display().to_string(), message });
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    parse(&text, &path.display().to_string(), overrides)
}

/// The configuration that a run has written beside its steps. Before a method could be chosen, masks were learned.
pub fn load_saved(path: &Path) -> Result<RunConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    let table: Table = toml::from_str(&text).unwrap_or_default();
    let chosen = table.get("prune").and_then(|prune| prune.get("method")).is_some();
    let learned = (table.contains_key("target") && !chosen).then(|| "prune.method=learned".to_string());
    parse(&text, &path.display().to_string(), learned.as_slice())
}

/// The keys that a file and the overrides give (`train.steps`), by name: what a run was asked for, without defaults.
///
/// # Errors
/// As [`load`].
pub fn given_keys(path: &Path, overrides: &[String]) -> Result<Vec<String>, Error> {
    fn add(prefix: &str, table: &Table, given: &mut Vec<String>) {
        for (key, value) in table {
            let path = joined(prefix, key);
            match value.as_table() {
                Some(inner) => add(&path, inner, given),
                None => given.push(path),
            }
        }
    }
    load(path, overrides)?;
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    let base: Table = toml::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
    let overrides = overrides.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let mut given = Vec::new();
    add("", &with(&base, &overrides)?, &mut given);
    Ok(given)
}

/// Parses configuration text; `origin` names it in errors.
pub fn parse(text: &str, origin: &str, overrides: &[String]) -> Result<RunConfig, Error> {
    // Editors on Windows begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let refused = |origin: &str, message: String| Error::Parse { origin: origin.to_string(), message };
    if text.trim_start().starts_with('{') {
        let problem = "this is JSON (a model's config.json?); expected a configuration in TOML, as those in configs/";
        return Err(refused(origin, problem.to_string()));
    }
    let base: Table = toml::from_str(text).map_err(|error| refused(origin, not_toml(&error)))?;
    let overrides = overrides.iter().map(|text| Override::parse(text)).collect::<Result<Vec<_>, _>>()?;
    let table = with(&base, &overrides)?;
    let of_table =
        |error: &toml::de::Error, table: &Table| advice(error.message(), &place_in(&error.to_string()), table);
    table.clone().try_into().map_err(|error| match (culprit(&base, &overrides), toml::from_str::<RunConfig>(text)) {
        (Some(set), _) => refused(&format!("--set {}", set.given()), of_table(&error, &table)),
        // The file's own error points at a line.
        (None, Err(of_text)) => {
            let own = base.clone().try_into::<RunConfig>().err().unwrap_or(error);
            let first = advice_in(text, &of_text, &own, &base);
            let others = further(&base, &own);
            refused(origin, [vec![first], others].concat().join("\n"))
        }
        (None, Ok(_)) => refused("the --set overrides", of_table(&error, &table)),
    })
}

/// The file's table with the overrides in it.
fn with(base: &Table, overrides: &[Override]) -> Result<Table, Error> {
    let mut table = base.clone();
    overrides.iter().try_for_each(|set| set.apply(&mut table))?;
    Ok(table)
}

/// The override without which the configuration would parse.
fn culprit<'a, 'b>(base: &Table, overrides: &'b [Override<'a>]) -> Option<&'b Override<'a>> {
    overrides.iter().enumerate().find_map(|(at, set)| {
        let others: Vec<Override> =
            overrides.iter().enumerate().filter(|(o, _)| *o != at).map(|(_, s)| s.clone()).collect();
        let parses = with(base, &others).is_ok_and(|table| table.try_into::<RunConfig>().is_ok());
        parses.then_some(set)
    })
}

/// The configuration as TOML, every default written out; so is the method of a cut, since a file without one is of the
/// versions that knew no other than masks ([`load_saved`]); and the stages of `lte train`, whose defaults may differ in another version.
pub fn resolved_toml(config: &RunConfig) -> Result<String, Error> {
    let mut config = config.clone();
    if config.target.is_some() {
        config.prune.method = Some(config.prune.method());
    }
    if let Some(lte) = &mut config.lte {
        let steps = config.train.steps;
        (lte.router_steps, lte.density_steps) = (Some(lte.router_steps(steps)), Some(lte.density_steps(steps)));
    }
    toml::to_string_pretty(&config)
        .map_err(|error| Error::Parse { origin: "resolved configuration".to_string(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::super::PruneMethod;
    use super::*;

    const MINIMAL: &str = r#"
        [run]
        directory = "out"
        [model]
        source = "model"
        [data]
        path = "data"
        [train]
        steps = 10
        batch_rows = 4
        learning_rate = 1e-3
    "#;

    fn refused(text: &str, sets: &[&str]) -> String {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        parse(text, "test", &sets).unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_filled_in_and_survive_a_round_trip() {
        let config = parse(MINIMAL, "test", &[]).unwrap();
        assert_eq!(config.train.beta2, 0.95);
        assert_eq!(config.masks.target_warmup(100), 20);
        let again = parse(&resolved_toml(&config).unwrap(), "resolved", &[]).unwrap();
        assert_eq!(config, again);
    }

    #[test]
    fn given_keys_are_those_of_the_file_and_of_the_overrides() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, MINIMAL).unwrap();
        let given = |sets: &[&str]| given_keys(&path, &sets.iter().map(|set| set.to_string()).collect::<Vec<_>>());
        let file = given(&[]).unwrap();
        assert!(
            file.contains(&"train.steps".to_string()) && !file.iter().any(|key| key.starts_with("masks")),
            "{file:?}"
        );
        let more = given(&["masks.preset=top-k", "train.steps=3"]).unwrap();
        assert_eq!(more.len(), file.len() + 1, "{more:?}");
        assert!(more.contains(&"masks.preset".to_string()));
        assert!(given(&["masks.presett=top-k"]).is_err());
    }

    #[test]
    fn a_run_of_a_version_without_methods_has_learned_its_masks() {
        let folder = tempfile::tempdir().unwrap();
        let saved = |text: &str| {
            let path = folder.path().join("resolved.toml");
            std::fs::write(&path, text).unwrap();
            load_saved(&path).unwrap().prune.method()
        };
        let old = "[run]\ndirectory = 'a'\n[model]\nsource = 'm'\n[target]\n[data]\npath = 'd'\n";
        assert_eq!(saved(old), PruneMethod::Learned);
        assert_eq!(saved(&format!("{old}[prune]\nmethod = 'taylor'\n")), PruneMethod::Taylor);
        let written_now = resolved_toml(&parse(old, "test", &[]).unwrap()).unwrap();
        assert_eq!(saved(&written_now), PruneMethod::Activations);
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
        let windows = format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"));
        assert_eq!(parse(&windows, "test", &[]).unwrap(), parse(MINIMAL, "test", &[]).unwrap());
        assert!(refused("\u{feff}{\"hidden_size\": 8}", &[]).contains("this is JSON"));
    }

    #[test]
    fn overrides_reach_any_key_and_create_tables() {
        let sets = [
            "train.steps=7",
            "run.device=cpu",
            "target.hidden_size=64",
            "mixer.proportions.a=0.5",
            "mixer.proportions.\"b.c\"=0.5",
            "run.directory=2026",
            "data.path=true",
        ];
        let config = parse(MINIMAL, "test", &sets.map(String::from)).unwrap();
        assert_eq!(config.train.steps, 7);
        assert_eq!(config.run.device, "cpu");
        assert_eq!(config.target.unwrap().hidden_size, Some(64));
        let proportions = config.mixer.proportions.unwrap();
        assert_eq!((proportions["a"], proportions["b.c"]), (0.5, 0.5));
        assert_eq!(
            (config.run.directory, config.data.path),
            ("2026".into(), "true".into()),
            "what a key wants is text"
        );
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        let message = refused(&MINIMAL.replace("learning_rate", "learning_rat"), &[]);
        assert!(
            message.contains("learning_rat") && message.contains("did you mean `train.learning_rate`?"),
            "{message}"
        );
        let message = refused(MINIMAL, &["train.stepz=3"]);
        assert!(
            message.starts_with("--set train.stepz=3: ") && message.contains("did you mean `train.steps`?"),
            "{message}"
        );
        for (set, meant) in [
            ("train.lr=1e-3", "`train.learning_rate`"),
            ("train.batch_size=8", "`train.batch_rows`"),
            ("train.max_steps=8", "`train.steps`"),
            ("train.seed=8", "`run.seed`"),
            ("seed=8", "`run.seed`"),
            ("optim.lr=8", "`train.learning_rate`"),
            ("optim.colour=8", "`train`"),
            ("data.dataset=x", "`data.path`"),
            ("model.name_or_path=x", "`model.source`"),
            ("model.random.n_layers=2", "`model.random.num_hidden_layers`"),
            ("mixer.proportion.a=0.5", "`mixer.proportions`"),
        ] {
            let message = refused(MINIMAL, &[set]);
            assert!(message.starts_with(&format!("--set {set}: ")), "{message}");
            assert!(message.contains(&format!("did you mean {meant}?")), "{set}: {message}");
        }
        let message = refused(MINIMAL, &["train.colour=8"]);
        assert!(!message.contains("did you mean"), "{message}");
    }

    #[test]
    fn a_kind_under_another_name_is_refused_with_the_right_list() {
        for (set, list, meant) in [
            ("run.dtype=bfloat16", "\"fp32\" or \"bf16\"", "did you mean \"bf16\"?"),
            ("run.dtype=torch.float32", "\"fp32\" or \"bf16\"", "did you mean \"fp32\"?"),
            ("run.dtype=float16", "\"fp32\" or \"bf16\"", "fp16 is only for written checkpoints (prune.dtype"),
            ("prune.dtype=float16", "\"fp32\", \"bf16\" or \"fp16\"", "did you mean \"fp16\"?"),
            ("checkpoint.export_dtype=BF16", "\"fp32\", \"bf16\" or \"fp16\"", "did you mean \"bf16\"?"),
            ("train.moments=bfloat16", "\"fp32\"", "did you mean \"bf16\"?"),
        ] {
            let message = refused(MINIMAL, &[set]);
            assert!(message.contains(list) && message.contains(meant), "{set}: {message}");
            assert!(!set.starts_with("run.") || !message.contains("\"fp16\""), "{message}");
        }
        let message = refused(MINIMAL, &["data.sequence_length=512"]);
        assert!(message.contains("shearling data prepare --sequence-length"), "{message}");
        let message = refused(MINIMAL, &["learning_rate=1e-4"]);
        assert!(message.contains("did you mean `train.learning_rate`?"), "{message}");
        let message = refused(&MINIMAL.replace("[model]", "dtype = 'half'\n[model]"), &[]);
        assert!(message.contains("line 4") && message.contains("fp16 is only for written"), "{message}");
    }

    #[test]
    fn a_bad_override_says_how_to_write_it() {
        for text in ["train.steps", ".x=1", "train.steps.more=1"] {
            let message = refused(MINIMAL, &[text]);
            assert!(message.contains("--set table.key=value"), "{message}");
        }
    }
}
